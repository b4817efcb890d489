"""When a log's lines were written: marks on their way from the source to the sinks. See `consumer.model.Marks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from consumer.model import Marks, Times
from consumer.newlines import newlines

_NEWLINE = 10


class Stamps:
    """The marks of what a source gives, while its chunks become blocks of whole lines."""

    def __init__(self) -> None:
        self.step = ""
        self._times: Times | None = None
        self._marks: list[tuple[int, int]] = []  # from the beginning of a line that isn't whole yet

    def arrive(self, times: Times) -> None:
        """They belong to the next chunk."""
        self._times, self.step = times, times.step
        self._marks += times.marks

    def lines_of(self, chunk: bytes) -> int:
        """The newlines in the next chunk."""
        times, self._times = self._times, None
        return newlines(chunk) if times is None else times.lines

    def take(self, block: bytes, lines: int) -> Marks:
        """The marks of a block that ends in the last chunk; a line that begins there and isn't in it keeps its own."""
        marks, self._marks = self._marks, []
        if marks and marks[-1][0] == lines and block and block[-1] == _NEWLINE:
            self._marks.append((0, marks.pop()[1]))
        return tuple(marks)


def by_marks(data: bytes, lines: int, marks: Marks) -> Iterator[tuple[int, int, bytes]]:
    """What lies from one mark to the next one: its newlines, its time, the data."""
    at = 0
    for (line, mark), (after, _) in pairwise([(0, marks[0][1]), *marks[1:], (lines, 0)]):
        end = at
        for _ in range(after - line):
            end = data.find(b"\n", end) + 1
        yield after - line, mark, data[at:end]
        at = end
    if at < len(data):
        yield 0, marks[-1][1], data[at:]


def cut_at(marks: Sequence[tuple[int, int]], line: int) -> tuple[Sequence[tuple[int, int]], list[tuple[int, int]]]:
    """The marks before a line, and those from it on, counted from there."""
    first = next((number for number, mark in enumerate(marks) if mark[0] >= line), len(marks))
    return marks[:first], [(number - line, at) for number, at in marks[first:]]


def begin_with(now: int | None, marks: Sequence[tuple[int, int]]) -> Marks:
    """The marks of a block, the first one at its beginning if `now`, the last line's time, is known; one a moment."""
    found: list[tuple[int, int]] = []
    if marks and now is None:
        now = marks[0][1]
    if now is not None and (not marks or marks[0][0]):
        found.append((0, now))
    for line, at in marks:
        if found and found[-1][0] == line:
            found.pop()
        if not found or found[-1][1] != at:
            found.append((line, at))
    return tuple(found)
