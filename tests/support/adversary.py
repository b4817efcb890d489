"""Jobs of every kind with what must become of them, and somebody who kills, stops and restarts their consumers.

All of it follows from a seed: which jobs, in which order, and which consumer is hit when and how. What the consumers
then do isn't the same every time; a seed merely makes a bad run likely to come again.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enqueue.record import Record

SECRET = "s3cret-that-nobody-may-see"
NO_IMAGE = "127.0.0.1:1/none:1"
LINE = re.compile(rb"(\d+) line (\d+)\n")


def lines(count: int, pause: float = 0) -> str:
    """A command that prints numbered lines, the attempt before each."""
    rest = f"; sleep {pause:g}" if pause else ""
    return f'i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo "$LONGSHORE_ATTEMPT line $i"{rest}; done'


def numbered(count: int, attempt: int = 1) -> list[bytes]:
    """What `lines` prints."""
    return [b"%d line %d\n" % (attempt, number) for number in range(1, count + 1)]


@dataclass(frozen=True)
class Case:
    """A job and what must become of it.

    `log`: all its lines; None: any number of the lines that `lines` prints, each attempt's from the first without a
    hole. `fate` is what happens to it meanwhile: `cancel_<when>`, `delete` or `evict` its first pod, `delay`, `raw`
    (`job` is a payload, not checked).
    """

    name: str
    job: dict[str, Any]
    status: str = "succeeded"
    reason: str | None = None
    exit_code: int | None = 0
    attempts: tuple[str | None, ...] = (None,)
    """The reason of each attempt."""
    log: list[bytes] | None = None
    variables: dict[str, str] = field(default_factory=dict)
    fate: str = ""
    gaps: bool = False
    """The log may have gaps: its pod is deleted while it writes."""
    may_end: bool = False
    """A cancel may come too late."""
    may_not_begin: bool = False
    """The queue itself may cancel it."""


def cases(rng: random.Random, *, retries: bool = True) -> list[Case]:
    """About thirty jobs of all kinds in a random order. `retries`: the queue gives failed jobs back soon."""
    found = [*_plain(rng), *_failing(rng), *_special(rng), *_stopped(rng)]
    if retries:
        found += [
            _failed("retried-in-vain", [lines(2), "exit 9"], 9, attempts=2, retries=1),
            Case(
                "retried",
                {"commands": [lines(4), "test $LONGSHORE_ATTEMPT = 2"], "retries": 3},
                attempts=("exit_code", None),
                log=[*numbered(4, 1), *numbered(4, 2)],
            ),
        ]
    rng.shuffle(found)
    return found


def _plain(rng: random.Random) -> Iterator[Case]:
    for number in range(4):
        count = rng.randint(1, 60)
        yield Case(f"ok-{number}", {"commands": [lines(count)]}, log=numbered(count))
    for number in range(5):
        count = rng.randint(20, 60)
        yield Case(f"slow-{number}", {"commands": [lines(count, 0.4)]}, log=numbered(count))
    # some runtimes (containerd 1.6) lose the end of a burst that is written right before the exit, for every reader
    yield Case("long-log", {"commands": [lines(30_000), "sleep 2"]}, log=numbered(30_000))
    yield Case("silent", {"commands": ["sleep 1"]}, log=[])
    yield Case("no-newline", {"commands": ["printf 'no newline'"]}, log=[b"no newline"])


def _failed(name: str, commands: list[str], code: int, *, attempts: int = 1, **fields: Any) -> Case:
    reason = "signal" if code > 128 else "exit_code"
    count = int(re.search(r"-lt (\d+)", commands[0])[1])  # type: ignore[index]
    log = [line for attempt in range(1, attempts + 1) for line in numbered(count, attempt)]
    return Case(name, {"commands": commands, **fields}, "failed", reason, code, (reason,) * attempts, log)


def _failing(rng: random.Random) -> Iterator[Case]:
    for number in range(2):
        code = rng.randint(1, 120)
        yield _failed(f"code-{number}", [lines(rng.randint(1, 30), 0.1), f"exit {code}"], code)
    kill = rng.choice([9, 11, 15])
    yield _failed("signal", [lines(3), f"exec 2>/dev/null; sh -c 'kill -{kill} $$'", "true"], 128 + kill)
    yield Case(
        "init-fails", {"init": {"commands": ["exit 4"]}, "commands": ["true"]}, "failed", "init_failed", 4,
        ("init_failed",), [],
    )  # fmt: skip
    yield _unstarted("no-image", "image_pull", image=NO_IMAGE)
    missing = [{"name": "A", "secret": "kept", "key": "absent"}]
    yield _unstarted("config", "config_error", secrets=missing)
    yield _unstarted("refused", "refused", service_account="somebody-else")
    yield _unstarted("room", "unschedulable", node_selector={"no": "where"}, start_timeout=5)
    yield Case(
        "invalid", {"image": "busybox", "commands": ["true"], "no_such_field": 1}, "failed", "invalid_job", None,
        ("invalid_job",), [], fate="raw",
    )  # fmt: skip


def _unstarted(name: str, reason: str, **fields: Any) -> Case:
    return Case(name, {"commands": ["true"], **fields}, "failed", reason, None, (reason,), [])


def _special(rng: random.Random) -> Iterator[Case]:
    count = rng.randint(3, 20)
    init = {"commands": ["echo from init; echo text > handed-over"]}
    yield Case(
        "init", {"init": init, "commands": [lines(count, 0.2), "cat handed-over"]},
        log=[b"from init\n", *numbered(count), b"text\n"],
    )  # fmt: skip
    text = "".join(f"1 line {number}\n" for number in range(1, 200))
    yield Case(
        "files", {"files": [{"path": "conf/a.txt", "contents": text}], "commands": ["cat conf/a.txt"]},
        log=numbered(199),
    )  # fmt: skip
    token = [{"name": "TOKEN", "value": SECRET, "sensitive": True}]
    said = [
        "echo the secret is $TOKEN",
        "sleep 3",
        "echo ::set-outcome-var said=$TOKEN",
        "echo f=$TOKEN >> $LONGSHORE_OUTCOME",
    ]
    yield Case(
        "secret", {"variables": token, "commands": said}, log=[b"the secret is ***\n"],
        variables={"said": "***", "f": "***"},
    )  # fmt: skip
    yield Case(
        "outcome-file", {"commands": ["echo a=1 >> $LONGSHORE_OUTCOME", lines(10, 0.3)]}, log=numbered(10),
        variables={"a": "1"},
    )  # fmt: skip
    yield Case(
        "variables", {"commands": ["echo ::set-outcome-var early=1", lines(20, 0.4), "echo ::set-outcome-var late=2"]},
        log=numbered(20), variables={"early": "1", "late": "2"},
    )  # fmt: skip
    yield Case("delayed", {"commands": [lines(3)]}, log=numbered(3), fate="delay")
    for fate, reason in (("delete", "pod_deleted"), ("evict", "evicted")):
        first_waits = f"if [ $LONGSHORE_ATTEMPT = 1 ]; then {lines(600, 0.5)}; fi"
        yield Case(
            fate, {"commands": [first_waits, lines(5, 0.2)], "infrastructure_retries": 2},
            attempts=(reason, None), fate=fate, gaps=True,
        )  # fmt: skip


def _stopped(rng: random.Random) -> Iterator[Case]:
    endless = {"commands": ["trap '' TERM", lines(6000, 0.2)]}
    yield Case(
        "deadline", {**endless, "timeout": rng.randint(2, 6)}, "failed", "deadline", 137, ("deadline",), gaps=True
    )
    yield Case(
        "cancel-queued",
        endless,
        "cancelled",
        "requested",
        None,
        ("requested",),
        gaps=True,
        fate="cancel_queued",
        may_not_begin=True,
    )
    for when in ("starting", "running"):
        yield Case(
            f"cancel-{when}", endless, "cancelled", "requested", None, ("requested",), gaps=True,
            fate=f"cancel_{when}",
        )  # fmt: skip
    yield Case(
        "cancel-finishing", {"commands": [lines(3)]}, "cancelled", "requested", None, ("requested",), gaps=True,
        fate="cancel_running", may_end=True,
    )  # fmt: skip


def wrong(case: Case, record: Record, log: bytes) -> list[str]:
    """What the Record and the log say that they mustn't, a sentence each."""
    told = (record.status.value, record.reason)
    wanted = [(case.status, case.reason)] + [("succeeded", None)] * case.may_end
    found = []
    if told not in wanted:
        found.append(f"{case.name} ended as {told}, not {wanted}: {record.message}")
    elif case.reason == "deadline" and record.exit_code is None:
        pass  # who stopped it was gone before it saw how it ended, and so was the pod
    elif case.status != "cancelled" and record.exit_code != case.exit_code:
        found.append(f"{case.name} has the exit code {record.exit_code}, not {case.exit_code}")
    reasons = tuple(attempt.reason for attempt in record.attempts)
    if case.fate == "evict" and reasons[:1] == ("pod_deleted",):  # nobody was awake to see why it went
        reasons = ("evicted", *reasons[1:])
    if (
        reasons != case.attempts
        and not (case.may_end and reasons == (None,))
        and not (case.may_not_begin and not reasons)
    ):
        found.append(f"{case.name} had the attempts {reasons}, not {case.attempts}")
    if [attempt.attempt for attempt in record.attempts] != list(range(1, len(reasons) + 1)):
        found.append(f"{case.name} counts {[attempt.attempt for attempt in record.attempts]}")
    if record.variables != case.variables:
        found.append(f"{case.name} has the variables {record.variables}, not {case.variables}")
    if record.log.gaps and not case.gaps:
        found.append(f"{case.name} has gaps: {record.log.gaps}")
    return [*found, *_wrong_log(case, log.splitlines(keepends=True))]


def _wrong_log(case: Case, stored: list[bytes]) -> Iterator[str]:
    if case.log is not None and stored != case.log:
        odd = next((n for n, (a, b) in enumerate(zip(stored, case.log, strict=False)) if a != b), len(stored))
        yield f"{case.name} has {len(stored)} lines, not {len(case.log)}; what differs: {stored[odd : odd + 3]}"
    if case.log is None:
        seen: dict[int, list[int]] = {}
        for line in stored:
            if match := LINE.fullmatch(line):
                seen.setdefault(int(match[1]), []).append(int(match[2]))
        for attempt, numbers in seen.items():
            restarts = numbers.count(1) if attempt > 1 else 1
            whole = list(range(1, len(numbers) + 1))
            if restarts == 1 and numbers != whole:
                yield f"{case.name} attempt {attempt}: lines are missing or repeated in {numbers[:50]}"


class Consumers:
    """`longshore run` as processes of their own, each with a name that begins with `prefix`."""

    def __init__(self, config: dict[str, Any], folder: Path, count: int, prefix: str = "consumer") -> None:
        self._prefix = prefix
        self._config, self._folder = folder / "longshore.yaml", folder
        self._config.write_text(json.dumps(config))
        self.slots: list[asyncio.subprocess.Process] = []
        self._count, self._started = count, 0
        self._all: list[asyncio.subprocess.Process] = []
        self.history: list[str] = []

    async def __aenter__(self) -> Consumers:
        self.slots = [await self._start() for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._all:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        self._started += 1
        name = f"{self._prefix}-{self._started}"
        command = ["-m", "enqueue.cli", "run", "--config", str(self._config), "--name", name]
        with (self._folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdout=log, stderr=log, cwd=self._folder
            )
        self._all.append(process)
        return process

    async def disturb(self, rng: random.Random, hits: int, pace: float = 1.0) -> None:
        """So many times something happens to one of them; afterwards all run again. `pace`: of all the pauses.

        The pauses aren't waits for anything: they are the moments at which it happens.
        """
        asleep: set[asyncio.Task[None]] = set()
        stopped: set[int] = set()
        for _ in range(hits):
            await asyncio.sleep(rng.uniform(0.5, 6) * pace)
            place, what = rng.randrange(len(self.slots)), rng.choice(["kill", "kill", "term", "stop", "stop"])
            pause, seconds = rng.uniform(0, 5) * pace, rng.uniform(1, 25) * pace
            if place in stopped:
                continue
            process = self.slots[place]
            self.history.append(f"{what} {process.pid}")
            if what == "stop":
                process.send_signal(signal.SIGSTOP)
                stopped.add(place)
                asleep.add(asyncio.create_task(self._wake(process, seconds, place, stopped)))
                continue
            process.send_signal(signal.SIGKILL if what == "kill" else signal.SIGTERM)
            await self._ended(process)
            await asyncio.sleep(pause)
            self.slots[place] = await self._start()
        if asleep:
            await asyncio.wait(asleep)

    async def _wake(self, process: asyncio.subprocess.Process, seconds: float, place: int, stopped: set[int]) -> None:
        await asyncio.sleep(seconds)
        process.send_signal(signal.SIGCONT)
        stopped.discard(place)

    async def terminate(self) -> None:
        """Ask all for their end; they must end well."""
        for process in self.slots:
            process.terminate()
        for process in self.slots:
            await self._ended(process)

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        """It is gone, and well, unless it was killed or had no time yet to hear of signals."""
        code = await asyncio.wait_for(process.wait(), 40)
        said = (self._folder / f"{self._prefix}-{self._all.index(process) + 1}.log").read_text()
        assert code in (0, -signal.SIGKILL) or (code == -signal.SIGTERM and not said), (code, said[-2000:])

    def logs(self) -> dict[str, str]:
        """What each consumer said."""
        return {path.name: path.read_text() for path in sorted(self._folder.glob(f"{self._prefix}-*.log"))}
