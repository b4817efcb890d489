"""When the lines of a log's entry were written, in the words of its field `m`; pure. Told in docs/payload.md."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise


def packed(marks: Sequence[tuple[int, int]]) -> bytes:
    """`<ms since the epoch> <lines> <ms> <lines> <ms> ...`: each after the former one. The first mark is of line 0."""
    steps = ((line - before, at - former) for (before, former), (line, at) in pairwise(marks))
    return b" ".join(b"%d" % number for number in (marks[0][1], *chain.from_iterable(steps)))


def unpacked(field: bytes | None) -> tuple[tuple[int, float], ...]:
    """Lines before each mark, and its time in seconds since the epoch; what can't be read is left out."""
    marks: list[tuple[int, float]] = []
    line = 0
    try:
        moment, *rest = map(int, (field or b"").split())
        marks.append((0, moment / 1000))
        for lines, step in zip(rest[::2], rest[1::2], strict=True):
            line, moment = line + lines, moment + step
            marks.append((line, moment / 1000))
    except ValueError:
        pass
    return tuple(marks)
