"""The log's way: nothing lost unseen, nothing waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from structlog.testing import capture_logs

from consumer.logs.directives import Directives
from consumer.logs.mask import Mask
from consumer.logs.pipeline import BATCH, Pipeline, join
from consumer.logs.spool import Memory
from consumer.model import LogPart, LogPosition, Place
from support.logs import Feed, MemorySink, source


async def test_everything_arrives_in_blocks_of_whole_lines() -> None:
    data = b"".join(b"line %d\n" % i for i in range(100_000))
    sink, pipeline = MemorySink(), Pipeline([], [])
    pipeline = Pipeline([], [sink])
    position = await pipeline.run(source(data[i : i + 65_537] for i in range(0, len(data), 65_537)))
    assert sink.data == data
    assert all(block.endswith(b"\n") and len(block) <= BATCH for block in sink.blocks)
    assert position == LogPosition(lines=100_000, bytes=len(data))
    assert sink.finished == 1


async def test_a_last_line_without_newline() -> None:
    sink = MemorySink()
    pipeline = Pipeline([Mask(["hunter22"])], [sink])
    position = await pipeline.run(source([b"a\nb hun", b"ter22"]))
    assert sink.data == b"a\nb ***"
    assert position == LogPosition(lines=2, bytes=7, open=True)
    assert pipeline.tail == ("a", "b ***")


async def test_an_empty_log() -> None:
    sink = MemorySink()
    pipeline = Pipeline([Directives(), Mask(["hunter22"])], [sink])
    assert await pipeline.run(source([])) == LogPosition()
    assert (sink.blocks, sink.finished, pipeline.tail) == ([], 1, ())


async def test_the_first_line_at_once_later_ones_after_the_interval() -> None:
    sink, feed = MemorySink(), Feed()
    task = asyncio.create_task(Pipeline([], [sink], interval=0.1).run(feed.chunks()))
    feed.send(b"first\n")
    await sink.until(b"first\n")
    began = time.monotonic()
    feed.send(b"second\n")
    feed.send(b"third\npart")
    await sink.until(b"first\nsecond\nthird\n")
    assert time.monotonic() - began >= 0.09
    assert sink.blocks[-1] == b"second\nthird\n"
    feed.end()
    await task
    assert sink.data == b"first\nsecond\nthird\npart"


async def test_directives_are_read_before_masking_and_leave_no_trace() -> None:
    sink, directives = MemorySink(), Directives()
    pipeline = Pipeline([directives, Mask(["hunter22"])], [sink])
    await pipeline.run(source([b"a\n::set-outcome-var x=hunter22\nhunt", b"er22\n"]))
    assert sink.data == b"a\n***\n"
    assert directives.variables == {"x": "hunter22"}


async def test_a_slow_sink_never_makes_the_source_wait() -> None:
    sink = MemorySink()
    sink.gate.clear()
    pipeline = Pipeline([], [sink], spool=100_000)
    lines = [b"%06d " % i + b"x" * 92 + b"\n" for i in range(10_000)]
    read = asyncio.Event()

    async def chunks():  # type: ignore[no-untyped-def]
        for line in lines:
            yield line
            await asyncio.sleep(0)
        read.set()

    with capture_logs() as logged:
        task = asyncio.create_task(pipeline.run(chunks()))
        await asyncio.wait_for(read.wait(), 20)
        assert len(sink.blocks) == 0
        sink.gate.set()
        position = await task
    assert [entry["event"] for entry in logged] == ["log incomplete"]
    assert (position.lines, position.bytes) == (10_000, 1_000_000)
    (gap,) = position.gaps
    kept = sink.data.splitlines(keepends=True)
    assert gap["reason"] == "spool_full"
    assert kept == lines[: gap["after_line"]] + lines[gap["after_line"] + gap["lines"] :]
    assert gap["bytes"] == gap["lines"] * 100
    assert 70_000 <= len(sink.data) <= 110_000


async def test_a_line_that_a_gap_cuts_is_ended() -> None:
    sink = MemorySink()
    sink.gate.clear()
    pipeline = Pipeline([], [sink], spool=3_000_000)
    feed = Feed()
    task = asyncio.create_task(pipeline.run(feed.chunks()))
    for _ in range(2):
        feed.send(b"x" * 700_000)
    await sink.called.wait()
    for _ in range(8):
        feed.send(b"y" * 700_000)
    feed.send(b"z\n")
    feed.send(b"last\n")
    feed.end()
    await asyncio.sleep(0.05)
    sink.gate.set()
    position = await task
    first, last = sink.data.split(b"\n", 1)
    assert set(first) <= set(b"xy")
    assert last == b"last\n"
    assert position.lines == 3
    assert [gap["reason"] for gap in position.gaps] == ["spool_full"]


async def test_a_failing_sink_is_reported_once_and_left_out() -> None:
    good, bad = MemorySink(), MemorySink(fail_from=2)
    feed = Feed()
    with capture_logs() as logged:
        task = asyncio.create_task(Pipeline([], [bad, good], interval=0.001).run(feed.chunks()))
        sent = b""
        for i in range(5):
            feed.send(b"%d\n" % i)
            sent += b"%d\n" % i
            await good.until(sent)
        feed.end()
        await task
    assert bad.blocks == [b"0\n"]
    assert (bad.calls, bad.finished, good.finished) == (2, 0, 1)
    assert [(entry["event"], entry["sink"]) for entry in logged] == [("log sink failed", "MemorySink")]


async def test_a_sink_that_hangs_is_given_up_after_the_source_has_ended() -> None:
    hanging, feed = MemorySink(), Feed()
    hanging.gate.clear()
    task = asyncio.create_task(Pipeline([], [hanging], patience=0.05).run(feed.chunks()))
    feed.send(b"a\n")
    await hanging.called.wait()
    feed.end()
    with capture_logs() as logged:
        position = await asyncio.wait_for(task, 30)
    assert position.lines == 1
    assert [entry["event"] for entry in logged] == ["log sink failed"]


async def test_an_error_of_the_source_is_a_gap() -> None:
    sink = MemorySink()
    with capture_logs():
        position = await Pipeline([], [sink]).run(source([b"a\nb"], then=OSError("cut")))
    assert sink.data == b"a\nb"
    assert position.gaps == ({"reason": "source_error", "message": "OSError", "after_line": 2},)
    assert sink.finished == 1


async def test_an_error_of_a_processor_lets_nothing_out_that_it_has_not_seen() -> None:
    class Broken:
        def feed(self, block: bytes) -> bytes:
            raise ValueError("bug")

        def finish(self) -> bytes:
            return b""

    sink = MemorySink()
    with capture_logs():
        position = await Pipeline([Broken()], [sink]).run(source([b"a\n"]))
    assert sink.blocks == []
    assert position.gaps == ({"reason": "processor_error", "message": "ValueError", "after_line": 0},)


async def test_cancelled_it_lets_go() -> None:
    sink, feed = MemorySink(), Feed()
    closed = asyncio.Event()

    async def chunks():  # type: ignore[no-untyped-def]
        try:
            async for chunk in feed.chunks():
                yield chunk
        finally:
            closed.set()

    task = asyncio.create_task(Pipeline([], [sink]).run(chunks()))
    feed.send(b"a\n")
    await sink.until(b"a\n")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(closed.wait(), 30)
    assert sink.finished == 0


async def test_lines_that_were_stored_before_are_skipped() -> None:
    sink, directives = MemorySink(), Directives()
    pipeline = Pipeline([directives], [sink], former=LogPosition(lines=3, bytes=6), tail_lines=2)
    chunks = [b"1\n::set-outcome-var a=1\n2\n", b"3\n4", b"\n5\n"]
    position = await pipeline.run(source(chunks))
    assert sink.data == b"4\n5\n"
    assert directives.variables == {"a": "1"}
    assert (position.lines, position.bytes) == (5, 10)
    assert pipeline.tail == ("4", "5")


@pytest.mark.parametrize("count", [0, 1, 3, 50])
async def test_the_tail(count: int) -> None:
    pipeline = Pipeline([], [], tail_lines=count)
    await pipeline.run(source([b"".join(b"%d\n" % i for i in range(40)), b"\xff\n"]))
    whole = [*map(str, range(40)), "�"]
    assert list(pipeline.tail) == whole[len(whole) - min(count, 41) :]


async def test_one_very_long_line_in_flat_memory() -> None:
    sink = MemorySink()
    pipeline = Pipeline([Directives(), Mask(["hunter22"])], [sink])
    piece = b"0123456789abcdef" * 4096
    position = await pipeline.run(source([piece] * 320))
    assert sum(map(len, sink.blocks)) == 320 * len(piece)
    assert max(map(len, sink.blocks)) <= BATCH
    assert position.lines == 1


def test_joining_what_was_read_with_what_was_stored() -> None:
    full = {"reason": "spool_full", "lines": 20, "bytes": 200, "after_line": 10}
    cap = {"reason": "cap", "lines": 5, "bytes": 50, "after_line": 30}
    end = {"reason": "source_error", "message": "OSError", "after_line": 100}
    read = LogPosition(lines=100, bytes=1000, gaps=(full, end))
    whole = join(read, LogPosition(entries=7, lines=100, bytes=1000, gaps=(full, cap, end)))
    assert whole == LogPosition(entries=7, lines=100, bytes=1000, gaps=(full, cap, end))
    rest = {"reason": "not_stored", "lines": 10, "bytes": 100, "after_line": 90}
    assert join(read, LogPosition(entries=7, lines=90, bytes=900, gaps=(full,))).gaps == (full, rest, end)


async def test_a_burst_of_a_hundred_megabytes_in_flat_memory() -> None:
    """Row 59: a million lines at once, and sinks that take them: nothing is lost, little is held."""

    class Counts(MemorySink):
        lines = 0

        async def write(self, block: bytes, place: Place | None = None) -> None:
            self.lines += block.count(b"\n")
            await asyncio.sleep(0)

    chunk = (b"x" * 99 + b"\n") * 655  # as large as what a connection brings at a time
    sink, memory, rounds = Counts(), Memory(8 * 2**20), 1_527
    peak = 0

    async def burst() -> AsyncGenerator[LogPart, None]:
        nonlocal peak
        for _ in range(rounds):
            yield chunk
            peak = max(peak, memory.used)
            await asyncio.sleep(0)

    position = await Pipeline([Directives(), Mask(["hunter22"])], [sink], memory=memory).run(burst())
    lost = sum(gap["lines"] for gap in position.gaps)
    assert position.lines == rounds * 655 > 1_000_000
    assert sink.lines + lost == position.lines
    assert peak <= memory.limit
    assert memory.used == 0
