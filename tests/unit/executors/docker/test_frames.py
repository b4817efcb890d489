"""An engine's log over any cuts: nothing is lost, nothing comes twice, what was rotated away is told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.executors.docker.frames import ROTATED, Frames
from consumer.model import LogPart, Place, Times


def frame(second: int, text: bytes) -> bytes:
    data = f"2026-01-01T00:00:{second:02}Z ".encode() + text
    return b"\x01\0\0\0" + len(data).to_bytes(4, "big") + data


def text_of(parts: list[LogPart]) -> bytes:
    return b"".join(part for part in parts if isinstance(part, bytes))


def places(parts: list[LogPart]) -> list[Place]:
    return [part for part in parts if isinstance(part, Place)]


def times(parts: list[LogPart]) -> list[Times]:
    return [part for part in parts if isinstance(part, Times)]


def at(second: int) -> int:
    return int(datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC).timestamp()) * 1000


LOG = [frame(i // 3, f"line {i}\n".encode()) for i in range(12)]
WHOLE = b"".join(f"line {i}\n".encode() for i in range(12))


@given(st.lists(st.integers(0, sum(map(len, LOG))), max_size=4), st.integers(1, 50))
def test_any_cuts(connections: list[int], size: int) -> None:
    """Each connection begins anew and ends anywhere."""
    frames, read = Frames("main"), b""
    data = b"".join(LOG)
    for end in [*connections, len(data)]:
        frames.begin()
        for at in range(0, end, size):
            read += text_of(frames.feed(data[at : min(at + size, end)]))
    assert read == WHOLE


def test_a_former_readers_place_comes_again() -> None:
    first = Frames("main")
    (place,) = places(first.feed(b"".join(LOG[:5])))
    parts = Frames("main", place.at).feed(b"".join(LOG))
    assert text_of(parts) == WHOLE
    assert times(parts) == [Times(((0, at(1)), (1, at(2)), (4, at(3))), 7)]
    assert parts[:2] == [b"".join(f"line {i}\n".encode() for i in range(5)), Place(place.at)]


def test_a_rotated_log_has_a_gap() -> None:
    frames = Frames("main")
    frames.feed(b"".join(LOG[:5]))
    frames.begin()
    parts = frames.feed(b"".join(LOG[4:]))
    assert parts[0] == ROTATED
    assert text_of(parts) == b"".join(f"line {i}\n".encode() for i in range(6, 12))
    (place,) = places(parts)
    again = Frames("main", place.at).feed(b"".join(LOG[4:]))
    assert again[-1] == Place(place.at)


def test_a_rotated_log_that_another_one_had_read() -> None:
    (place,) = places(Frames("main").feed(b"".join(LOG[:5])))
    parts = Frames("main", place.at).feed(b"".join(LOG[4:]))
    assert ROTATED in parts
    before = parts[: parts.index(ROTATED)]
    assert text_of(before) == b"line 4\nline 5\n"  # of the same second: as old as what was read


def test_no_place_within_a_line() -> None:
    frames = Frames("main")
    assert not places(frames.feed(frame(1, b"half")))
    assert places(frames.feed(frame(1, b" and whole\n")))


def test_a_frame_that_is_kept_back_counts_when_it_comes_twice() -> None:
    frames, half = Frames("main"), frame(1, b"ha\n")
    for data, expected in ((half, b""), (frame(1, b"half\n"), b""), (frame(1, b"half\n"), b"half\n")):
        frames.begin(hold=True)
        read = text_of(frames.feed(data))
        assert read + text_of(frames.finish()) == expected
    assert frames.ends_with(frame(1, b"half\n"))
    assert not frames.ends_with(frame(2, b"other\n"))


def test_lines_have_the_times_that_the_engine_tells() -> None:
    frames = Frames("init")
    data = frame(1, b"one\n") + frame(1, b"two\n") + frame(2, b"be") + frame(3, b"gun\n") + frame(4, b"four\n")
    assert frames.feed(data)[0] == Times(((0, at(1)), (2, at(2)), (3, at(4))), 4, "init")
    frames.feed(frame(5, b"he"))
    assert not times(frames.feed(frame(6, b"re\n")))  # it began a chunk ago
    assert times(frames.feed(frame(7, b"several\nlines\n") + frame(8, b"x\n"))) == [
        Times(((0, at(7)), (2, at(8))), 3, "init")
    ]


def test_of_a_burst_some_lines_have_their_times() -> None:
    text = b"x" * 99 + b"\n"
    stamped = [f"2026-01-01T00:00:00.{n:03}000000Z ".encode() + text for n in range(1000)]
    data = b"".join(b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line for line in stamped)
    ((marks, lines, _),) = ((part.marks, part.lines, part.step) for part in times(Frames("main").feed(data)))
    assert lines == 1000
    assert 8 < len(marks) < 32
    assert all(moment == at(0) + line for line, moment in marks)


@pytest.mark.parametrize(
    ("stamp", "moment"),
    [
        ("2026-01-01T00:00:01.987654321Z", at(1) + 987),
        ("2026-01-01T02:00:01+02:00", at(1)),
        ("2026-01-01T02:00:01.5+02:00", at(1) + 500),
        ("2026-01-01T00:00:01", None),
        ("yesterday", None),
    ],
)
def test_what_engines_write_as_times(stamp: str, moment: int | None) -> None:
    line = f"{stamp} x\n".encode()
    parts = Frames("main").feed(b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line)
    assert [mark for part in times(parts) for mark in part.marks] == ([(0, moment)] if moment is not None else [])
    assert text_of(parts) == b"x\n"
