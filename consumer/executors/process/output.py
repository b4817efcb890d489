"""Reads a log that a job's processes write into a file: as it grows, as fast as it comes, and always to its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from consumer.executors.process.journal import Journal
from consumer.model import Gap, LogPart, Place

CHUNK = 256 * 1024
"""Bytes read at a time."""


class Output:
    """The log of one attempt. `changed` wakes the reader; after `ended` nothing is written any more.

    Its Places are `<bytes>:<lines>` from the file's beginning.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path = path
        self._journal = journal
        self._changed = asyncio.Event()
        self._ended = False

    def changed(self) -> None:
        """The file has grown."""
        self._changed.set()

    def ended(self) -> None:
        """It won't grow any more."""
        self._ended = True
        self._changed.set()

    async def read(self, after: str) -> AsyncGenerator[LogPart, None]:
        """The output from what is left of its beginning to its end. To be iterated once."""
        at, lines, mark, known = 0, 0, *_place(after)
        try:
            handle = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            while True:
                ended = self._ended  # asked first: what was written before the end is in the file by now
                self._changed.clear()
                room = mark - at if at < mark else CHUNK
                chunk = os.pread(handle, min(CHUNK, room), at)
                self._journal.read()
                dropped = self._journal.dropped
                if dropped > at:  # even what was just read may be a part of the hole
                    if dropped > mark:
                        at, lines = max((at, lines), (mark, known))
                        yield Gap("output_dropped", self._journal.dropped_lines - lines, dropped - at)
                    at, lines = dropped, self._journal.dropped_lines
                    if dropped == mark:
                        yield Place(after)
                    continue
                if chunk:
                    end = chunk.rfind(b"\n") + 1
                    chunk = chunk[:end] if end and at + len(chunk) != mark else chunk
                    at += len(chunk)
                    lines += chunk.count(b"\n")
                    yield chunk
                    if end == len(chunk):
                        yield Place(after if at == mark else f"{at}:{lines}")
                    await asyncio.sleep(0)
                elif ended:
                    return
                else:
                    await self._changed.wait()
        finally:
            os.close(handle)


def _place(after: str) -> tuple[int, int]:
    """Bytes and lines of a Place; those of the file's beginning if it is none of ours."""
    size, _, lines = after.partition(":")
    return (int(size), int(lines)) if size.isdecimal() and lines.isdecimal() else (0, 0)
