"""Batches that form by themselves: what arrives while one round trip is under way goes with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

PAUSE = 0.002
"""Seconds after a batch in which the next one still forms, if it is small: a round trip costs as much as ten items."""
ENOUGH = 32
"""A batch of so many waits for no more."""
AT_ONCE = 16
"""Callers that go on in one round of the event loop: each may have some milliseconds of work for it, and in a round of
hundreds every heartbeat is late."""
LIMIT = 100
"""Items of a batch at most: to write down what is sent of each takes up to a fifth of a millisecond."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Calls `flush` with all items that wait, at most `limit` at once and one call at a time.

    The first item after a while goes at once; where batches follow each other, small ones wait `PAUSE` to grow.
    `flush` answers with a result, or an exception to raise, for each item in order.
    """

    def __init__(
        self, flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]], limit: int = LIMIT
    ) -> None:
        self._flush = flush
        self._limit = limit
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None
        self._ended = -PAUSE

    async def put(self, item: Item) -> Result:
        """Hand in one item; returns when its batch is done. Cancelling the caller doesn't take the item back."""
        return await self._add(item)

    async def put_all(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Hand in several, without a task for each; a result, or its exception, for each in order."""
        futures = [self._add(item) for item in items]
        if futures:
            await asyncio.wait(futures)
        return [future.result() if (error := _error_of(future)) is None else error for future in futures]

    def _add(self, item: Item) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return future

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            while self._waiting:
                if len(self._waiting) < ENOUGH and (rest := self._ended + PAUSE - now()) > 0:
                    await asyncio.sleep(rest)
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                try:
                    results: Sequence[Result | Exception] = await self._flush([item for item, _ in batch])
                except Exception as error:  # an unforeseen error is every caller's
                    results = [error] * len(batch)
                self._ended = now()
                for place, ((_, future), result) in enumerate(zip(batch, results, strict=True)):
                    if place and place % AT_ONCE == 0:
                        await asyncio.sleep(0)
                    if future.done():
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        finally:
            self._task = None
            for _, future in self._waiting:  # only if this task itself was cancelled
                future.cancel()
            self._waiting = []


def _error_of(future: asyncio.Future[Result]) -> Exception | None:
    """Raises CancelledError if the batch was cancelled."""
    error = future.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error
