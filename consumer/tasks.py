"""Tasks: ended for sure, begun beside a wait or few at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

AT_ONCE = 8
"""Jobs that are begun in one round of the event loop: each takes some milliseconds of it until it has started."""


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended; their errors are dropped.

    Asks again where a library has swallowed the first cancellation (redis-py while it connects, for one).
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # so that nobody complains that it was never asked for


async def together(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of what runs side by side. One error ends them all: it is raised once nothing of them runs on."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end(*tasks)


class Beside:
    """A task beside a wait, begun with the event loop's next round: what has ended by then needs none."""

    __slots__ = ("_begun", "_task", "_work")

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work: Callable[[], Coroutine[Any, Any, None]] | None = work
        self._task: asyncio.Task[None] | None = None
        self._begun: asyncio.Handle | None = asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        assert self._work is not None
        self._task = asyncio.create_task(self._work())
        self._task.add_done_callback(self._over)
        self._begun = self._work = None  # thousands go on for hours: nothing is held that isn't needed

    def _over(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # dropped, as by `end`

    async def end(self) -> None:
        """It is needed no more."""
        if self._begun is not None:
            self._begun.cancel()
        if self._task is not None:
            await end(self._task)
            self._task = None


class OnCall:
    """Work that a task does when it is called for, once more if it was called for meanwhile; none waits until then.

    Work that raises is done for good; its error is dropped.
    """

    __slots__ = ("_called", "_task", "_work")

    def __init__(self) -> None:
        self._work: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._called = False

    def call(self) -> None:
        """There is work: for now if it has begun, and not ended."""
        self._called = True
        if self._task is None and self._work is not None:
            self._task = asyncio.create_task(self._go())

    def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """What the work is; it is done now if it has been called for."""
        self._work = work
        if self._called:
            self.call()

    async def _go(self) -> None:
        while self._called and self._work is not None:
            self._called = False
            await self._work()
        self._task = None

    async def end(self) -> None:
        """It is needed no more."""
        self._work = None
        if self._task is not None:
            await end(self._task)
            self._task = None


class Bell:
    """Wakes the one who waits for it; rung before, it needn't be waited for.

    Thousands are held for jobs of which nothing is heard: each of asyncio's events holds 700 bytes more.
    """

    __slots__ = ("_rung", "_waiter")

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """There is something to do."""
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Waits until it was rung since the last time."""
        while not self._rung:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._rung = False


class Pace:
    """Lets `AT_ONCE` through in each round of the event loop, first come, first served.

    Thousands that begin in one round would hold it up for seconds, and with it every heartbeat.
    """

    def __init__(self) -> None:
        self._left = AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Waits for our turn."""
        if self._left == AT_ONCE:
            asyncio.get_running_loop().call_soon(self._next_round)
        if self._left > 0:
            self._left -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        await place

    def _next_round(self) -> None:
        self._left = AT_ONCE
        while self._waiting and self._left > 0:
            place = self._waiting.popleft()
            if not place.done():  # else nobody waits for it any more
                place.set_result(None)
                self._left -= 1
        if self._left < AT_ONCE:
            asyncio.get_running_loop().call_soon(self._next_round)
