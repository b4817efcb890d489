"""The shim by itself: deadline, death, a log without bounds, secrets, two starters; and what is left of former runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import ExecutorFault, SetupError
from consumer.executors.process import executor as executor_module
from consumer.executors.process.base import open_base
from consumer.executors.process.directory import ended
from consumer.executors.process.executor import ProcessExecutor
from consumer.model import Gap, Place, Standing
from consumer.settings import Process
from enqueue.record import Reason, Tally
from support.consuming import until
from support.executors import Harness, process, read


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with process(tmp_path) as made:
        yield made
        for execution in made.executions:
            await execution.remove()


def attempt(tmp_path: Path) -> Path:
    (found,) = (path for path in (tmp_path / "jobs").iterdir() if not path.name.startswith("."))
    return found


def journal(tmp_path: Path) -> dict[str, Any]:
    """All lines of the only attempt's journal, later ones over former ones."""
    lines = (attempt(tmp_path) / "journal").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


async def test_the_deadline_holds_without_a_consumer(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.executors.process.request.DEADLINE_MARGIN", 0.0)
    plan = replace(
        harness.plan(commands=["trap 'echo told; exit 9' TERM", "while :; do sleep 0.05; done"]), timeout=0.3
    )
    await (await harness.executor.start(plan)).detach()
    await until(lambda: "end" in journal(tmp_path))
    execution = await harness.executor.start(replace(plan, begun=True))
    harness.executions.append(execution)
    exit = await execution.wait()
    assert (exit.code, exit.reason, exit.started) == (9, Reason.DEADLINE, True)
    assert b"told" in await read(execution)


@pytest.mark.parametrize("seen", [True, False])
async def test_a_shim_that_is_killed_takes_the_job_with_it(harness: Harness, tmp_path: Path, seen: bool) -> None:
    plan = harness.plan(commands=["sleep 1000 & echo $!; setsid sleep 1000 & echo $!; echo $$", "wait"])
    execution = await harness.executor.start(plan)
    log = b""
    async for part in execution.logs():
        log += part if isinstance(part, bytes) else b""
        if log.count(b"\n") == 3:
            break
    if not seen:
        await execution.detach()
    os.kill(journal(tmp_path)["shim"], signal.SIGKILL)
    if not seen:
        execution = await harness.executor.start(replace(plan, begun=True))
    harness.executions.append(execution)
    exit = await execution.wait()
    assert (exit.code, exit.reason, exit.started) == (None, Reason.EXECUTOR_ERROR, True)
    assert "was killed" in (exit.message or "")
    await until(lambda: not any(alive(int(pid)) for pid in log.split()))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_spawner_that_is_killed_takes_no_job_with_it_and_is_replaced(harness: Harness, tmp_path: Path) -> None:
    execution = await harness.start(f"echo ready; until test -e {tmp_path}/go; do sleep 0.05; done; exit 5")
    async for _ in execution.logs():
        break
    spawner = harness.executor._spawner._process  # type: ignore[attr-defined]
    spawner.kill()
    spawner.wait()
    exit, _ = await harness.run("exit 6")
    assert exit.code == 6
    (tmp_path / "go").touch()
    assert (await execution.wait()).code == 5


async def test_a_log_without_bounds_loses_its_head_and_says_so(tmp_path: Path) -> None:
    executor = ProcessExecutor(Process(directory=tmp_path / "jobs", output_bytes=1_000_000), "tester")
    await executor.open()
    harness = Harness("process", executor, lambda: asyncio.sleep(0, []))
    script = ["i=0; while [ $i -lt 30 ]; do i=$((i+1)); yes 0123456789 | head -n 10000; sleep 0.05; done; echo last"]
    plan = harness.plan(commands=script, count_output=True)
    await (await executor.start(plan)).detach()
    await until(lambda: "end" in journal(tmp_path))
    execution = await executor.start(replace(plan, begun=True))
    parts = [part async for part in execution.logs("11:1")]
    log = b"".join(part for part in parts if isinstance(part, bytes))
    (gap,) = (part for part in parts if isinstance(part, Gap))
    assert isinstance(parts[0], Gap)
    assert (gap.reason, gap.bytes, gap.lines) == (
        "output_dropped",
        (gap.lines or 0) * 11,
        300_001 - 1 - log.count(b"\n"),
    )
    assert log.endswith(b"0123456789\nlast\n")
    assert (await execution.wait()).written == Tally(lines=300_001, bytes=3_300_005)
    on_disk = (attempt(tmp_path) / "log").stat().st_blocks * 512
    assert on_disk < 2_500_000
    await execution.remove()
    await executor.close()


async def test_places_are_found_again(harness: Harness) -> None:
    plan = harness.plan(commands=["for i in 1 2 3; do echo $i; sleep 0.05; done; printf end"])
    execution = await harness.executor.start(plan)
    parts = [part async for part in execution.logs()]
    places = [part.at for part in parts if isinstance(part, Place)]
    assert places[-1] == "6:3"
    await execution.detach()
    adopted = await harness.executor.start(plan)
    harness.executions.append(adopted)
    again = [part async for part in adopted.logs("4:2")]
    assert again[:2] == [b"1\n2\n", Place("4:2")]
    assert b"".join(part for part in again if isinstance(part, bytes)) == b"1\n2\n3\nend"


def holding(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def known_of(pid: int) -> bytes:
    """What the host shows of a process."""
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


async def test_secrets_are_the_jobs_alone(harness: Harness, tmp_path: Path) -> None:
    secret = "hunter2-hunter2"
    variables = [{"name": "T", "value": secret, "sensitive": True}]
    execution = await harness.start("echo ready; sleep 1000", "true", variables=variables)
    async for _ in execution.logs():
        break
    await until(lambda: "pid" in journal(tmp_path))
    lines = journal(tmp_path)
    spawner = harness.executor._spawner._process.pid  # type: ignore[attr-defined]
    shown = {pid: known_of(pid) for pid in (lines["shim"], spawner, lines["pid"])}
    assert [pid for pid, known in shown.items() if secret.encode() in known] == [lines["pid"]]
    assert holding(tmp_path, secret) == []
    assert attempt(tmp_path).stat().st_mode & 0o777 == 0o700


async def test_a_consumer_that_dies_while_it_tells_the_plan_has_begun_nothing(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    real = loop.sock_sendall

    async def cut(sock: socket.socket, data: bytes) -> None:
        await real(sock, data[:-1])
        sock.shutdown(socket.SHUT_WR)

    monkeypatch.setattr(loop, "sock_sendall", cut)
    plan = harness.plan(commands=[f"touch {tmp_path}/never"])
    with pytest.raises(ExecutorFault, match="went away") as caught:
        await harness.executor.start(plan)
    assert not caught.value.started
    assert await harness.leftovers() == []
    assert not (tmp_path / "never").exists()


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(SetupError, match="alone"):
        open_base(tmp_path / "open")
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(SetupError, match="alone"):
        open_base(tmp_path / "link")


class Standings:
    """Records that say the same of every attempt."""

    source = "store"

    def __init__(self, standing: Standing) -> None:
        self.answer = standing

    async def standing(self, attempts: list[object]) -> list[Standing]:
        return [self.answer for _ in attempts]


async def test_what_is_left_of_settled_jobs_is_swept_and_nothing_else(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "SWEEP_SECONDS", -1.0)
    running = replace(harness.plan(commands=["sleep 1000"]), source="store")
    over = replace(harness.plan(commands=["true"]), source="store")
    foreign = replace(over, source="another store")
    executor = harness.executor
    assert isinstance(executor, ProcessExecutor)
    for plan in (running, over, foreign):
        execution = await executor.start(plan)
        if plan is not running:
            await execution.wait()
        await execution.detach()
    await until(lambda: len(ended(tmp_path / "jobs")) == 2)  # their shims are gone as well
    suspects: set[Path] = set()
    for standing, left in ((Standing.HELD, 3), (Standing.ENDED, 3), (Standing.ENDED, 2), (Standing.GONE, 2)):
        suspects = await executor._sweep(Standings(standing), suspects)  # type: ignore[arg-type]
        assert len(await harness.leftovers()) == left
    for plan in (running, foreign):
        harness.executions.append(await executor.start(replace(plan, begun=True)))
