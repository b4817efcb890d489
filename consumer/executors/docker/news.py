"""Waiting: for news of an execution, and for an engine that doesn't answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from consumer.executors.docker.engine import EngineError

log = logging.getLogger(__name__)
T = TypeVar("T")

INSIST_FIRST, INSIST_CAP = 0.5, 15.0
"""Seconds between two tries of a call that the engine doesn't answer."""


class News:
    """Wakes all that wait whenever there is something new. `job`: its id, for our own log."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._event = asyncio.Event()

    def tell(self) -> None:
        """There is something new."""
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Future[Any]:
        """Done when something new comes after this call."""
        return asyncio.ensure_future(self._event.wait())

    async def changed(self, timeout: float | None = None) -> None:
        """Waits for something new, at most `timeout` seconds."""
        event = self._event
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            pass

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call for as long as the engine doesn't answer it: what runs may be judged by nothing less."""
        pause, told = INSIST_FIRST, False
        while True:
            try:
                return await call()
            except EngineError as error:
                if not error.passing:
                    raise
                if not told:
                    log.warning("the job %s is waited for: %s", self._job, error)
                    told = True
            await self.changed(pause)
            pause = min(INSIST_CAP, pause * 2)
