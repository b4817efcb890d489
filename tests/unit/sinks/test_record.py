"""The log beside the Record: capped, patient, honest."""

from __future__ import annotations

import asyncio
import io

import pytest
from structlog.testing import capture_logs

from consumer.errors import ClaimLost
from consumer.model import LogPosition
from consumer.sinks.console import ConsoleSink
from consumer.sinks.record import ENTRY, RecordSink
from support.logs import MemoryRecords, claim


def lines(first: int, last: int, width: int = 100) -> bytes:
    return b"".join((b"%d " % i).ljust(width - 1, b"x") + b"\n" for i in range(first, last))


async def test_entries_of_whole_lines_and_an_end() -> None:
    records = MemoryRecords()
    sink = RecordSink(records, claim())
    await sink.write(lines(0, 2000))
    await sink.write(b"last")
    await sink.finish()
    assert records.data == lines(0, 2000) + b"last"
    assert list(records.entries) == [1, 2, 3, 4, 5]
    assert all(len(e) <= ENTRY and e.endswith(b"\n") for n, e in records.entries.items() if n < 5)
    assert records.ends == [LogPosition(entries=6, lines=2001, bytes=200_004, open=True)]
    assert sink.position == LogPosition(entries=5, lines=2001, bytes=200_004, open=True)


async def test_a_long_line_is_cut() -> None:
    records = MemoryRecords()
    sink = RecordSink(records, claim())
    await sink.write(b"x" * 200_000)
    await sink.write(b"\n")
    assert records.data == b"x" * 200_000 + b"\n"
    assert max(map(len, records.entries.values())) == ENTRY
    assert sink.position.lines == 1


@pytest.mark.parametrize("block", [1, 7, 900])
async def test_the_cap_keeps_head_and_tail(block: int) -> None:
    records = MemoryRecords()
    sink = RecordSink(records, claim(), max_bytes=100_000)
    for first in range(0, 5040, block):
        await sink.write(lines(first, min(first + block, 5040)))
    await sink.finish()
    (gap,) = sink.position.gaps
    assert gap["reason"] == "cap"
    kept = records.data
    after = gap["after_line"]
    assert kept == lines(0, after) + lines(after + gap["lines"], 5040)
    assert 40_000 <= after * 100 <= 50_000
    assert 75_000 <= len(kept) <= 100_000
    assert records.largest <= 100_000
    assert gap["bytes"] == gap["lines"] * 100 == 504_000 - len(kept)
    assert (sink.position.lines, sink.position.bytes) == (5040, 504_000)
    assert records.ends[0].gaps == (gap,)
    assert records.drops < sink.position.entries / 2 or block > 7


async def test_a_store_that_is_away_is_waited_for() -> None:
    records = MemoryRecords()
    records.away = True
    sink = RecordSink(records, claim())
    with capture_logs() as logged:
        task = asyncio.create_task(sink.write(b"a\n"))
        await records.tried.wait()
        records.away = False
        await asyncio.wait_for(task, 30)
    assert records.data == b"a\n"
    assert [entry["event"] for entry in logged] == ["log store is away, trying again"]
    assert sink.position.gaps == ()


async def test_what_could_not_be_stored_is_a_gap() -> None:
    records = MemoryRecords()
    sink = RecordSink(records, claim(), patience=0.01)
    await sink.write(b"a\n")
    records.away = True
    task = asyncio.create_task(sink.write(b"b\nc\n"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with capture_logs(), pytest.raises(ConnectionError):
        await sink.finish()
    gap = {"reason": "store_unavailable", "lines": 2, "bytes": 4, "after_line": 1}
    assert sink.position == LogPosition(entries=1, lines=3, bytes=6, gaps=(gap,))


async def test_a_lost_claim_ends_the_sink() -> None:
    records = MemoryRecords()
    records.lost = True
    sink = RecordSink(records, claim())
    with pytest.raises(ClaimLost):
        await sink.write(b"a\n")
    with pytest.raises(ClaimLost):
        await sink.finish()
    assert records.entries == {}


async def test_going_on_where_a_former_consumer_stopped() -> None:
    records = MemoryRecords()
    first = RecordSink(records, claim(), max_bytes=10_000)
    await first.write(lines(0, 60))
    second = RecordSink(records, claim(), max_bytes=10_000, start=await records.resume(claim()))
    for i in range(60, 200):
        await second.write(lines(i, i + 1))
    (gap,) = second.position.gaps
    assert gap["after_line"] == 60
    assert records.data == lines(0, 60) + lines(60 + gap["lines"], 200)
    assert len(records.data) <= 10_000
    assert second.position.lines == 200


async def test_console() -> None:
    stream = io.BytesIO()
    sink = ConsoleSink(stream)
    await sink.write(b"a\xff\n")
    await sink.finish()
    assert stream.getvalue() == b"a\xff\n"
