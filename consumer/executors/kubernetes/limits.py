"""Budgets of requests, so that an API server is spared whatever we have to do."""

from __future__ import annotations

import asyncio
import time


class Budget:
    """A token bucket that goes below zero in order of arrival: `rate` a second, with bursts of twice that."""

    def __init__(self, rate: float) -> None:
        self._rate, self._burst = rate, max(1.0, 2 * rate)
        self._left, self._counted = self._burst, time.monotonic()

    async def take(self) -> None:
        """Waits for our turn."""
        self._refill()
        self._left -= 1
        if self._left < 0:
            await asyncio.sleep(-self._left / self._rate)

    def hold(self, seconds: float) -> None:
        """Nobody's turn for so long, and no burst afterwards: the server has asked for it."""
        self._refill()
        self._left = min(self._left, -seconds * self._rate)

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._counted) * self._rate)
        self._counted = now
