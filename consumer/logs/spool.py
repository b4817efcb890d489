"""Holds what was read of logs until it is shipped: bounded, and never making a reader wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from consumer.model import Gap, Marks, Place
from consumer.tasks import Bell


class Piece(NamedTuple):
    """What comes out of a Spool: data, then a place in the source if the data ends there; or a gap.

    `lines`: newlines in the data. `marks`, `step`: when its lines were written, and by which step, if that is known.
    """

    data: bytes = b""
    lines: int = 0
    marks: Marks = ()
    step: str = ""
    place: Place | None = None
    gap: Gap | None = None
    resumed: bool = False
    """What comes now is new: a former consumer stored what came before."""


SLOW = 2.0
"""Seconds without anything taken after which whoever may wait for room doesn't: that is no slow store, but one away."""

SHARE = 1024 * 1024
"""Bytes that each may hold, however full the others are, before it waits for room."""

_NOTHING: deque[Piece] = deque(maxlen=0)
"""What every empty spool shares: one of its own would be 700 bytes, of thousands that never hold anything."""


class Memory:
    """The bytes that all spools together may hold. When it is used up, the fullest one drops its oldest."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.lines = self.bytes = 0
        """What has come through, of all logs."""
        self._filled: set[Spool] = set()

    def count(self, spool: Spool, change: int) -> None:
        """A spool holds more, or less."""
        self.used += change
        if spool.bytes:
            self._filled.add(spool)
        else:
            self._filled.discard(spool)
        while change > 0 and self.used > self.limit and self._filled:
            max(self._filled, key=lambda filled: filled.bytes).shrink()

    def lag(self, now: float) -> float:
        """For how many seconds nothing was taken from the spool that waits the longest; `now` by the loop's clock."""
        return max((now - spool.since for spool in self._filled), default=0.0)


class Spool:
    """A queue of blocks of whole lines for one writer and one reader.

    When it is full, its oldest blocks are dropped: the head of the log has been shipped by then, the tail is still
    wanted. A gap stands in the place of what was dropped.
    """

    def __init__(self, size: int, memory: Memory | None = None) -> None:
        self._size = size
        self._memory = memory
        self._pieces = _NOTHING
        self._cut = False  # what was dropped last ended within a line: the rest of that line goes too
        self._changed = Bell()
        self.bytes = 0
        self.since = 0.0
        """Since when nothing was taken, by the loop's clock; of an empty one it says nothing."""
        self.closed = False
        self._taken: Bell | None = None  # for the few that wait for room

    def put(self, block: bytes, lines: int = 0, marks: Marks = (), step: str = "") -> None:
        """Add a block; never waits."""
        if self._cut:
            self._lose(Piece(block, lines))
        else:
            self._add(Piece(block, lines, marks, step))
            if not self.bytes:
                self.since = asyncio.get_running_loop().time()
            self._count(len(block))
            if self.bytes > self._size:
                self.shrink()
        self._changed.ring()

    def mark(self, place: Place) -> None:
        """What was put ends at this place of the source."""
        last = self._pieces[-1] if self._pieces else None
        if last is None or last.resumed:
            self._add(Piece(place=place))
        else:
            self._pieces[-1] = last._replace(place=place)
        self._changed.ring()

    def tell(self, gap: Gap | None) -> None:
        """A gap of the source's own; None: from here on all is new."""
        self._add(Piece(gap=gap, resumed=gap is None))
        self._cut = False
        self._changed.ring()

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = True
        self._changed.ring()

    def clear(self) -> None:
        """Nobody wants the rest."""
        self._pieces.clear()
        self._count(-self.bytes)

    async def wait(self) -> None:
        """Until there is something to take, or nothing more comes."""
        while not self._pieces and not self.closed:
            await self._changed.wait()

    async def room(self) -> None:
        """Until half of it is free, and half of what all may hold, as long as something is taken at all."""
        loop = asyncio.get_running_loop()
        while self._crowded and (until := self.since + SLOW) > loop.time():
            self._taken = self._taken or Bell()
            try:
                async with asyncio.timeout_at(until):
                    await self._taken.wait()
            except TimeoutError:
                continue

    @property
    def _crowded(self) -> bool:
        memory = self._memory
        shared = memory is not None and memory.used > memory.limit // 2 and self.bytes > SHARE
        return shared or self.bytes > self._size // 2

    def take(self, limit: int) -> Piece | None:
        """The oldest piece, blocks of one step joined up to `limit` bytes; None if there is nothing now."""
        if not self._pieces:
            return None
        first = self._pieces.popleft()
        if first.gap is not None or first.resumed:
            return first
        blocks, size, lines, place, marks = [first.data], len(first.data), first.lines, first.place, [*first.marks]
        while self._pieces and size + len((after := self._pieces[0]).data) <= limit:
            if after.gap is not None or after.resumed or after.step != first.step:
                break
            blocks.append(after.data)
            marks += [(lines + line, at) for line, at in after.marks]
            size, lines, place = size + len(after.data), lines + after.lines, after.place
            self._pieces.popleft()
        self._count(-size)
        if self.bytes:
            self.since = asyncio.get_running_loop().time()
        if self._taken is not None:
            self._taken.ring()
        data = first.data if len(blocks) == 1 else b"".join(blocks)
        return Piece(data, lines, tuple(marks), first.step, place)

    def shrink(self) -> None:
        """Drop the oldest quarter of what is held, and on to the end of a line."""
        keep = self.bytes * 3 // 4
        hole, resumed = Piece(), False
        while self._pieces and (self.bytes > keep or self._cut):
            piece = self._pieces.popleft()
            self._count(-len(piece.data))
            if piece.data:
                self._cut = not piece.data.endswith(b"\n")
            hole, resumed = _merged(hole, piece), resumed or piece.resumed
        self._pieces.appendleft(hole._replace(resumed=resumed))

    def _add(self, piece: Piece) -> None:
        if self._pieces is _NOTHING:
            self._pieces = deque()
        self._pieces.append(piece)

    def _lose(self, piece: Piece) -> None:
        """The rest of a line whose beginning was dropped."""
        last = self._pieces.pop() if self._pieces else Piece()
        self._add(_merged(last, piece))
        self._cut = not piece.data.endswith(b"\n")

    def _count(self, change: int) -> None:
        self.bytes += change
        if self._memory is not None:
            self._memory.count(self, change)


def _merged(hole: Piece, piece: Piece) -> Piece:
    """A gap in the place of two pieces; it ends where the second one does."""
    lines, size = piece.lines, len(piece.data)
    for gap in (hole.gap, piece.gap):
        lines, size = lines + ((gap and gap.lines) or 0), size + ((gap and gap.bytes) or 0)
    return Piece(place=piece.place, gap=Gap("spool_full", lines, size))
