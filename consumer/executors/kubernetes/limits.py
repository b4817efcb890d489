"""Budgets of requests, so that an API server is spared whatever we have to do."""

from __future__ import annotations

import asyncio
import time


class Budget:
    """A token bucket that goes below zero in order of arrival: `rate` a second, with bursts of twice that."""

    def __init__(self, rate: float) -> None:
        self._rate, self._burst = rate, max(1.0, 2 * rate)
        self._left, self._counted, self._held = self._burst, time.monotonic(), 0.0

    async def take(self) -> None:
        """Waits for our turn."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._counted) * self._rate) - 1
        self._counted = now
        wait = max(-self._left / self._rate, self._held - now)
        if wait > 0:
            await asyncio.sleep(wait)

    def hold(self, seconds: float) -> None:
        """Nobody's turn for so long: the server has asked for it."""
        self._held = max(self._held, time.monotonic() + seconds)
