"""The store of Records that keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from consumer.model import AttemptKey, Claim, LogPosition, Standing
from enqueue.record import Record


class NoRecords:
    """Keeps nothing: for `--no-records`."""

    source = ""
    ahead = 0.0

    async def write(self, claim: Claim, record: Record) -> None:
        """Nothing is kept."""

    async def append(self, claim: Claim, data: bytes, position: LogPosition) -> None:
        """Nothing is kept."""

    async def drop(self, claim: Claim, sequences: Sequence[int]) -> None:
        """Nothing is kept."""

    async def end(self, claim: Claim, position: LogPosition) -> None:
        """Nothing is kept."""

    async def resume(self, claim: Claim) -> LogPosition:
        """Nothing was kept."""
        return LogPosition()

    async def end_unread(self, claim: Claim) -> LogPosition:
        """Nothing was kept."""
        return LogPosition().unfinished

    async def recorded(self, claim: Claim, after: int, count: int) -> Sequence[tuple[int, LogPosition, bytes]]:
        """Nothing was kept."""
        return []

    def stream_of(self, claim: Claim) -> str:
        """There is no log."""
        return ""

    async def watched(self) -> AsyncIterator[str]:
        """There is nothing to watch."""
        await asyncio.Event().wait()
        yield ""

    async def cancellations(self) -> AsyncIterator[str]:
        """There is no way to ask for one."""
        await asyncio.Event().wait()
        yield ""

    async def standing(self, attempts: Sequence[AttemptKey]) -> Sequence[Standing]:
        """Nothing is known, so nothing is to be touched."""
        return [Standing.HELD for _ in attempts]
