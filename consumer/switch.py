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
        self._said: asyncio.Future[None] | None = None
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
            if self._said is not None and not self._said.done():
                self._said.set_result(None)

    @property
    def said(self) -> asyncio.Future[None]:
        """Done once somebody has said one. For `asyncio.wait` alone, which doesn't cancel it: it is everybody's."""
        if self._said is None:
            self._said = asyncio.get_running_loop().create_future()
            if self.reason is not None:
                self._said.set_result(None)
        return self._said

    async def wait(self) -> None:
        """Waits until somebody says one."""
        await asyncio.wait({self.said})
