"""Waiting for processes without a thread each, and ending whole process groups."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess


async def ended(process: subprocess.Popen[bytes]) -> None:
    """Until the process has ended; on Linux it isn't reaped yet, so its number can't be taken by another one."""
    if not hasattr(os, "pidfd_open"):
        await asyncio.to_thread(process.wait)
        return
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:  # too many open files: no reason to lose sight of a job
        while not _over(process.pid):  # noqa: ASYNC110 (no event tells without a file)
            await asyncio.sleep(0.1)
        return
    over = asyncio.Event()
    loop.add_reader(handle, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _over(pid: int) -> bool:
    """It has ended; it isn't reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


async def reap(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that has ended or was killed; negative: the signal."""
    code = process.poll()
    while code is None:  # killed a moment ago: the kernel isn't done yet
        await asyncio.sleep(0.005)
        code = process.poll()
    return code


def kill_group(number: int, *, kill: bool) -> None:
    """TERM, or KILL, to a process group; nothing if it is gone."""
    try:
        os.killpg(number, signal.SIGKILL if kill else signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        pass
