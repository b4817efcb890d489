"""Text of a log on its way out of `position.py`: with the times of its lines, as the kubelet told them."""

from __future__ import annotations

from datetime import datetime

from consumer.model import Marks
from consumer.newlines import newlines

MARKS = 16
"""Of a run of lines of one second at most so many have a mark of their own, evenly spread."""
FLOOD, NEAR = 8 * 1024, 5
"""In a run of more bytes than this, lines that came within so many milliseconds may share a mark."""


class Text:
    """Bytes that follow each other; `lines`: newlines in them."""

    __slots__ = ("data", "lines", "marks")

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.lines = 0
        self.marks: list[tuple[int, int]] = []

    def add(self, data: bytes, lines: int, marks: Marks = ()) -> None:
        """These follow."""
        self.data.append(data)
        for line, at in marks:
            if not self.marks or self.marks[-1][1] != at:
                self.marks.append((self.lines + line, at))
        self.lines += lines


class Clock:
    """A kubelet's timestamps in milliseconds since the epoch."""

    def __init__(self) -> None:
        self._second, self._millis = b"", 0

    def __call__(self, stamp: bytes) -> int | None:
        """None: it is none."""
        try:
            if self._second != stamp[:19]:
                zone = stamp[19:].lstrip(b".0123456789").replace(b"Z", b"+00:00")
                self._millis = int(datetime.fromisoformat((stamp[:19] + zone).decode()).timestamp()) * 1000
                self._second = stamp[:19]
            return self._millis + int(stamp[20:29].partition(b"Z")[0].ljust(9, b"0")[:3])
        except ValueError:
            return None


def marks_in(block: bytes, clock: Clock) -> tuple[int, Marks]:
    """How many lines a block of whole lines has, and marks for some of them: for each, if they are few."""
    marks: list[tuple[int, int]] = []
    at = lines = 0
    size = len(block)
    stride = -(-size // (MARKS if size < FLOOD else _needed(block, clock)))
    while True:
        if (moment := clock(block[at : at + 30])) is not None:
            marks.append((lines, moment))
        end = block.find(b"\n", at + stride - 1) + 1 or size
        lines += newlines(block[at:end])
        if end == size:
            return lines, tuple(marks)
        at = end


def _needed(block: bytes, clock: Clock) -> int:
    """How many marks a block of many lines deserves, by the time that it spans."""
    first, last = clock(block[:30]), clock(block[block.rfind(b"\n", 0, -1) + 1 :][:30])
    if first is None or last is None or last < first:
        return MARKS
    return min(MARKS, (last - first) // NEAR + 1)
