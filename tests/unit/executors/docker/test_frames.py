"""An engine's log over any cuts: nothing is lost, nothing comes twice, what was rotated away is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.executors.docker.frames import ROTATED, Frames
from consumer.model import LogPart, Place


def frame(second: int, text: bytes) -> bytes:
    data = f"2026-01-01T00:00:{second:02}Z ".encode() + text
    return b"\x01\0\0\0" + len(data).to_bytes(4, "big") + data


def text_of(parts: list[LogPart]) -> bytes:
    return b"".join(part for part in parts if isinstance(part, bytes))


def places(parts: list[LogPart]) -> list[Place]:
    return [part for part in parts if isinstance(part, Place)]


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
