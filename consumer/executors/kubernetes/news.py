"""Waiting for news, at the cost of a future for each who waits: thousands of pods are waited for, mostly in vain."""

from __future__ import annotations

import asyncio
import contextlib


class News:
    """Wakes all who wait, each time that there is something new."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def next(self) -> asyncio.Future[None]:
        """Done at the next news. Whoever waits no longer says so by `forget`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def forget(self, future: asyncio.Future[None]) -> None:
        """Nobody waits for it any more."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(future)

    async def wait(self, timeout: float | None = None) -> None:
        """Waits for news, at most `timeout` seconds."""
        future = self.next()
        timer = None if timeout is None else future.get_loop().call_later(timeout, _wake, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            self.forget(future)

    def tell(self) -> None:
        """There is something new."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                _wake(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
