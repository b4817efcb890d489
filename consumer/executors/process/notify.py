"""Says when a file in a job's directory has changed: one inotify descriptor for all jobs of a consumer."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

_MODIFY = 2
_NONBLOCK_CLOEXEC = 0o2004000
_EVENT = struct.Struct("iIII")
PAUSE = 0.1
"""Seconds between two looks where the kernel can't tell: other systems, or no watches left."""

Listener = Callable[[str], None]
"""Called with the name of the file that has changed; empty: look at all of them."""


class Notifier:
    """Watches directories. Needs a running loop."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._listeners: dict[int, Listener] = {}
        self._polled: dict[Path, Listener] = {}
        self._poller: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        try:
            self._handle: int = self._libc.inotify_init1(_NONBLOCK_CLOEXEC)
        except AttributeError:
            self._handle = -1
        if self._handle >= 0:
            self._loop.add_reader(self._handle, self._read)

    def watch(self, directory: Path, listener: Listener) -> Callable[[], None]:
        """Call `listener` from now on; what is returned ends that."""
        number = -1
        if self._handle >= 0:
            number = self._libc.inotify_add_watch(self._handle, os.fsencode(directory), _MODIFY)
        if number < 0:
            self._polled[directory] = listener
            if self._poller is None:
                self._poller = asyncio.create_task(self._poll())
            return lambda: self._forget(directory)
        self._listeners[number] = listener
        return lambda: self._end(number)

    def close(self) -> None:
        """No more calls."""
        if self._poller is not None:
            self._poller.cancel()
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1
        self._listeners.clear()

    def _forget(self, directory: Path) -> None:
        self._polled.pop(directory, None)

    def _end(self, number: int) -> None:
        if self._listeners.pop(number, None) is not None:
            self._libc.inotify_rm_watch(self._handle, number)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._handle, 65536)
            at = 0
            while at < len(data):
                number, _, _, size = _EVENT.unpack_from(data, at)
                at += _EVENT.size + size
                name = data[at - size : at].rstrip(b"\0").decode("utf-8", "replace")
                if number == -1:  # more news than the kernel keeps
                    for listener in tuple(self._listeners.values()):
                        listener("")
                elif (found := self._listeners.get(number)) is not None:
                    found(name)

    async def _poll(self) -> None:
        while True:
            for listener in tuple(self._polled.values()):
                listener("")
            await asyncio.sleep(PAUSE)
