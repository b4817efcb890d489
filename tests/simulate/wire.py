"""One process' way to one server: it takes time, and what is sent, or answered, may be lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TypeVar

from simulate.clock import Process, VirtualLoop

T = TypeVar("T")


class Weather:
    """How things are between a server and all who use it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.down = False
        """Nobody gets through, and nothing that is under way is answered."""
        self.slow = 1.0
        """So many times as slow as on a good day."""
        self.lose_replies = 0.0
        """The share of answers that are lost after the deed."""
        self.refuse = 0.0
        """The share of requests that don't arrive."""

    def passage(self) -> float:
        """Seconds for one way."""
        return self.rng.uniform(0.0002, 0.003) * self.slow


class Wire:
    """`failure` makes the error that the client sees of a connection that broke."""

    def __init__(
        self, loop: VirtualLoop, process: Process, weather: Weather, failure: Callable[[str], Exception]
    ) -> None:
        self.loop, self.process, self.weather, self._failure = loop, process, weather, failure

    async def call(self, deed: Callable[[], T]) -> T:
        """Have it done by the server. What was sent arrives, whatever becomes of the sender."""
        weather, answer = self.weather, self.loop.create_future()
        if self.process.dead:
            raise asyncio.CancelledError

        def arrive() -> None:
            if weather.down or weather.rng.random() < weather.refuse:
                self.loop.later(weather.passage(), fail, "connection refused")
                return
            try:
                done = deed()
            except Exception as error:
                self.loop.later(weather.passage(), reply, None, error)
                return
            if weather.rng.random() < weather.lose_replies:
                self.loop.later(weather.passage(), fail, "connection reset")
            else:
                self.loop.later(weather.passage(), reply, done, None)

        def fail(why: str) -> None:
            if not answer.done():
                answer.set_exception(self._failure(why))

        def reply(done: T, error: Exception | None) -> None:
            if weather.down:
                fail("connection reset")
            elif answer.done():
                pass
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done)

        self.loop.later(weather.passage(), arrive)
        return await answer  # type: ignore[no-any-return]
