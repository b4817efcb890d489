"""In which order several queues are asked: the first one first, or by weight. The same for every kind of queue."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_WEIGHTED = re.compile(r"(?s)(.+)=(-?\d+)")
HEAVIEST = 1000


@dataclass(frozen=True, slots=True)
class QueueOrder:
    """Names of queues, and their weights. Without weights the order is strict: the first queue that has a job gives it.

    With weights each claim asks all queues in an order that is drawn anew: of `a=5,b=1`, a comes first in five claims
    of six, and whoever is empty leaves its turn to the others.
    """

    names: tuple[str, ...]
    weights: tuple[int, ...] = ()

    @classmethod
    def of(cls, entries: Sequence[str]) -> QueueOrder:
        """Read `a`, `b` or `a=5`, `b=1` (all with a weight or none). Raises ValueError with a sentence."""
        found = [_WEIGHTED.fullmatch(entry) for entry in entries]
        if not any(found):
            _once(entries)
            return cls(tuple(entries))
        if not all(found):
            bare = next(entry for entry, match in zip(entries, found, strict=True) if not match)
            raise ValueError(f"'{bare}' has no weight: give one to each queue, as in 'a=5,b=1', or to none")
        names = tuple(match[1] for match in found if match)
        weights = tuple(int(match[2]) for match in found if match)
        if bad := next((entry for entry, w in zip(entries, weights, strict=True) if not 1 <= w <= HEAVIEST), None):
            raise ValueError(f"'{bad}': a weight is a whole number from 1 to {HEAVIEST}")
        _once(names)
        return cls(names, weights)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def drawn(self) -> tuple[str, ...]:
        """All names in the order in which to ask them now."""
        if not self.weights:
            return self.names
        # Efraimidis and Spirakis: sorted by u^(1/w), each place is drawn by weight from those that are left.
        keys = [random.random() ** (1 / weight) for weight in self.weights]
        return tuple(name for _, name in sorted(zip(keys, self.names, strict=True), reverse=True))

    def draws(self, count: int) -> list[str]:
        """By weight, which queue each of `count` jobs should come from; nothing if the order is strict."""
        return random.choices(self.names, self.weights, k=count) if self.weights else []


def _once(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is named twice")
