"""What the source can't give, and what a former consumer has stored: each in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from consumer.logs.directives import Directives
from consumer.logs.mask import Mask
from consumer.logs.pipeline import Pipeline
from consumer.logs.spool import Memory
from consumer.model import Gap, LogPart, LogPosition, Place
from consumer.sinks.record import RecordSink
from support.logs import Feed, MemoryRecords, MemorySink, claim, source

SECRETS = ["one\ntwo", "hunter22"]


def parts_of(pieces: Sequence[bytes]) -> list[LogPart]:
    """A source whose places are counts of lines."""
    parts: list[LogPart] = []
    count = 0
    for piece in pieces:
        parts.append(piece)
        count += piece.count(b"\n")
        if piece.endswith(b"\n"):
            parts.append(Place(f"line {count}"))
    return parts


async def run_until(parts: Sequence[LogPart], records: MemoryRecords, entries: int) -> None:
    """A consumer that dies once it has stored so many entries more."""
    former = await records.resume(claim())
    sink = RecordSink(records, claim(), start=former)
    wanted = len(records.entries) + entries

    async def chunks() -> AsyncIterator[LogPart]:
        for part in parts:
            yield part
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if entries < 100:
            await asyncio.Event().wait()

    pipeline = Pipeline([Directives(), Mask(SECRETS)], [sink], former=former, interval=1e-9)
    task = asyncio.create_task(pipeline.run(chunks()))
    for _ in range(10_000):
        if task.done() or len(records.entries) >= wanted:
            break
        await asyncio.sleep(0)
    if not task.done() and entries < 100:
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


line = st.sampled_from([b"a", b"one", b"two", b"", b"hunter22", b"::set-outcome-var x=1", b"\xff\x00", b"long " * 9])


@given(
    lines=st.lists(line, max_size=12),
    last=st.sampled_from([b"", b"end"]),
    deaths=st.lists(st.integers(0, 4), max_size=4),
    size=st.integers(1, 30),
)
def test_a_consumer_that_dies_anywhere_neither_loses_nor_repeats(
    lines: list[bytes], last: bytes, deaths: list[int], size: int
) -> None:
    data = b"".join(text + b"\n" for text in lines) + last
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    async def live(deaths: Sequence[int]) -> MemoryRecords:
        records = MemoryRecords()
        for entries in (*deaths, 1000):
            await run_until(parts_of(pieces), records, entries)
        return records

    once, often = asyncio.run(live([])), asyncio.run(live(deaths))
    assert often.data == once.data
    assert often.ends[-1].lines == once.ends[-1].lines
    assert often.ends[-1].gaps == ()


async def test_a_gap_of_the_source_stands_where_it_is() -> None:
    records = MemoryRecords()
    sink = RecordSink(records, claim())
    parts: list[LogPart] = [b"a\nb", Gap("rotated"), b"c\n", Gap("unread", 3, 30), b"d\n"]
    with capture_logs():
        position = await Pipeline([], [sink]).run(source(parts))
    assert records.data == b"a\nb\nc\nd\n"
    gaps = ({"reason": "rotated", "after_line": 2}, {"reason": "unread", "lines": 3, "bytes": 30, "after_line": 3})
    assert position.gaps == sink.position.gaps == records.ends[-1].gaps == gaps
    assert position.lines == sink.position.lines == 7


async def test_what_a_former_consumer_stored_ends_at_its_place() -> None:
    records, directives = MemoryRecords(), Directives()
    former = LogPosition(entries=4, lines=100, bytes=5000, place=Place("here", 4998))
    sink = RecordSink(records, claim(), start=former)
    parts: list[LogPart] = [b"::set-outcome-var a=1\nold\n", Place("no"), b"old\n", Place("here"), b"x\nnew\n"]
    pipeline = Pipeline([directives], [sink], former=former)
    position = await pipeline.run(source(parts))
    assert records.data == b"new\n"
    assert (position.lines, position.bytes, position.gaps) == (101, 5004, ())
    assert directives.variables == {"a": "1"}
    assert pipeline.tail == ("old", "old", "x", "new")


async def test_a_gap_instead_of_the_place() -> None:
    records = MemoryRecords()
    former = LogPosition(entries=4, lines=100, bytes=5000, open=True, place=Place("here", 4998))
    sink = RecordSink(records, claim(), start=former)
    with capture_logs():
        position = await Pipeline([], [sink], former=former).run(source([b"old\n", Gap("rotated"), b"new\n"]))
    assert records.data == b"\nnew\n"
    assert (position.lines, position.bytes) == (101, 5005)
    assert position.gaps == sink.position.gaps == ({"reason": "rotated", "after_line": 100},)


async def test_gaps_of_a_former_consumer_are_kept() -> None:
    records = MemoryRecords()
    with capture_logs():
        sink = RecordSink(records, claim())
        await Pipeline([], [sink]).run(source([b"a\n", Place("1"), Gap("rotated"), b"b\n", Place("2")]))
        former = await records.resume(claim())
        again = RecordSink(records, claim(), start=former)
        parts: list[LogPart] = [b"b\n", Place("2"), b"c\n"]
        position = await Pipeline([], [again], former=former).run(source(parts))
    assert records.data == b"a\nb\nc\n"
    assert position.gaps == again.position.gaps == ({"reason": "rotated", "after_line": 1},)


@pytest.mark.parametrize("count", [3, 40])
async def test_many_logs_share_one_memory(count: int) -> None:
    memory, feeds, sinks = Memory(100_000), [Feed() for _ in range(count)], [MemorySink() for _ in range(count)]
    for sink in sinks:
        sink.gate.clear()
    pipelines = [Pipeline([], [sink], memory=memory) for sink in sinks]
    tasks = [asyncio.create_task(p.run(feed.chunks())) for p, feed in zip(pipelines, feeds, strict=True)]
    block = b"x" * 99 + b"\n"
    with capture_logs():
        for feed in feeds:
            feed.send(block)
        for sink in sinks:
            await sink.called.wait()
        for n in range(1000):
            feeds[n % count].send(block * 5)
            feeds[n % count].send(block * 5)
        for feed in feeds:
            feed.end()
        while not all(p._spool.closed for p in pipelines):
            await asyncio.sleep(0)
            assert memory.used <= memory.limit
        for sink in sinks:
            sink.gate.set()
        positions = await asyncio.gather(*tasks)
    assert memory.used == 0
    assert sum(position.lines for position in positions) == count + 10_000
    for position, sink in zip(positions, sinks, strict=True):
        assert len(sink.data) // 100 + sum(gap["lines"] for gap in position.gaps) == position.lines


@pytest.mark.parametrize("stored", [True, False])
async def test_no_place_lies_behind_a_variable_that_is_not_stored(stored: bool) -> None:
    """Whoever goes on from that place couldn't know the variable."""
    parts: list[LogPart] = [b"one\n", Place("line 1"), b"::set-outcome-var a=1\n", Place("line 2"), b"two\n"]
    parts += [Place("line 3"), b"three\n"]
    records = MemoryRecords()
    directives = Directives(lambda: None)

    async def chunks() -> AsyncIterator[LogPart]:
        for part in parts:
            if stored:
                directives.stored = directives.version
            yield part
            for _ in range(10):
                await asyncio.sleep(0)

    sink = RecordSink(records, claim())
    await Pipeline([directives], [sink], interval=1e-9).run(chunks())
    place = (await records.resume(claim())).place
    assert place is not None
    assert place.at == ("line 3" if stored else "line 1")
