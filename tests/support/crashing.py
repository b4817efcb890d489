"""Real consumers as processes of their own that can be made to die at a step. The product knows nothing of it.

This file is also the program: a nursery that has everything imported already and forks a consumer per line of its
input, {"settings": {...}, "point": [step, when] or null, "log": path}. It answers {"pid": n} and {"pid": n, "code": n}.
A crash point wraps a seam from outside, and the process kills itself there with SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from support.consuming import until

Matches = Callable[..., bool]


def _always(*_: Any, **__: Any) -> bool:
    return True


def _request(method: str, kind: str) -> Matches:
    """A call of Api.request that changes something, no dry run."""

    def matches(_: Any, how: str, path: str, *, query: Any = None, **__: Any) -> bool:
        return how == method and f"/{kind}" in path and not query and not path.endswith("ls-check")

    return matches


def _status(*words: str) -> Matches:
    return lambda _self, _claim, record, **__: record.status.value in words


def _reply(_self: Any, commands: Sequence[bytes], *_: Any, **__: Any) -> bool:
    return any(command.startswith(b"PUSH") and b"ReportJobOutcome" in command for command in commands)


def points() -> dict[str, tuple[Any, str, Matches]]:
    """step -> (where, method, which calls)."""
    from consumer import run
    from consumer.executors.kubernetes.api import Api
    from consumer.executors.kubernetes.execution import PodExecution
    from consumer.queues.faktory import FaktoryQueue
    from consumer.queues.faktory_connection import Link
    from consumer.queues.faktory_records import FaktoryRecords
    from consumer.queues.faktory_settling import Delivery
    from consumer.queues.records import RecordStore
    from consumer.queues.rq import RqQueue

    return {
        "S5 detach": (PodExecution, "detach", _always),
        "S1 rq": (RqQueue, "claim", _always),
        "S1 fetched": (FaktoryRecords, "claim", _always),
        "S1 faktory": (FaktoryQueue, "claim", _always),
        "S2 plan": (run, "plan_of", _always),
        "S2 record": (RecordStore, "write", _status("starting")),
        "S3 create": (Api, "request", _request("POST", "pods")),
        "S4 secret": (Api, "request", _request("POST", "secrets")),
        "S5 running": (RecordStore, "write", _status("running")),
        "S5 log": (RecordStore, "append", _always),
        "S6 ended": (PodExecution, "wait", _always),
        "S6 log end": (RecordStore, "end", _always),
        "S7 outcome": (FaktoryRecords, "settle", _always),
        "S8 rq": (RqQueue, "settle", _always),
        "S8 faktory": (Delivery, "send", _always),
        "S8 reply": (Link, "exchange", _reply),
        "S9 delete": (Api, "request", _request("DELETE", "pods")),
    }


def die() -> None:
    """As the kernel would have it."""
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still() -> None:
    """As a paused machine would."""
    os.kill(os.getpid(), signal.SIGSTOP)


def install(step: str, when: str) -> None:
    """Die before or after the step, or stop there once; a claim that brings nothing is no step."""
    meet = die if when in ("before", "after") else stand_still
    owner, name, matches = points()[step]
    original = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if getattr(owner, name) is original or not matches(*args, **kwargs):
            return await original(*args, **kwargs)
        if "before" in when:
            setattr(owner, name, original)
            meet()
        result = await original(*args, **kwargs)
        if "after" in when and (name != "claim" or result):
            setattr(owner, name, original)
            meet()
        return result

    @functools.wraps(original)
    def wrapped_plain(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            die()
        result = original(*args, **kwargs)
        if "after" in when:
            die()
        return result

    setattr(owner, name, wrapped if asyncio.iscoroutinefunction(original) else wrapped_plain)


def _consume(order: dict[str, Any]) -> None:
    from consumer.app import run_consumer
    from consumer.settings import load_settings

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    if order["point"]:
        install(*order["point"])
    for place, value in (order.get("constants") or {}).items():
        module, _, name = place.rpartition(".")
        setattr(importlib.import_module(module), name, value)
    asyncio.run(run_consumer(load_settings(**order["settings"])))


def _fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        _consume(order)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


PRELOADED = (
    "consumer.app",
    "consumer.executors.kubernetes.executor",
    "consumer.executors.process",
    "consumer.queues.faktory_open",
    "consumer.queues.rq",
    "kubernetes.aio.config",
)


def _nursery() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    inner, outer = os.pipe()
    os.set_blocking(outer, False)
    signal.set_wakeup_fd(outer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    rest = b""
    print(json.dumps({"ready": True}), flush=True)
    while True:
        ready, _, _ = select.select([0, inner], [], [])
        if inner in ready:
            os.read(inner, 4096)
            with contextlib.suppress(ChildProcessError):
                while (found := os.waitpid(-1, os.WNOHANG))[0]:
                    children.discard(found[0])
                    print(json.dumps({"pid": found[0], "code": os.waitstatus_to_exitcode(found[1])}), flush=True)
        if 0 in ready:
            data = os.read(0, 2**16)
            if not data:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return
            *orders, rest = (rest + data).split(b"\n")
            for order in orders:
                pid = _fork(json.loads(order))
                children.add(pid)
                print(json.dumps({"pid": pid}), flush=True)


class Consumer:
    """A consumer process; `code` is its exit code (-9: killed) once it has ended."""

    def __init__(self, pid: int, code: asyncio.Future[int], log: Path) -> None:
        self.pid, self.code, self.log = pid, code, log

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    async def ended(self, seconds: float = 30) -> int:
        """Its exit code, once it has ended."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self.code)
        except TimeoutError:
            raise AssertionError(f"it doesn't end; its log:\n{self.text()[-4000:]}") from None

    async def started(self) -> None:
        """Waits until it claims."""
        await until(lambda: "consumer_started" in self.text() or self.code.done())

    def text(self) -> str:
        """Its own log."""
        return self.log.read_text() if self.log.exists() else ""


class Nursery:
    """Starts consumers; all are killed when it is left."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self._process, self._directory = process, directory
        self._codes: dict[int, asyncio.Future[int]] = {}
        self._born: asyncio.Queue[int] = asyncio.Queue()
        self._lock, self._numbers = asyncio.Lock(), itertools.count()

    async def start(
        self, settings: dict[str, Any], point: tuple[str, str] | None = None, constants: dict[str, Any] | None = None
    ) -> Consumer:
        """Start a consumer; `constants`: module constants by their full names."""
        log = self._directory / f"{settings['name']}-{next(self._numbers)}.log"
        order = {"settings": settings, "point": point, "log": str(log), "constants": constants}
        assert self._process.stdin is not None
        async with self._lock:
            self._process.stdin.write(json.dumps(order, default=str).encode() + b"\n")
            pid = await self._born.get()
            code = self._codes.setdefault(pid, asyncio.get_running_loop().create_future())
            return Consumer(pid, code, log)

    async def empty(self) -> None:
        """Kill all that still live."""
        for pid, code in self._codes.items():
            if not code.done():
                os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*self._codes.values())

    async def listen(self) -> None:
        """Hear of births and deaths."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "code" not in said:
                self._born.put_nowait(said["pid"])
                continue
            self._codes.setdefault(said["pid"], asyncio.get_running_loop().create_future()).set_result(said["code"])


@contextlib.asynccontextmanager
async def nursery(directory: Path) -> AsyncIterator[Nursery]:
    """A nursery for the time of the block."""
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from support.crashing import _nursery; _nursery()",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment, cwd=directory,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    found = Nursery(process, directory)
    listening = asyncio.create_task(found.listen())
    try:
        yield found
    finally:
        process.stdin.close()
        await process.wait()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
