"""Doubles for the log's path: sources that do as they are told, sinks that remember, Records in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from consumer.errors import ClaimLost
from consumer.model import Claim, LogPart, LogPosition, Place
from enqueue.record import Record


async def source(chunks: Iterable[LogPart], *, then: BaseException | None = None) -> AsyncIterator[LogPart]:
    """The chunks, one a turn of the loop, then an error if there is one."""
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)
    if then is not None:
        raise then


class Feed:
    """A source that a test drives."""

    def __init__(self) -> None:
        self._chunks: asyncio.Queue[LogPart | None] = asyncio.Queue()

    def send(self, chunk: LogPart) -> None:
        """Let the job write this."""
        self._chunks.put_nowait(chunk)

    def end(self) -> None:
        """Let the job end."""
        self._chunks.put_nowait(None)

    async def chunks(self) -> AsyncIterator[LogPart]:
        """The source."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk


class MemorySink:
    """Remembers its blocks; waits for `gate` before it takes one; fails from the n-th on if told so."""

    def __init__(self, *, fail_from: int | None = None) -> None:
        self.blocks: list[bytes] = []
        self.finished = 0
        self.calls = 0
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.written = asyncio.Condition()
        self._fail_from = fail_from

    @property
    def data(self) -> bytes:
        """All that was written."""
        return b"".join(self.blocks)

    async def write(self, block: bytes, place: Place | None = None) -> None:
        """Take a block."""
        self.calls += 1
        self.called.set()
        await self.gate.wait()
        if self._fail_from is not None and self.calls >= self._fail_from:
            raise RuntimeError("broken sink")
        async with self.written:
            self.blocks.append(block)
            self.written.notify_all()

    async def finish(self) -> None:
        """Note the end."""
        self.finished += 1

    async def until(self, data: bytes) -> None:
        """Waits until exactly this was written."""
        async with self.written:
            await asyncio.wait_for(self.written.wait_for(lambda: self.data == data), 30)


class MemoryRecords:
    """Records in memory; `away` makes every call fail, `lost` takes the claim away."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.entries: dict[int, bytes] = {}
        self.position = LogPosition()
        self.ends: list[LogPosition] = []
        self.drops = 0
        self.largest = 0
        self.away = False
        self.lost = False
        self.tried = asyncio.Event()

    @property
    def data(self) -> bytes:
        """The log as it is stored."""
        return b"".join(self.entries[sequence] for sequence in sorted(self.entries))

    def _check(self) -> None:
        self.tried.set()
        if self.lost:
            raise ClaimLost("lost")
        if self.away:
            raise ConnectionError("away")

    async def write(self, claim: Claim, record: Record) -> None:
        """Store a Record."""
        self._check()
        self.records.append(record)

    async def append(self, claim: Claim, data: bytes, position: LogPosition) -> None:
        """Store an entry; a repeated one is no repeat."""
        self._check()
        self.entries.setdefault(position.entries, data)
        self.position = position
        self.largest = max(self.largest, sum(map(len, self.entries.values())))

    async def drop(self, claim: Claim, sequences: Sequence[int]) -> None:
        """Forget entries."""
        self._check()
        self.drops += 1
        for sequence in sequences:
            del self.entries[sequence]

    async def end(self, claim: Claim, position: LogPosition) -> None:
        """Note the end."""
        self._check()
        self.ends.append(position)
        self.position = position

    async def resume(self, claim: Claim) -> LogPosition:
        """How far the log is stored."""
        return self.position

    async def end_unread(self, claim: Claim) -> LogPosition:
        """The log ends where it is stored."""
        await self.end(claim, self.position.unfinished)
        return self.position

    async def recorded(self, claim: Claim, after: int, count: int) -> Sequence[tuple[int, LogPosition, bytes]]:
        """Entries after that one; none may have been dropped."""
        self._check()
        found, size = [], 0
        for sequence in sorted(self.entries):
            size += len(self.entries[sequence])
            if sequence > after:
                found.append((sequence, LogPosition(entries=sequence, bytes=size), self.entries[sequence]))
        return found[:count]

    def stream_of(self, claim: Claim) -> str:
        """A name."""
        return f"log:{claim.id}"

    async def watched(self) -> AsyncIterator[str]:
        """Nobody watches."""
        nobody: tuple[str, ...] = ()
        for name in nobody:
            yield name

    async def cancellations(self) -> AsyncIterator[str]:
        """Nobody cancels anything."""
        nobody: tuple[str, ...] = ()
        for name in nobody:
            yield name


def claim(job_id: str = "job") -> Claim:
    """A claim without a Job: sinks only pass it on."""
    return Claim(id=job_id, queue="q", attempt=1, token="token", job=None)
