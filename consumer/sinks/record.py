"""The log beside the Record, where the producer follows it: bounded, its head and its tail kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import structlog
from redis.exceptions import RedisError

from consumer.model import Claim, LogPosition
from consumer.ports import Records
from enqueue.errors import QueueUnavailable

ENTRY = 64 * 1024
"""Bytes of one entry at most: whole lines, unless a single line is longer."""

_RETRIED = (RedisError, QueueUnavailable, OSError)  # OSError: ConnectionError and TimeoutError too
_log = structlog.get_logger("longshore.sinks.record")


class _Entry(NamedTuple):
    sequence: int
    lines: int
    bytes: int


class RecordSink:
    """A Sink that writes to `Records` and keeps at most `max_bytes` there.

    The first half of that stays for good; of what follows the newest stays, the oldest is dropped and counted in a gap
    {reason: "cap", lines, bytes, after_line}. While the store is away, `write` waits and tries again (the pipeline's
    spool holds the log meanwhile); once asked to finish it gives up after `patience` seconds, and what it could not
    write is a gap {reason: "store_unavailable", ...}. `start`: where a former consumer stopped; its entries are kept
    and count against the cap. ClaimLost ends the sink.
    """

    def __init__(
        self,
        records: Records,
        claim: Claim,
        *,
        max_bytes: int = 10 * 1024 * 1024,
        patience: float = 30.0,
        start: LogPosition | None = None,
    ) -> None:
        start = start or LogPosition()
        self._records = records
        self._claim = claim
        self._entries = start.entries
        self._lines = start.lines
        self._bytes = start.bytes
        self._gaps: list[dict[str, Any]] = [dict(gap) for gap in start.gaps]
        self._cap: dict[str, Any] | None = None
        self._patience = patience
        former = max(start.bytes - sum(gap.get("bytes", 0) for gap in start.gaps), 0)
        self._head_room = max(max_bytes // 2 - former, 0)
        self._tail_room = max(max_bytes - max(max_bytes // 2, former), max_bytes // 4)
        self._tail_bytes = 0
        self._tail: deque[_Entry] = deque()
        self._entry = min(ENTRY, max(max_bytes // 8, 1024))
        self._midline = False
        self._waiting = False
        self._deadline: float | None = None

    @property
    def position(self) -> LogPosition:
        """Entries written, lines and bytes received, and the gaps in what is stored."""
        gaps = [*self._gaps, self._cap] if self._cap else self._gaps
        return LogPosition(
            entries=self._entries,
            lines=self._lines + self._midline,
            bytes=self._bytes,
            gaps=tuple(sorted(gaps, key=lambda gap: int(gap["after_line"]))),
        )

    async def write(self, block: bytes) -> None:
        """Store a block in entries of whole lines. Raises ClaimLost."""
        at = 0
        try:
            while at < len(block):
                end = min(at + self._entry, len(block))
                if end < len(block):
                    end = block.rfind(b"\n", at, end) + 1 or end
                await self._append(block[at:end])
                at = end
        except BaseException:
            self._missed(block[at:])
            raise

    def missed(self, lines: int, size: int) -> None:
        """Lines and bytes that were dropped before they came here; only the readers of the log are told."""
        self._records.missed(self._claim, lines, size)

    async def finish(self) -> None:
        """Write the log's end with notes for its readers: `lines`, `bytes`, and lines `dropped`. Raises ClaimLost."""
        self._deadline = asyncio.get_running_loop().time() + self._patience
        position = self.position
        notes = {
            "lines": str(position.lines),
            "bytes": str(position.bytes),
            "dropped": str(sum(gap.get("lines", 0) for gap in position.gaps)),
        }
        await self._try(lambda: self._records.end(self._claim, self._entries + 1, notes))

    async def _append(self, data: bytes) -> None:
        lines = data.count(b"\n")
        sequence = self._entries + 1
        in_head = not self._tail and len(data) <= self._head_room
        if not in_head:
            await self._make_room(len(data))
        await self._try(lambda: self._records.append(self._claim, sequence, data))
        self._entries = sequence
        self._lines += lines
        self._bytes += len(data)
        self._midline = not data.endswith(b"\n")
        if in_head:
            self._head_room -= len(data)
        else:
            self._tail.append(_Entry(sequence, lines, len(data)))
            self._tail_bytes += len(data)

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
            first = self._lines - sum(entry.lines for entry in (*dropped, *self._tail))
            self._cap = {"reason": "cap", "lines": 0, "bytes": 0, "after_line": first}
        self._cap["lines"] += sum(entry.lines for entry in dropped)
        self._cap["bytes"] += sum(entry.bytes for entry in dropped)

    def _missed(self, data: bytes) -> None:
        lines = data.count(b"\n")
        gap = {"reason": "store_unavailable", "lines": lines, "bytes": len(data), "after_line": self._lines}
        self._gaps.append(gap)
        self._lines += lines
        self._bytes += len(data)
        self._midline = not data.endswith(b"\n")

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
