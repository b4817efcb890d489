"""What of a log is new, over any cuts, rotations, clocks and bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from consumer.executors.kubernetes.position import LONG_LINE, ROTATED, Jump, Position
from consumer.model import Gap, LogPart, Place, Times
from support.fakekubelet import stamp

BASE = 1_795_000_000 * 10**9
SECOND = 10**9

Lines = list[tuple[int, bytes]]


def served(lines: Lines, since: str | None) -> bytes:
    """What a kubelet sends: whole seconds, line by line."""
    return b"".join(stamp(at).encode() + b" " + text for at, text in lines if stamp(at)[:19] >= (since or "")[:19])


@dataclass
class Reader:
    """Reads over many connections, as the follower does."""

    position: Position = field(default_factory=Position)
    parts: list[LogPart] = field(default_factory=list)

    def connect(self, lines: Lines, budget: int | None = None, size: int = 1 << 20) -> None:
        """One connection, cut after `budget` bytes."""
        data = served(lines, self.position.since)[:budget]
        self.position.begin()
        for start in range(0, len(data), size):
            self.parts += [
                part for part in self.position.feed(data[start : start + size]) if not isinstance(part, Jump)
            ]

    def finish(self) -> bytes:
        """All that came."""
        self.parts += [part for part in self.position.finish() if not isinstance(part, Jump)]
        return self.data

    @property
    def data(self) -> bytes:
        return b"".join(part for part in self.parts if isinstance(part, bytes))

    @property
    def gaps(self) -> list[Gap]:
        return [part for part in self.parts if isinstance(part, Gap)]


texts = st.binary(max_size=8).map(lambda text: text.replace(b"\n", b"\r"))
forth = st.sampled_from([0, 0, 1, 4 * 10**8, SECOND, 7 * SECOND])
steps = forth | st.sampled_from([-1, -(10**6)])
logs_written = st.lists(st.tuples(steps, texts), max_size=20)
cuts = st.lists(st.integers(1, 600), max_size=6)


def written(drawn: list[tuple[int, bytes]], last: bytes = b"") -> Lines:
    now, lines = BASE, []
    for step, text in drawn:
        now += step
        lines.append((now, text + b"\n"))
    return [*lines, (now + 1, last)] if last else lines


@given(drawn=logs_written, last=st.sampled_from([b"", b"no newline"]), cuts=cuts, size=st.integers(1, 50))
def test_any_cut_of_any_log(drawn: list[tuple[int, bytes]], last: bytes, cuts: list[int], size: int) -> None:
    """Rows 28 and 55: equal times, times that go back, anything in the lines."""
    lines, reader = written(drawn, last), Reader()
    for budget in [*cuts, None]:
        reader.connect(lines, budget, size)
    assert reader.finish() == b"".join(text for _, text in lines)
    assert reader.gaps == []


@given(
    before=st.lists(st.tuples(forth, texts), max_size=20),
    after=st.lists(st.tuples(st.sampled_from([0, 1, 10**6]), texts), max_size=20),
    cuts=cuts,
    back=st.integers(10, 1000),
)
def test_a_clock_that_is_set_back(
    before: list[tuple[int, bytes]], after: list[tuple[int, bytes]], cuts: list[int], back: int
) -> None:
    """Row 55: while we are connected or not; the container's end tells what `sinceTime` may have hidden."""
    lines = written([*before, (-back * SECOND, b"set back"), *after])
    reader = Reader()
    for budget in [*cuts, None]:
        reader.connect(lines, budget)
    if reader.position.second > lines[-1][0] // SECOND + 1:
        reader.position.distrust()
        reader.connect(lines)
    assert reader.finish() == b"".join(text for _, text in lines)
    assert reader.gaps == []


@given(drawn=logs_written, cuts=cuts, lives=st.lists(st.integers(1, 600), max_size=4))
@example(drawn=[(0, b""), (0, b""), (0, b""), (-1, b""), (1, b""), (SECOND, b"")], cuts=[192], lives=[128])
def test_any_number_of_readers_one_after_the_other(
    drawn: list[tuple[int, bytes]], cuts: list[int], lives: list[int]
) -> None:
    """What is before a place, and what comes after it for the next reader, is the whole log."""
    lines = written(drawn)
    whole, kept, after = b"".join(text for _, text in lines), b"", ""
    for budget in [*lives, None]:
        reader = Reader(Position("main", after))
        for cut in cuts:
            reader.connect(lines, min(cut, budget or cut))
        reader.connect(lines, budget)
        at = reader.parts.index(Place(after)) if after and Place(after) in reader.parts else -1 if after else 0
        if at < 0:
            continue  # it didn't come so far
        old = b"".join(part for part in reader.parts[:at] if isinstance(part, bytes))
        new = b"".join(part for part in reader.parts[at:] if isinstance(part, bytes))
        assert old == kept
        if (place := reader.position.place) is not None:
            kept, after = kept + new, place.at
            assert whole.startswith(kept)
        if budget is None:
            assert kept == whole
        assert reader.gaps == []


@given(
    drawn=st.lists(st.tuples(st.sampled_from([1, 4 * 10**8, SECOND]), texts), min_size=2, max_size=20),
    read=st.integers(1, 19),
    lost=st.integers(0, 19),
    resumed=st.booleans(),
)
def test_a_rotation_is_a_gap_if_lines_may_be_missing(
    drawn: list[tuple[int, bytes]], read: int, lost: int, resumed: bool
) -> None:
    """Rows 31 to 33: the file that is left begins with line `lost`."""
    lines = written(drawn)
    assume(read <= len(lines) and lost <= len(lines))
    reader = Reader()
    reader.connect(lines[:read])
    if resumed:
        place = reader.position.place
        assert place is not None
        reader = Reader(Position("main", place.at))
    reader.connect(lines[lost:])
    again = Reader(Position("main", reader.position.place.at)) if reader.position.place else None
    new = lines[max(read, lost) :]
    overlap = lost < read
    assert reader.gaps == ([ROTATED] if new and not overlap else [])
    tail = b"".join(text for _, text in new)
    assert reader.data.endswith(tail)
    if not resumed:
        assert reader.data == b"".join(text for _, text in lines[:read]) + tail
    if again is not None and new:
        again.connect([*lines[lost:], (lines[-1][0] + SECOND, b"more\n")])
        assert again.gaps == []
        assert again.parts[-1] == b"more\n"


@pytest.mark.parametrize("size", [1000, LONG_LINE + 7])
def test_long_lines_over_many_cuts(size: int) -> None:
    """Row 57: they come in pieces, and are resumed in their middle."""
    long = [(BASE + n * SECOND // 2, b"%d" % n * (size * 90) + b"\n") for n in range(3)]
    lines = [(BASE, b"first\n"), *long, (BASE + 9 * SECOND, b"last")]
    reader = Reader()
    for budget in (1, 100, *range(size, size * 90 * 3, size * 35), None):
        reader.connect(lines, budget, size)
    assert reader.finish() == b"".join(text for _, text in lines)
    assert reader.gaps == []


def test_a_line_whose_rest_was_rotated_away() -> None:
    reader = Reader()
    reader.connect([(BASE, b"one\n"), (BASE + 1, b"x" * 200_000)])
    reader.connect([(BASE + 5 * SECOND, b"yyy\n"), (BASE + 6 * SECOND, b"two\n")])
    assert [part for part in reader.parts if not isinstance(part, Times)][-2:] == [ROTATED, b"yyy\ntwo\n"]
    assert reader.data == b"one\n" + b"x" * 200_000 + b"yyy\ntwo\n"


def test_the_end_of_a_long_line_of_an_earlier_second_is_old() -> None:
    """A kubelet filters the parts of a line by their own times: a connection may begin with the last of them."""
    reader = Reader()
    read = [(BASE + 3 * SECOND + 5, b"one\n"), (BASE + 3 * SECOND + 6, b"two\n")]
    reader.connect([(BASE, b"long, with an end\n"), *read])
    reader.connect([(BASE + 3 * SECOND + 1, b"an end\n"), *read, (BASE + 4 * SECOND, b"three\n")])
    assert reader.data == b"long, with an end\none\ntwo\nthree\n"
    assert reader.gaps == []


def test_words_of_the_kubelet_are_not_the_pods() -> None:
    position = Position()
    assert position.feed(b"unable to retrieve container logs for containerd://abc\n") == []
    assert position.refused
    assert position.feed(b"something without a timestamp\n") == [b"something without a timestamp\n"]


@given(drawn=st.lists(st.tuples(steps, texts), max_size=60), cut=st.integers(0, 3000))
def test_lines_of_one_second_at_once_or_one_by_one(drawn: list[tuple[int, bytes]], cut: int) -> None:
    data = served(written(drawn), None)
    at_once, one_by_one = Position(), Position()
    parts = [*at_once.feed(data[:cut]), *at_once.feed(data[cut:])]
    single = [part for n in range(len(data)) for part in one_by_one.feed(data[n : n + 1])]
    assert b"".join(part for part in parts if isinstance(part, bytes)) == b"".join(
        part for part in single if isinstance(part, bytes)
    )
    assert [part for part in parts if isinstance(part, Jump)] == [part for part in single if isinstance(part, Jump)]
    assert (at_once.place, at_once.since) == (one_by_one.place, one_by_one.since)
