"""What a RecordSink stores, read and verified as producers do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from consumer.model import Claim, Gap, LogPosition
from consumer.queues.log_entries import position_fields, position_of
from consumer.recording import log_of
from consumer.sinks.record import RecordSink
from enqueue.logs import LogCheck, LogReader, LogView
from enqueue.record import Log, Record, Status
from support.logs import MemoryRecords, claim

Entries = dict[int, dict[bytes, bytes]]


class StreamRecords(MemoryRecords):
    """Keeps the entries with their fields, as a stream does."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: Entries = {}

    def _keep(self, position: LogPosition, *fields: Any) -> None:
        flat = [*position_fields(position), *fields]
        pairs = iter(str(item).encode() if isinstance(item, (int, str)) else item for item in flat)
        self.stream[position.entries] = dict(zip(pairs, pairs, strict=True))

    async def append(self, claim: Claim, data: bytes, position: LogPosition) -> None:
        self._keep(position, b"d", data)

    async def drop(self, claim: Claim, sequences: Sequence[int]) -> None:
        for sequence in sequences:
            del self.stream[sequence]

    async def end(self, claim: Claim, position: LogPosition) -> None:
        self._keep(position, b"end", 1, b"lines", position.lines)


async def stored(count: int, *, max_bytes: int = 10**6, half: bool = False) -> tuple[Entries, Log]:
    """A log of so many lines of 100 bytes; `half`: two consumers wrote it, one after the other."""
    records = StreamRecords()
    sink = RecordSink(records, claim(), max_bytes=max_bytes)
    for number in range(count):
        if half and number == count // 2:
            last = max(records.stream)
            start = position_of(b"1-%d" % last, records.stream[last])
            sink = RecordSink(records, claim(), max_bytes=max_bytes, start=start)
        await sink.write((b"%d " % number).ljust(99, b"x") + b"\n")
    await sink.finish()
    return records.stream, log_of("s", sink.position)


def checked(entries: Entries, log: Log, view: LogView | None = None) -> tuple[list[Any], LogCheck]:
    reader, view = LogReader(), view or LogView()
    shown = [item for n, fields in sorted(entries.items()) for item in view.feed(reader.read(b"1-%d" % n, fields))]
    shown += [*view.caught_up(), *view.finish()]
    return shown, reader.check(Record(id="j", attempt=1, status=Status.SUCCEEDED, log=log))


@pytest.mark.parametrize("half", [False, True])
async def test_a_whole_log_is_found_whole(half: bool) -> None:
    entries, log = await stored(50, half=half)
    shown, check = checked(entries, log)
    assert check == LogCheck("no_gap_seen")
    assert b"".join(shown).count(b"\n") == 50


@pytest.mark.parametrize("half", [False, True])
async def test_what_the_cap_dropped_is_told_and_the_rest_verified(half: bool) -> None:
    entries, log = await stored(500, max_bytes=10_000, half=half)
    shown, check = checked(entries, log)
    assert len(log.gaps) == 1 + half
    assert check == LogCheck("gap", check.missing)
    for gap, sentence in zip(log.gaps, check.missing, strict=True):
        assert f"{gap['lines']} lines ({gap['bytes']} bytes) missing after line {gap['after_line']}" in sentence
        assert b"".join(shown).count(b"[longshore: %d lines dropped here]\n" % gap["lines"]) == 1


def _alter(entries: Entries) -> None:
    entries[20][b"d"] = entries[20][b"d"].replace(b"x", b"y", 1)


def _alter_head(entries: Entries) -> None:
    last = min(n for n in entries if n + 1 not in entries)
    entries[last][b"d"] = entries[last][b"d"].replace(b"x", b"y", 1)


def _lose(entries: Entries) -> None:
    del entries[20]


def _lose_the_end(entries: Entries) -> None:
    for n in sorted(entries)[-3:]:
        del entries[n]


def _lose_all(entries: Entries) -> None:
    entries.clear()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_alter, "entry 1-20 isn't what was stored"),
        (_alter_head, "isn't what was stored"),
        (_lose, "1 lines (100 bytes) that were stored are gone from the store"),
        (_lose_the_end, "its end isn't in the store (any more)"),
        (_lose_all, "the log isn't in the store (any more)"),
    ],
)
async def test_what_the_store_lost_or_changed_is_found(harm: Callable[[Entries], None], says: str) -> None:
    entries, log = await stored(500, max_bytes=10_000)
    harm(entries)
    _, check = checked(entries, log)
    assert check.complete == "gap"
    assert says in " ".join(check.damaged)
    assert len(check.damaged) == 1


async def test_gaps_of_the_source_are_no_damage() -> None:
    records = StreamRecords()
    sink = RecordSink(records, claim())
    await sink.write(b"a\n")
    sink.missed(Gap("spool_full", 7, 70))
    sink.missed(Gap("rotated"))
    await sink.write(b"b")
    await sink.finish()
    shown, check = checked(records.stream, log_of("s", sink.position), LogView("lines"))
    assert check.damaged == ()
    assert len(check.missing) == 2
    assert [(line.number, line.text) for line in shown if not line.note] == [(1, "a"), (9, "b")]
    assert [line.note for line in shown][1] == "[longshore: 7 lines dropped here]"


async def test_lines_text_tail_and_since() -> None:
    entries, log = await stored(50)
    for n, fields in entries.items():
        fields[b"t"] = b"%d" % (n * 1000)
    lines, _ = checked(entries, log, LogView("lines", tail=3))
    assert [(line.number, line.text.split()[0], line.at) for line in lines] == [
        (48, "47", 48.0), (49, "48", 49.0), (50, "49", 50.0)
    ]  # fmt: skip
    late, _ = checked(entries, log, LogView("text", since=49.5))
    assert "".join(late).split()[0] == "49"
    none, _ = checked(entries, log, LogView(tail=0))
    assert none == []


def test_a_line_in_pieces_is_one_and_a_tail_cuts_an_entry() -> None:
    pieces: Entries = {1: {b"d": b"one\ntw"}, 2: {b"d": b"o\nthree\nfo"}, 3: {b"d": b"ur"}}
    lines, _ = checked(pieces, Log(), LogView("lines"))
    assert [(line.number, line.text) for line in lines] == [(1, "one"), (2, "two"), (3, "three"), (4, "four")]
    tail, _ = checked(pieces, Log(), LogView("lines", tail=2))
    assert [(line.number, line.text) for line in tail] == [(3, "three"), (4, "four")]
