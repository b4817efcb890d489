"""What the store has acknowledged a moment ago, for the case that it forgets it.

A failover to a replica, or a machine that dies with an append-only file that is written once a second, loses
acknowledged writes. Our sign of life is answered with the server's run id: when it changes, what was settled in the
last seconds is looked at, and settled again if it is gone. Source: Redis, "Replication" and "Persistence": both may
lose some seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS = 30.0
"""How far a store may be set back."""

MOST = 5_000
"""Settlements that are remembered at most; the oldest go first."""

FIX = "appendfsync always, or replicas that are waited for (min-replicas-to-write)"
"""What an operator can do about it."""


class Recent(Generic[T]):
    """What was settled in the last seconds, the oldest first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: deque[tuple[float, T]] = deque(maxlen=MOST)

    def add(self, entry: T) -> None:
        """Remember it for a while."""
        self._drop_old()
        self._entries.append((self._clock(), entry))

    def all(self) -> list[T]:
        """All that is remembered."""
        self._drop_old()
        return [entry for _, entry in self._entries]

    def _drop_old(self) -> None:
        while self._entries and self._clock() - self._entries[0][0] > SECONDS:
            self._entries.popleft()
