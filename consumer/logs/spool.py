"""Holds what was read of a log until it is shipped: bounded, and never making the reader wait."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Hole:
    """Blocks that were dropped here."""

    lines: int = 0
    bytes: int = 0


class Spool:
    """A queue of blocks of whole lines for one writer and one reader.

    When it is full, its oldest blocks are dropped: the head of the log has been shipped by then, the tail is still
    wanted. A Hole stands in the place of what was dropped.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: deque[bytes | Hole] = deque()
        self._bytes = 0
        self._cut = False  # what was dropped last ended within a line: the rest of that line goes too
        self._changed = asyncio.Event()
        self.closed = False

    def put(self, block: bytes) -> None:
        """Add a block; never waits."""
        if self._cut:
            if not self._blocks:
                self._blocks.append(Hole())
            self._lose(self._blocks[-1], block)
            self._changed.set()
            return
        self._blocks.append(block)
        self._bytes += len(block)
        if self._bytes > self._size:
            self._drop()
        self._changed.set()

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = True
        self._changed.set()

    async def wait(self) -> None:
        """Until there is something to take, or nothing more comes."""
        while not self._blocks and not self.closed:
            self._changed.clear()
            await self._changed.wait()

    def take(self, limit: int) -> bytes | Hole | None:
        """The oldest blocks, joined up to about `limit` bytes, or a Hole; None if there is nothing now."""
        if not self._blocks:
            return None
        first = self._blocks.popleft()
        if isinstance(first, Hole):
            return first
        blocks, size = [first], len(first)
        while self._blocks and size < limit and isinstance(after := self._blocks[0], bytes):
            blocks.append(after)
            size += len(after)
            self._blocks.popleft()
        self._bytes -= size
        return first if len(blocks) == 1 else b"".join(blocks)

    def _drop(self) -> None:
        """Drop the oldest quarter, and on to the end of a line."""
        first = self._blocks[0]
        if isinstance(first, Hole):
            hole = first
            self._blocks.popleft()
        else:
            hole = Hole()
        target = self._size * 3 // 4
        while self._blocks and (self._bytes > target or self._cut):
            block = self._blocks.popleft()
            self._bytes -= len(block) if isinstance(block, bytes) else 0
            self._lose(hole, block)
        self._blocks.appendleft(hole)

    def _lose(self, hole: bytes | Hole, block: bytes | Hole) -> None:
        assert isinstance(hole, Hole)
        assert isinstance(block, bytes)  # a Hole stands only at the front, and that one was taken
        hole.bytes += len(block)
        hole.lines += block.count(b"\n")
        self._cut = not block.endswith(b"\n")
