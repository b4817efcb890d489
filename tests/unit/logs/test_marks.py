"""The times of a log's lines, from the kubelet's timestamps to what `longshore logs` shows."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from consumer.executors.kubernetes.position import Jump, Position
from consumer.logs.directives import Directives
from consumer.logs.mask import Mask
from consumer.logs.pipeline import Pipeline
from consumer.model import Claim, LogPart, LogPosition, Times
from consumer.queues.log_entries import position_fields
from consumer.queues.none import NoRecords
from consumer.sinks.record import RecordSink
from enqueue.logs import LogLine, LogReader, LogView
from enqueue.times import rfc3339
from enqueue.wire.marks import packed, unpacked

BASE = 1_795_000_000
CLAIM = Claim(id="j", queue="q", attempt=1, token="t", job=None)


class Entries(NoRecords):
    """Records that keep a log's entries as the stream does."""

    def __init__(self) -> None:
        self.entries: list[dict[bytes, bytes]] = []

    async def append(self, claim: Claim, data: bytes, position: LogPosition) -> None:
        """Keep it."""
        words = [*position_fields(position), b"d", data]
        fields = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.entries.append(dict(zip(fields[::2], fields[1::2], strict=True)))

    def lines(self, since: float | None = None) -> list[LogLine]:
        """What a reader is shown."""
        reader, view = LogReader(), LogView("lines", since=since)
        shown: list[LogLine] = []
        for number, fields in enumerate(self.entries, 1):
            shown += view.feed(reader.read(b"1-%d" % number, fields))
        return shown + list(view.finish())


def stamp(millis: int) -> bytes:
    """As a kubelet writes it, with nanoseconds."""
    second, rest = divmod(millis, 1000)
    return f"{(rfc3339(second) or '')[:19]}.{rest:03}000007Z".encode()


def log_of(lines: list[tuple[int, bytes]]) -> bytes:
    """As a kubelet sends it."""
    return b"".join(stamp(at) + b" " + text + b"\n" for at, text in lines)


async def stored(steps: dict[str, list[tuple[int, bytes]]], cut: random.Random, processors: Any = ()) -> Entries:
    """The way of a pod's log, in chunks of any size."""
    entries = Entries()

    async def source() -> AsyncIterator[LogPart]:
        for step, lines in steps.items():
            position, data, at = Position(step), log_of(lines), 0
            while at < len(data):
                size = cut.choice((1, 7, 60, 900, 70_000))
                for part in position.feed(data[at : at + size]):
                    if not isinstance(part, Jump):
                        yield part
                if position.place:
                    yield position.place
                at += size

    await Pipeline(processors, [RecordSink(entries, CLAIM)], interval=0.0).run(source())
    return entries


@pytest.mark.parametrize("seed", range(8))
async def test_each_line_of_a_calm_log_has_its_own_time_whatever_is_taken_out_around_it(seed: int) -> None:
    rng = random.Random(seed)
    at, lines, wanted = BASE * 1000, [], []
    for n in range(rng.randint(1, 120)):
        at += rng.choice((0, 1, 90, 700, 1000, 61_000))
        kind = rng.random()
        if kind < 0.2:
            lines.append((at, b"::progress 40 copying"))
            continue
        text = b"password hunter22 %d" % n if kind < 0.4 else b"line %d" % n
        lines.append((at, text))
        wanted.append((at / 1000, text.replace(b"hunter22", b"***")))
    entries = await stored({"main": lines}, rng, [Directives(), Mask(["hunter22"])])
    assert [(line.at, line.data) for line in entries.lines()] == wanted
    if wanted:
        begin = rng.choice(wanted)[0]
        later = [line.data for line in entries.lines(since=begin)]
        assert later == [text for moment, text in wanted if moment >= begin]


async def test_in_a_burst_times_are_marked_now_and_then_never_late_and_in_few_bytes() -> None:
    rng = random.Random(3)
    lines = [(BASE * 1000 + n // 20, b"line %d" % n) for n in range(10_000)]  # 20,000 a second
    entries = await stored({"main": lines}, rng)
    shown = entries.lines()
    assert [line.data for line in shown] == [text for _, text in lines]
    behind = [true / 1000 - (line.at or 0) for line, (true, _) in zip(shown, lines, strict=True)]
    assert min(behind) >= 0
    assert max(behind) < 0.5
    assert sum(len(e.get(b"m", b"")) for e in entries.entries) < sum(len(e[b"d"]) for e in entries.entries) / 10


async def test_an_init_step_is_told_from_the_main_one() -> None:
    steps = {"init": [(BASE * 1000, b"one")], "main": [(BASE * 1000 + 5, b"two")]}
    entries = await stored(steps, random.Random(1))
    assert [(line.step, line.data, line.at) for line in entries.lines()] == [
        ("init", b"one", BASE),
        ("main", b"two", BASE + 0.005),
    ]


async def test_a_source_without_times_stores_none_and_shows_when_its_lines_were_stored() -> None:
    entries = Entries()

    async def source() -> AsyncIterator[LogPart]:
        yield b"one\ntwo\n"

    await Pipeline([], [RecordSink(entries, CLAIM)]).run(source())
    (entry,) = entries.entries
    assert not {b"m", b"s"} & set(entry)
    assert [line.at for line in entries.lines()] == [int(entry[b"t"]) / 1000] * 2


def test_marks_survive_their_words_also_of_a_clock_that_was_set_back() -> None:
    marks = ((0, 1_795_000_000_123), (3, 1_795_000_000_124), (4, 1_794_999_990_000), (90, 1_795_000_100_000))
    assert packed(marks) == b"1795000000123 3 1 1 -10124 86 110000"
    assert unpacked(packed(marks)) == tuple((line, at / 1000) for line, at in marks)
    assert unpacked(None) == unpacked(b"nonsense") == ()


def test_a_position_says_how_many_lines_its_bytes_have() -> None:
    position = Position()
    data = log_of([(BASE * 1000 + n, b"x" * (n % 90)) for n in range(3000)])
    parts = [part for at in range(0, len(data), 5000) for part in position.feed(data[at : at + 5000])]
    pairs = [(a, b) for a, b in pairwise(parts) if isinstance(a, Times) and isinstance(b, bytes)]
    assert len(pairs) * 2 == len(parts)
    assert all(times.lines == text.count(b"\n") for times, text in pairs)
