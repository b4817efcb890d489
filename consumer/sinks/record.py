"""The log beside the Record, where the producer follows it: bounded, its head and its tail kept."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple

import structlog
from redis.exceptions import RedisError

from consumer.logs.marks import cut_at
from consumer.model import Claim, Gap, LogPosition, Marks, Place
from consumer.newlines import newlines
from consumer.ports import Records
from enqueue.errors import QueueUnavailable
from enqueue.wire.records import EMPTY_DIGEST, digest_after

ENTRY = 64 * 1024
"""Bytes of one entry at most: whole lines, unless a single line is longer."""

FEW, ROOM = 256, 128
"""Marks of an entry's lines: so many at most, and one more for each so many bytes of it. Of more, every other goes."""

_RETRIED = (RedisError, QueueUnavailable, OSError)  # OSError: ConnectionError and TimeoutError too
_log = structlog.get_logger("longshore.sinks.record")


class _Entry(NamedTuple):
    """An entry that may be dropped again."""

    sequence: int
    after: int
    lines: int
    bytes: int


_NOTHING: deque[_Entry] = deque(maxlen=0)
"""The tail of all logs that have none: one of its own would be 700 bytes."""


class RecordSink:
    """A Sink that writes to `Records` and keeps at most `max_bytes` there.

    The first half of that stays for good; of what follows the newest stays, the oldest is dropped and counted in a gap
    {reason: "cap", lines, bytes, after_line, digest}, with the digest of all before it. While the store is away,
    `write` waits and tries again (the pipeline's spool holds the log meanwhile); once asked to finish it gives up after
    `patience` seconds, and what it could not write is a gap {reason: "store_unavailable", ...}. `start`: where a
    former consumer stopped; its entries are kept and count against the cap. `tail`: bytes of the newest that are kept
    even beyond the cap. ClaimLost ends the sink.
    """

    def __init__(
        self,
        records: Records,
        claim: Claim,
        *,
        max_bytes: int = 10 * 1024 * 1024,
        patience: float = 30.0,
        start: LogPosition | None = None,
        tail: int = 0,
    ) -> None:
        start = start or LogPosition()
        self._records = records
        self._claim = claim
        self._entries = start.entries
        self._lines = start.lines - start.open
        self._bytes = start.bytes
        self._gaps: list[dict[str, Any]] = [dict(gap) for gap in start.gaps]
        self._cap: dict[str, Any] | None = None
        self._patience = patience
        former = max(start.bytes - sum(gap.get("bytes", 0) for gap in start.gaps), 0)
        self._head_room = max(max_bytes // 2 - former, 0)
        self._tail_room = max(max_bytes - max(max_bytes // 2, former), max_bytes // 4, tail)
        self._tail_bytes = 0
        self._tail = _NOTHING
        self._entry = min(ENTRY, max(max_bytes // 8, 1024))
        self._midline = start.open
        self._place = self._reached = start.place
        self._waiting = False
        self._deadline: float | None = None
        self._digest = start.digest if start.entries else EMPTY_DIGEST  # none, if a former consumer wrote none
        self._head_digest = self._digest
        self._at: float | None = None
        self._times: Marks = ()  # of the block that comes next
        self._marks: Marks = ()  # of the entry that is being written
        self._step = ""

    @property
    def position(self) -> LogPosition:
        """Entries written, lines and bytes received, and the gaps in what is stored."""
        gaps = [*self._gaps, self._cap] if self._cap else self._gaps
        return LogPosition(
            entries=self._entries,
            lines=self._lines + self._midline,
            bytes=self._bytes,
            gaps=tuple(sorted(map(dict, gaps), key=lambda gap: int(gap["after_line"]))),
            open=self._midline,
            place=self._reached,
            digest=self._digest,
            at=self._at,
            times=self._marks,
            step=self._step,
        )

    async def write(self, block: bytes, place: Place | None = None) -> None:
        """Store a block in entries of whole lines. Raises ClaimLost."""
        at, self._place, self._at = 0, place, time.time()
        marks, self._times = self._times, ()
        try:
            while at < len(block):
                end = min(at + self._entry, len(block))
                if end < len(block):
                    end = block.rfind(b"\n", at, end) + 1 or end
                data = block[at:end]
                lines = newlines(data)
                self._marks, marks = _divided(marks, lines, data) if marks else ((), ())
                await self._append(data, lines)
                at = end
        except BaseException:
            self._missed(block[at:])
            raise

    def missed(self, gap: Gap) -> None:
        """A part of the log that won't come."""
        self._gaps.append(gap.after(self._lines + self._midline))
        self._lines += gap.lines or 0
        self._bytes += gap.bytes or 0

    def timed(self, marks: Marks, step: str) -> None:
        """When the lines of the next block were written."""
        self._times, self._step = marks, step

    async def finish(self) -> None:
        """Write the log's end. Raises ClaimLost."""
        self._marks = ()
        self._deadline = asyncio.get_running_loop().time() + self._patience
        self._at = time.time()
        position = replace(self.position, entries=self._entries + 1)
        await self._try(lambda: self._records.end(self._claim, position))

    async def _append(self, data: bytes, lines: int) -> None:
        in_head = not self._tail and len(data) <= self._head_room
        if not in_head:
            await self._make_room(len(data))
        before = self._count(data, lines)
        self._entries += 1
        if self._place is not None and self._place.bytes <= self._bytes:
            self._reached = self._place
        position = self.position
        try:
            await self._try(lambda: self._records.append(self._claim, data, position))
        except BaseException:
            self._entries, self._lines, self._bytes, self._midline, self._reached = before
            raise
        if self._digest:
            if not in_head and not self._tail:
                self._head_digest = self._digest
            self._digest = digest_after(self._digest, data)
        if in_head:
            self._head_room -= len(data)
        else:
            if self._tail is _NOTHING:
                self._tail = deque()
            self._tail.append(_Entry(self._entries, self._lines - lines, lines, len(data)))
            self._tail_bytes += len(data)

    def _count(self, data: bytes, lines: int) -> tuple[int, int, int, bool, Place | None]:
        """Count what is to be stored; what was before."""
        before = self._entries, self._lines, self._bytes, self._midline, self._reached
        self._lines += lines
        self._bytes += len(data)
        self._midline = not data.endswith(b"\n")
        return before

    async def _make_room(self, size: int) -> None:
        """Drop the oldest entries behind the head: some more than needed, so that it isn't for every entry."""
        if self._tail_bytes + size <= self._tail_room:
            return
        dropped: list[_Entry] = []
        left = self._tail_bytes
        for entry in self._tail:
            if left + size <= self._tail_room - self._tail_room // 8:
                break
            dropped.append(entry)
            left -= entry.bytes
        if not dropped:
            return
        await self._try(lambda: self._records.drop(self._claim, [entry.sequence for entry in dropped]))
        for _ in dropped:
            self._tail.popleft()
        self._tail_bytes = left
        if self._cap is None:
            self._cap = {"reason": "cap", "lines": 0, "bytes": 0, "after_line": dropped[0].after}
            if self._digest:
                self._cap["digest"] = self._head_digest.hex()
        self._cap["lines"] += sum(entry.lines for entry in dropped)
        self._cap["bytes"] += sum(entry.bytes for entry in dropped)

    def _missed(self, data: bytes) -> None:
        lines = newlines(data)
        self._gaps.append(Gap("store_unavailable", lines, len(data)).after(self._lines))
        self._count(data, lines)

    async def _try(self, action: Callable[[], Awaitable[None]]) -> None:
        """Until the store takes it; raises its error if we are asked to finish and it has been away for too long."""
        delay = 0.05
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    await action()
                self._waiting = False
                return
            except _RETRIED as error:
                if self._deadline is not None and loop.time() + delay > self._deadline:
                    raise
                if not self._waiting:
                    self._waiting = True
                    _log.warning("log store is away, trying again", job=self._claim.id, error=repr(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)


def _divided(marks: Marks, lines: int, data: bytes) -> tuple[Marks, Marks]:
    """The marks of an entry with so many newlines, and those of what follows; each begins with one."""
    here, after = cut_at(marks, lines)
    if not after or after[0][0]:
        after.insert(0, (0, here[-1][1]))
    elif not data.endswith(b"\n"):
        here = (*here, (lines, after[0][1]))
    while len(here) > FEW + len(data) // ROOM:
        here = here[::2]
    return tuple(here), tuple(after)
