"""Whether a cluster or engine takes jobs at all, as the last starts found it."""

from __future__ import annotations

import time

PAUSE_FIRST, PAUSE_CAP = 5.0, 60.0
"""Seconds until a start is tried again after a refusal, doubled as long as none works."""


class Circuit:
    """Open after a refusal that no job has caused; closed by a start that works, and for a try after a while."""

    def __init__(self) -> None:
        self._why: str | None = None
        self._until = 0.0
        self._pause = PAUSE_FIRST

    @property
    def trouble(self) -> str | None:
        """Why nothing is to be started; None: try."""
        return self._why if time.monotonic() < self._until else None

    def refused(self, why: str) -> None:
        """A start was refused. Many at once count as one."""
        now = time.monotonic()
        if self._why is not None and now >= self._until:
            self._pause = min(PAUSE_CAP, self._pause * 2)
        self._why, self._until = why, now + self._pause

    def worked(self) -> None:
        """A start worked."""
        self._why, self._until, self._pause = None, 0.0, PAUSE_FIRST
