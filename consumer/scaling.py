"""How many consumers there should be: pure decisions, of what waits, what runs, and what was wanted before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from consumer.model import Backlog
from consumer.settings_scaling import Scaling


def wanted(queues: Iterable[Backlog], replicas: int, slots: int, busy: int, settings: Scaling) -> int:
    """Replicas for this load, between the minimum and the maximum, and never fewer than what runs needs.

    `replicas`: as there are; `slots`: of each; `busy`: ours in use, to guess by where the queue can't say what runs.
    """
    waiting, oldest, running = 0, 0.0, 0
    known = True
    for backlog in queues:
        waiting += backlog.waiting
        oldest = max(oldest, backlog.oldest or 0.0)
        known = known and backlog.running is not None
        running += backlog.running or 0
    if not known:
        running = busy * replicas
    count = math.ceil((waiting + running) / (slots * settings.utilization) - 1e-9)
    if waiting and oldest > settings.oldest:  # more slots than jobs, and still they wait: the consumers are too slow
        count = max(count, replicas + 1)
    return min(settings.max, max(settings.min, count, math.ceil(running / slots)))


class Stabilizer:
    """Follows a rise at once or after a while, and a fall only when nothing higher was wanted for long enough.

    Whoever has just begun knows nothing of before: for the length of a window it doesn't go that way.
    """

    def __init__(self, settings: Scaling, now: float) -> None:
        self._up, self._down, self._began = settings.up_window, settings.down_window, now
        self._past: deque[tuple[float, int]] = deque()

    def decide(self, replicas: int, count: int, now: float) -> int:
        """The replicas to have from `now` on (seconds, on any clock that rises), if `count` are wanted."""
        self._past.append((now, count))
        while self._past[0][0] < now - max(self._up, self._down):
            self._past.popleft()
        if count > replicas:
            low = min(each for at, each in self._past if at >= now - self._up)
            return max(replicas, low) if now - self._began >= self._up else replicas
        high = max(each for at, each in self._past if at >= now - self._down)
        return min(replicas, high) if now - self._began >= self._down else replicas
