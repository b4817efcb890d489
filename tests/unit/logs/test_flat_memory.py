"""A log's memory by Python's own account, and not by ours: nothing but what waits is held anywhere on its way."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from consumer.logs.directives import Directives
from consumer.logs.mask import Mask
from consumer.logs.pipeline import Pipeline
from consumer.logs.spool import Memory
from consumer.model import Place
from support.logs import MemorySink

SIZE = 24 * 2**20
BOUND = 12 * 2**20
"""Far more than what waits and what is joined, masked and cut of it; far less than the log."""


class Taker(MemorySink):
    """Takes blocks and keeps none."""

    taken = 0

    async def write(self, block: bytes, place: Place | None = None) -> None:
        self.taken += len(block)
        await asyncio.sleep(0)


@pytest.mark.row(57, 59)
@pytest.mark.parametrize("chunk", [(b"x" * 4095 + b"\n") * 16, b"x" * 65_536], ids=["lines", "one line"])
async def test_a_large_log_leaves_nothing_behind_on_its_way(chunk: bytes) -> None:
    sink = Taker()

    async def written() -> AsyncIterator[bytes]:
        for _ in range(SIZE // len(chunk)):
            yield bytes(bytearray(chunk))  # as a connection brings it: each in memory of its own
            await pipeline.room()

    pipeline = Pipeline([Directives(), Mask(["hunter22"])], [sink], memory=Memory(4 * 2**20))
    tracemalloc.start(1)
    try:
        position = await pipeline.run(written())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sink.taken == position.bytes == SIZE
    assert position.gaps == ()
    assert peak < BOUND
