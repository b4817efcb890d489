"""Why a job is to be stopped."""

from __future__ import annotations

import asyncio

from consumer.model import Stop


class LetGo(Exception):
    """The execution goes on without us, or the claim isn't ours any more: nothing to settle."""


class Switch:
    """Why a job is to be stopped; the first reason wins."""

    def __init__(self) -> None:
        self.reason: Stop | None = None
        self._event = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def due(self, seconds: float) -> None:
        """Say DEADLINE after so many seconds."""
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self.set, Stop.DEADLINE)

    def over(self) -> None:
        """The job has ended. Its deadline would otherwise stay in memory until it comes, a day or more."""
        if self._timer is not None:
            self._timer.cancel()

    def set(self, reason: Stop) -> None:
        """Say it."""
        if self.reason is None:
            self.reason = reason
            self._event.set()

    async def wait(self) -> None:
        """Waits until somebody says one."""
        await self._event.wait()
