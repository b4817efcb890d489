"""Where logs go: all of each, in order; trouble stays there; whoever goes on neither doubles nor loses anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import consumer.sinks.shipping as shipping
from consumer.logs.pipeline import Pipeline
from consumer.model import Claim, LogPosition
from consumer.sinks.console import ConsoleTarget
from consumer.sinks.file import FileTarget
from consumer.sinks.hand import Hand
from consumer.sinks.record import RecordSink
from consumer.sinks.shipping import Backlog, ShippingSink, Store
from consumer.storage_path import path_of
from consumer.storing import Away, Refused
from support.consuming import until
from support.logs import MemoryRecords, claim, source

JOB = Claim(id="../a job", queue="q", attempt=2, token="t", job=None)


class MemoryTarget:
    """A store in memory with parts, such as S3's; `away` and `refuses` make it fail."""

    url = "memory:log"
    resumes = True

    def __init__(self, part: int = 1) -> None:
        self.part = part
        self.data = b""
        self.away = self.refuses = self.closed = self.abandoned = False
        self.tried = asyncio.Event()

    def _check(self) -> None:
        self.tried.set()
        if self.away:
            raise Away("away")
        if self.refuses:
            raise Refused("no such bucket")

    async def stored(self) -> int:
        self._check()
        return len(self.data)

    async def put(self, offset: int, data: bytes, *, last: bool) -> None:
        self._check()
        assert offset <= len(self.data)
        assert last or len(data) == self.part or self.part == 1
        self.data = self.data[:offset] + data

    async def close(self, size: int) -> None:
        self._check()
        assert size == len(self.data)
        self.closed = True

    async def abandon(self) -> None:
        self.abandoned = True


@dataclass
class Place:
    """One kind of store: `make` a sink for it, and `read` what it holds."""

    make: Callable[[LogPosition], ShippingSink]
    read: Callable[[], bytes]
    doubles: bool = False
    records: MemoryRecords = field(default_factory=MemoryRecords)


@pytest.fixture(params=["file", "memory", "parts"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    records = MemoryRecords()
    backlog = lambda: Backlog(records, JOB)  # noqa: E731
    if request.param == "file":
        store, hand = Store("file"), Hand("test")

        def make(start: LogPosition) -> ShippingSink:
            path = path_of("{queue}/{job}/{attempt}.log", JOB.queue, JOB.id, JOB.attempt)
            target = FileTarget(tmp_path / "logs", path, hand, fresh=not start.bytes)
            return ShippingSink(store, target, start=start, backlog=backlog(), patience=10)

        return Place(make, (tmp_path / "logs/q/~2E.~2Fa~20job/2.log").read_bytes, records=records)
    target = MemoryTarget(1 if request.param == "memory" else 10)
    return Place(
        lambda start: ShippingSink(Store("memory"), target, start=start, backlog=backlog(), patience=10),
        lambda: target.data,
        records=records,
    )


LINES = [b"%d\n" % n for n in range(200)]


async def test_all_of_a_log_arrives_in_order(place: Place) -> None:
    sink = place.make(LogPosition())
    for line in LINES:
        await sink.write(line)
    await sink.finish()
    assert place.read() == b"".join(LINES)
    assert sink.link.problem is None
    assert sink.link.bytes == len(b"".join(LINES))


async def test_a_log_without_a_byte_is_stored_too(place: Place) -> None:
    sink = place.make(LogPosition())
    await sink.finish()
    assert place.read() == b""
    assert sink.link.problem is None


@pytest.mark.parametrize("ahead", [0, 1, 57])
async def test_whoever_goes_on_doubles_and_loses_nothing(place: Place, ahead: int) -> None:
    """The former consumer died: the store holds less than the stream, or a little more."""
    first = RecordSink(place.records, JOB)
    sink = place.make(LogPosition())
    for line in LINES[:100]:
        await first.write(line)
        await sink.write(line)
    await sink.write(b"".join(LINES[100:])[:ahead])
    for _ in range(20):
        await asyncio.sleep(0)
    await sink.abandon()
    again = place.make(place.records.position)
    follower = RecordSink(place.records, JOB, start=place.records.position)
    for line in LINES[100:]:
        await follower.write(line)
        await again.write(line)
    await again.finish()
    assert place.read() == b"".join(LINES)
    assert again.link.problem is None


async def test_what_no_longer_fits_in_memory_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "WINDOW", 20)
    monkeypatch.setattr(shipping, "PAUSE", 0.001)
    records, target, store = MemoryRecords(), MemoryTarget(10), Store("memory")
    target.away = True
    store.unwell("away")
    record = RecordSink(records, JOB)
    sink = ShippingSink(store, target, start=LogPosition(), backlog=Backlog(records, JOB), patience=10)
    for line in LINES:
        await record.write(line)
        await sink.write(line)
        assert store.waiting <= 20 + 4
    target.away = False
    await sink.finish()
    assert target.data == b"".join(LINES)
    assert target.closed
    assert sink.link.problem is None
    assert store.waiting == 0


async def test_without_a_stream_what_is_dropped_is_told() -> None:
    target, store = MemoryTarget(), Store("memory", shared=10)
    target.away = True
    store.unwell("away")
    sink = ShippingSink(store, target, start=LogPosition(), backlog=None, patience=10)
    for line in LINES:
        await sink.write(line)
    target.away = False
    await sink.finish()
    assert sink.link.problem == "what follows was dropped before the store took it"
    assert b"".join(LINES).startswith(target.data)
    assert sink.link.bytes == len(target.data)
    assert target.closed  # what it has can be read
    assert target.abandoned


@pytest.mark.parametrize("trouble", ["away", "refuses"])
async def test_a_broken_store_fails_nothing_and_is_told(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = MemoryTarget()
    setattr(target, trouble, True)
    records = MemoryRecords()
    record = RecordSink(records, claim())
    broken = ShippingSink(Store("memory"), target, start=LogPosition(), backlog=None, patience=0.05)
    pipeline = Pipeline([], [record, broken], interval=0.01)
    position = await asyncio.wait_for(pipeline.run(source(LINES)), 30)
    assert records.data == b"".join(LINES)
    assert not position.gaps
    assert ("away" if trouble == "away" else "no such bucket") in str(broken.link.problem)
    assert target.abandoned


async def test_a_store_that_is_known_to_be_away_holds_up_no_further_end() -> None:
    target, store = MemoryTarget(), Store("memory")
    target.away = True
    store.unwell("away")
    sink = ShippingSink(store, target, start=LogPosition(), backlog=None, patience=1000)
    await sink.write(b"one\n")
    await asyncio.wait_for(sink.finish(), 30)
    assert sink.link.problem == "the store couldn't be reached in time: away"


@pytest.mark.parametrize("mended", [True, False])
async def test_a_log_waits_for_a_broken_folder_only_while_its_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    monkeypatch.setattr(shipping, "PAUSE", 0.001)
    folder, store = tmp_path / "logs", Store("file")
    folder.touch()
    target = FileTarget(folder, "1.log", Hand("test"), fresh=True)
    sink = ShippingSink(store, target, start=LogPosition(), backlog=None, patience=1000)
    await sink.write(b"one\n")
    await until(lambda: store.away is not None)
    if mended:
        folder.unlink()
        await until(lambda: store.away is None)
    await asyncio.wait_for(sink.finish(), 30)
    assert sink.link.problem == (None if mended else f"{folder}/1.log: Not a directory")
    assert not mended or (folder / "1.log").read_bytes() == b"one\n"


async def test_a_logs_end_tries_a_store_that_was_away_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "PAUSE", 1000)
    target, store = MemoryTarget(), Store("memory")
    target.away = True
    sink = ShippingSink(store, target, start=LogPosition(), backlog=None, patience=1000)
    await sink.write(b"one\n")
    await until(lambda: store.away)
    target.away = False
    await asyncio.wait_for(sink.finish(), 30)
    assert (target.data, sink.link.problem) == (b"one\n", None)


class Screen:
    def __init__(self) -> None:
        self.text = b""

    def write(self, text: bytes) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


@pytest.mark.parametrize("format", ["prefix", "plain", "json"])
async def test_the_console_shows_whole_lines_and_whose_they_are(format: str) -> None:
    screen = Screen()
    target = ConsoleTarget(format, JOB, Hand("test"), screen)  # type: ignore[arg-type]
    sink = ShippingSink(Store("console"), target, start=LogPosition(), backlog=None, patience=10)
    for block in (b"one\ntw", b"o\n\nth", b"ree"):
        await sink.write(block)
    await sink.finish()
    lines = [b"one", b"two", b"", b"three"]
    if format == "plain":
        assert screen.text.splitlines() == lines
    elif format == "prefix":
        assert screen.text.splitlines() == [b"q ../a job 2 | " + line for line in lines]
    else:
        facts = [json.loads(line) for line in screen.text.splitlines()]
        assert facts[1] == {"queue": "q", "job": "../a job", "attempt": 2, "line": "two"}
        assert [fact["line"].encode() for fact in facts] == lines
