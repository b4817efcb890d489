"""A benchmark that is told to stop (SIGTERM, SIGINT) ends what it started and removes what it made, as at its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

_processes: list[subprocess.Popen[Any]] = []
_stopped = False


def spawn(command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """A process that is told to end with us. Raises RuntimeError if we have been told to."""
    if _stopped:
        raise RuntimeError("the benchmark was stopped")
    _processes[:] = [process for process in _processes if process.poll() is None]
    process = subprocess.Popen(command, **options)
    _processes.append(process)
    return process


async def in_thread(work: Callable[..., Any], *args: Any) -> None:
    """Work that blocks; it is over when this returns, however it returns."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # its processes have ended under it
            await working
        raise


def run(main: Coroutine[Any, Any, None]) -> None:
    """As asyncio.run; a signal cancels `main` once, whose clean-up isn't disturbed by another one."""

    async def whole() -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop() -> None:
            global _stopped
            if not _stopped:
                _stopped = True
                print("stopped: removing what was made", file=sys.stderr, flush=True)
                for process in _processes:
                    if process.poll() is None:
                        process.terminate()
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        await main

    try:
        asyncio.run(whole())
    except asyncio.CancelledError:
        sys.exit(130)
