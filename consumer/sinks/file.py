"""Logs as files: written at their offset, so that a repeat does no harm, and whoever goes on finds their end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from consumer.sinks.hand import Hand
from consumer.storing import Away, Broken

CLEAN_SECONDS = 3600.0
"""Between two looks for files that are too old."""

LASTING = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EFBIG,
})  # fmt: skip
"""Errors that don't pass by themselves."""

T = TypeVar("T")


class FileTarget:
    """A log, or another file, below `directory`. Folders are made with mode 0700, files with 0600."""

    part = 1
    resumes = True

    def __init__(self, directory: Path, path: str, hand: Hand, *, fresh: bool, whole: bool = False) -> None:
        """`fresh`: what lies there is replaced. `whole`: a part of it is worth nothing, and is deleted."""
        self._path = directory.absolute() / path
        self._hand = hand
        self._fresh, self._whole = fresh, whole
        self._handle: int | None = None
        self.url: str | None = self._path.as_uri()

    async def stored(self) -> int:
        """The file's length."""
        return await self._do(lambda: os.fstat(self._open()).st_size)

    async def put(self, offset: int, data: bytes, *, last: bool) -> None:
        """Write at the offset."""
        await self._do(lambda: _write(self._open(), offset, data))

    async def close(self, size: int) -> None:
        """Have it on the disk."""

        def sync() -> None:
            os.fsync(self._open())
            self._close()

        await self._do(sync)

    async def abandon(self) -> None:
        """Close it, and don't wait for that: the disk may hang."""

        def let_go() -> None:
            if self._handle is not None and self._whole:
                os.unlink(self._path)
            self._close()

        self._hand.later(let_go)

    def _open(self) -> int:
        if self._handle is None:
            make_folders(self._path.parent)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if self._fresh else 0)
            self._handle = os.open(self._path, flags, 0o600)
            self._fresh = False
        return self._handle

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    async def _do(self, action: Callable[[], T]) -> T:
        try:
            return await self._hand.do(action)
        except OSError as error:
            kind = Broken if error.errno in LASTING else Away
            raise kind(f"{self._path}: {error.strerror}") from None


def make_folders(path: Path) -> None:
    """The folder and those above it, each for our user alone. Raises OSError."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


def _write(handle: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        offset += written
        view = view[written:]


class Cleaner:
    """Deletes what is older than `max_age` seconds below a directory, now and then, in a hand of its own."""

    def __init__(self, directory: Path, max_age: float) -> None:
        self._directory, self._max_age = directory, max_age
        self._hand = Hand("clean")
        self._next = 0.0
        self._task: asyncio.Future[int] | None = None

    def look(self) -> None:
        """Clean, if it is time again; nobody waits for it."""
        if not self._max_age or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + CLEAN_SECONDS
        self._task = asyncio.ensure_future(self._hand.do(lambda: clean(self._directory, self._max_age)))


def clean(directory: Path, max_age: float) -> int:
    """Delete regular files older than `max_age` seconds, and folders that are then empty; how many. Follows no link."""
    deleted, limit = 0, time.time() - max_age
    for folder, folders, names in os.walk(directory, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if os.lstat(path).st_mtime < limit and not os.path.islink(path):
                    os.unlink(path)
                    deleted += 1
        for name in folders:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # a folder that isn't empty stays; a young one may be about to be filled
                if os.lstat(path).st_mtime < limit and not os.path.islink(path):
                    os.rmdir(path)
    return deleted
