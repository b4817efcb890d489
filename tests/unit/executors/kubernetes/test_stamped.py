"""The times of lines: few marks where many lines came at once, and none far from its lines."""

from __future__ import annotations

from bisect import bisect_right

import pytest

from consumer.executors.kubernetes.stamped import FLOOD, MARKS, NEAR, Clock, marks_in
from support.fakekubelet import stamp

BASE = 1_795_000_000 * 10**9
MILLI = 10**6


def block_of(count: int, apart: float, text: bytes = b"x" * 60) -> tuple[bytes, list[int]]:
    """Lines that came so many milliseconds apart, and their times in milliseconds."""
    times = [BASE + int(number * apart * MILLI) for number in range(count)]
    return b"".join(stamp(at).encode() + b" " + text + b"\n" for at in times), [at // MILLI for at in times]


@pytest.mark.parametrize(("count", "apart"), [(1, 1), (MARKS, 0.01), (400, 0.01), (400, 0.05), (400, 0.5), (400, 2.4)])
def test_no_mark_is_far_from_its_lines(count: int, apart: float) -> None:
    block, times = block_of(count, apart)
    lines, marks = marks_in(block, Clock())
    assert lines == count
    assert len(marks) <= MARKS
    bounds = [line for line, _ in marks]
    told = [marks[bisect_right(bounds, line) - 1][1] for line in range(count)]
    most = max(2 * NEAR, 2 * (times[-1] - times[0]) / MARKS)
    assert all(0 <= at - said <= most for at, said in zip(times, told, strict=True))


def test_few_lines_have_a_mark_each() -> None:
    block, times = block_of(MARKS, 0.01)
    assert len(block) < FLOOD
    assert marks_in(block, Clock()) == (MARKS, tuple(enumerate(times)))


def test_lines_that_came_at_once_share_a_mark() -> None:
    block, times = block_of(400, 0.01)
    assert len(block) > FLOOD
    assert marks_in(block, Clock()) == (400, ((0, times[0]),))


def test_a_clock_that_went_back_gets_all_its_marks() -> None:
    late, _ = block_of(200, 0.01)
    block = late.replace(b".00", b".90") + late
    assert len(marks_in(block, Clock())[1]) == MARKS
