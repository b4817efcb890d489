"""Ends every job at once with success: for benchmarks of all the rest."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable

from consumer.model import Exit, LogPart, Plan
from enqueue.record import Reason, Where


class NullExecutor:
    """Runs nothing."""

    name = "null"
    detachable = False
    portable = False
    silent = True
    trouble = None

    def __init__(self, consumer: str = "") -> None:
        self._where = Where(executor=self.name, consumer=consumer or None)

    def refuse(self, plan: Plan) -> Iterable[tuple[Reason, str]]:
        """Nothing is refused, as nothing is run."""
        return ()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def start(self, plan: Plan) -> NullExecution:
        """An execution that has ended."""
        return NullExecution(self._where)

    async def close(self) -> None:
        """Nothing is held."""


class NullExecution:
    """Has succeeded before it began."""

    __slots__ = ("_ended", "where")
    waiting_for = ""
    """Nothing."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self._ended = time.time()

    async def logs(self, after: str = "") -> AsyncIterator[LogPart]:
        """No output."""
        nothing: tuple[bytes, ...] = ()
        for chunk in nothing:
            yield chunk

    def watched(self, seconds: float) -> None:
        """There is nothing to see."""

    async def started(self) -> float:
        """When it was made."""
        return self._ended

    async def wait(self) -> Exit:
        """Success."""
        return Exit(code=0, started_at=self._ended, ended_at=self._ended)

    async def stop(self, grace: float) -> None:
        """Has ended already."""

    async def remove(self, *, failed: bool = False) -> None:
        """Leaves nothing."""

    async def detach(self) -> None:
        """Holds nothing."""
