"""`longshore demo`: a private server, a consumer, four jobs, their logs as they run, their outcomes in a table.

All of it lives under `.longshore-demo` in the current directory, which is removed at the end, as are the processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.embedded import EmbeddedServer
from enqueue import Handle, Job, Outcome, Producer, Record, Status, UsageError, connect
from enqueue.files import load_job
from enqueue.show import COLOURS

DIRECTORY = Path(".longshore-demo")
JOBS = Path(__file__).parent / "demo_jobs"
NAMES = ("succeeds", "fails", "secret", "cancelled")
PATIENCE = 60.0
"""Seconds until the demo gives up; it takes about five."""

_PREFIXES = {"succeeds": "green", "fails": "red", "secret": "magenta", "cancelled": "yellow"}


def run_demo() -> int:
    """Show it all; 0 if every job came out as it should. Raises SetupError, UsageError."""
    console = Console(highlight=False, soft_wrap=True)
    with _Signals() as signals, _directory(DIRECTORY) as directory, EmbeddedServer(directory / "server") as server:
        console.print(f"server    {server.binary} on a private socket, with an append-only file", style="dim")
        with _consumer(directory, server.url) as consumer, connect(server.url) as producer:
            console.print("consumer  longshore run --executor process --concurrency 4", style="dim")
            shows = [_Show(name, producer, console) for name in NAMES]
            for show in shows:
                show.start()
            problems = _wait(shows, consumer, signals)
        log = (directory / "consumer.log").read_text(errors="replace")
    console.print(_table(shows), soft_wrap=False)
    problems += [f"{show.name}: {problem}" for show in shows for problem in show.problems(log)]
    if not problems:
        console.print("Each job came out as it should. Consumer and server are stopped.", style="green")
        return 0
    for problem in problems:
        console.print(f"wrong: {problem}", style="red", markup=False)
    console.print("\n".join(["The end of the consumer's log:", *log.splitlines()[-30:]]), markup=False)
    return 1


class _Show(threading.Thread):
    """One job of the demo: enqueues it, prints its log as it comes, waits for its outcome."""

    def __init__(self, name: str, producer: Producer, console: Console) -> None:
        super().__init__(name=name, daemon=True)
        self.job: Job = load_job(str(JOBS / f"{name}.yaml"))
        self.log = b""
        self.record: Record | None = None
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self._producer = producer
        self._console = console
        self._seconds = 0.0

    def run(self) -> None:
        """The job from its start to its end."""
        try:
            handle = self._producer.enqueue(self.job)
            cancelled_at: float | None = None
            for part in handle.logs(follow=True):
                self.log += part
                self._print(part)
                if self.name == "cancelled" and cancelled_at is None:
                    self._say("cancelling it now: longshore cancel " + handle.id)
                    cancelled_at = time.monotonic()
                    handle.cancel()
            self._finish(handle)
            self._seconds = time.monotonic() - (cancelled_at or time.monotonic())
        except Exception as error:  # told in `problems`; when the demo is interrupted, its server goes away under us
            self.error = error

    def problems(self, consumer_log: str) -> Iterator[str]:
        """What isn't as it should be, in words."""
        outcome = self.outcome
        if self.error is not None or outcome is None or self.record is None:
            yield f"there is no outcome: {self.error or 'it has not ended'}"
            return
        status, reason, code = {
            "fails": (Status.FAILED, "exit_code", 3),
            "cancelled": (Status.CANCELLED, "requested", outcome.exit_code),
        }.get(self.name, (Status.SUCCEEDED, None, 0))
        if (outcome.status, outcome.reason, outcome.exit_code) != (status, reason, code):
            yield f"expected {status.value}, {reason}, exit code {code}"
        if self.name == "succeeds" and outcome.variables != {"version": "1.4.2", "parts": "4"}:
            yield f"expected its two variables, not {outcome.variables}"
        if self.name == "secret" and outcome.variables != {"login": "user:***"}:
            yield "its variable isn't masked"
        if self.name == "secret" and self.log.count(b"***") != 2:
            yield "its log should hold two masks"
        if self.name == "cancelled" and self._seconds > 5:
            yield f"it ended {self._seconds:.1f} s after it was cancelled"
        if b"never reached" in self.log or not self.log:
            yield "its log has too much or nothing in it"
        everything = self.log.decode(errors="replace") + self.record.model_dump_json() + consumer_log
        if any(secret in everything for secret in self.job.sensitive_values()):
            yield "a secret can be read"

    def _finish(self, handle: Handle) -> None:
        self.outcome = handle.wait(timeout=PATIENCE)
        self.record = handle.record

    def _print(self, part: bytes) -> None:
        for line in part.decode(errors="replace").splitlines():
            self._say(line, style="")

    def _say(self, line: str, style: str = "dim") -> None:
        self._console.print(Text.assemble((f"{self.name:>9} | ", _PREFIXES[self.name]), (line, style)))


def _wait(shows: list[_Show], consumer: subprocess.Popen[bytes], signals: _Signals) -> list[str]:
    """Until all jobs have ended; what went wrong, if they haven't. Raises what a signal asks for."""
    deadline = time.monotonic() + PATIENCE
    while any(show.is_alive() for show in shows):
        signals.check()
        if consumer.poll() is not None:
            return [f"the consumer ended with code {consumer.returncode}"]
        if time.monotonic() > deadline:
            return [f"not all jobs have ended after {PATIENCE:g} s"]
        time.sleep(0.05)
    return []


def _table(shows: list[_Show]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("job", "status", "reason", "exit code", "variables", "message"):
        table.add_column(heading, no_wrap=heading != "message")
    for show in shows:
        outcome = show.outcome
        if outcome is None:
            table.add_row(show.name, "unknown")
            continue
        table.add_row(
            Text(show.name, style=_PREFIXES[show.name]),
            Text(outcome.status.value, style=COLOURS[outcome.status]),
            outcome.reason or "",
            "" if outcome.exit_code is None else str(outcome.exit_code),
            Text("\n".join(f"{name}={value}" for name, value in outcome.variables.items())),
            Text(outcome.message or ""),
        )
    return table


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[Path]:
    """A fresh private directory that is gone afterwards."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        raise UsageError(
            f"{path} exists already: another demo runs here, or one was killed; in that case remove the directory"
        ) from None
    except OSError as error:
        raise UsageError(f"can't make {path} here: {error.strerror}") from None
    try:
        yield path.absolute()
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _consumer(directory: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """`longshore run` as a process of its own, as in real life."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
    environment["LONGSHORE_PROCESS_DIRECTORY"] = str(directory / "jobs")
    environment["LONGSHORE_PROCESS_DETACH"] = "false"  # nothing stays behind
    environment["LONGSHORE_SHUTDOWN_GRACE"] = "1"
    environment["LONGSHORE_JOBS_GRACE"] = "2"
    command = [sys.executable, "-m", "enqueue.cli", "run", "--queue-url", url, "--executor", "process"]
    command += ["--concurrency", "4", "--name", "demo"]
    with (directory / "consumer.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,  # a longshore.yaml of the current directory is not for us
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for us, who end it in order
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Signals:
    """Notes the first signal that asks for an end instead of raising anywhere: no process may slip through."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._former: dict[int, Any] = {}

    def check(self) -> None:
        """Raises KeyboardInterrupt or SystemExit if there was a signal."""
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number is not None:
            raise SystemExit(128 + self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number = self._number or number

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
