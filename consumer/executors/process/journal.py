"""What a shim writes down of its attempt, as the consumer reads it: line by line, as it comes.

{"shim": pid, "born": .., "boot": ..}    it holds the attempt
{"step": "main", "pid": .., "at": ..}    a step has begun
{"dropped": bytes, "lines": ..}          so much of the log's head is gone
{"end": "main", "code": .., "signal": .., "at": .., "why": ..}    or "error", "errno" and "what" if it didn't start
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

from consumer.executors.process.shim import identity

_LEFTOVER_SECONDS = 5.0


class Journal:
    """The journal of one attempt. Raises OSError if there is none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._handle = os.open(directory / "journal", os.O_RDWR)
        self._at = 0
        self._shim: dict[str, Any] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        self.end: dict[str, Any] | None = None
        """How the attempt ended; None: not yet."""
        self.dropped = self.dropped_lines = 0
        """Bytes and lines at the log's head that have been given back to the disk."""
        self.read()

    def close(self) -> None:
        """Free the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def read(self) -> None:
        """Take in what is new."""
        while self._handle >= 0:
            data = os.pread(self._handle, 65536, self._at)
            whole = data.rfind(b"\n") + 1
            if not whole:
                return
            self._at += whole
            for line in data[:whole].splitlines():
                self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        if "shim" in line:
            self._shim = line
        elif "step" in line:
            self._steps[line["step"]] = line
        elif "dropped" in line:
            self.dropped, self.dropped_lines = line["dropped"], line["lines"]
        elif "end" in line:
            self.end = line

    @property
    def begun(self) -> bool:
        """A shim has taken the attempt: nobody else may start it."""
        return bool(self._shim)

    @property
    def started_at(self) -> float | None:
        """The main step's start, in seconds since the epoch."""
        main = self._steps.get("main")
        return float(main["at"]) if main else None

    @property
    def kept(self) -> bool:
        """A shim holds the attempt. Before `begun` only for whoever will remove it."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        return False

    @property
    def rebooted(self) -> bool:
        """The shim ran before this host's last start (or in a container that is gone)."""
        boot = identity(os.getpid())["boot"]
        return boot is not None and self._shim.get("boot") is not None and boot != self._shim["boot"]

    def gone_handle(self) -> int | None:
        """A descriptor that is readable when the shim has ended; None if it can't be had (or it has)."""
        pid = self._shim.get("shim")
        if pid is None or not hasattr(os, "pidfd_open"):
            return None
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return None
        if self.rebooted or identity(pid)["born"] != self._shim["born"]:
            os.close(handle)
            return None
        return handle


def kill_leftovers(directory: Path) -> None:
    """Kill the processes of an attempt whose shim was killed: what the kernel didn't end with it. Blocking."""
    mark = b"\0LONGSHORE_OUTCOME=" + os.fsencode(directory / "outcome") + b"\0"
    until = time.monotonic() + _LEFTOVER_SECONDS
    found = True
    while found and time.monotonic() < until:
        found = False
        for name in os.listdir("/proc") if hasattr(os, "pidfd_open") and os.path.isdir("/proc") else ():
            if name.isdigit() and _marked(name, mark):
                found = True
                with contextlib.suppress(OSError):
                    _kill(int(name), mark)
        if found:
            time.sleep(0.01)


def _marked(name: str, mark: bytes) -> bool:
    try:
        with open(f"/proc/{name}/environ", "rb") as stream:
            return mark in b"\0" + stream.read() + b"\0"
    except OSError:
        return False


def _kill(pid: int, mark: bytes) -> None:
    handle = os.pidfd_open(pid)
    try:
        if _marked(str(pid), mark):  # still the one that was meant
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], 1)
    finally:
        os.close(handle)
