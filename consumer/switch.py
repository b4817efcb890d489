"""Why a job is to be stopped."""

from __future__ import annotations

import asyncio
from types import TracebackType

from consumer.model import Stop

INSIST_SECONDS = 0.5
"""Until an interruption is said again: a library may have swallowed the first one."""


class LetGo(Exception):
    """The execution goes on without us, or the claim isn't ours any more: nothing to settle."""


class Switch:
    """Why a job is to be stopped; the first reason wins."""

    def __init__(self) -> None:
        self.reason: Stop | None = None
        self._said: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._interruption: Interruption | None = None

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
            if self._interruption is not None:
                self._interruption.begin()

    def interrupting(self, after: float = 0.0) -> Interruption:
        """To be entered by the job's own task: what it awaits inside is cancelled `after` so many seconds of a stop."""
        return Interruption(self, after)

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


class Interruption:
    """Ends what its task awaits inside once the switch says stop: as a time-out does, without a task of its own.

    What is inside must stand being cancelled, and may have been done by then all the same.
    """

    __slots__ = ("_after", "_before", "_said", "_switch", "_task", "_timer")

    def __init__(self, switch: Switch, after: float) -> None:
        self._switch, self._after = switch, after
        self._timer: asyncio.TimerHandle | None = None
        self._said = 0

    def begin(self) -> None:
        """The switch says stop."""
        self._timer = asyncio.get_running_loop().call_later(self._after, self._cancel)

    def _cancel(self) -> None:
        self._said += 1
        self._task.cancel()
        self._timer = asyncio.get_running_loop().call_later(INSIST_SECONDS, self._cancel)

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._before = task, task.cancelling()
        self._switch._interruption = self
        if self._switch.reason is not None:
            self.begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        self._switch._interruption = None
        if self._timer is not None:
            self._timer.cancel()
        for _ in range(self._said):
            self._task.uncancel()
        ours = self._said > 0 and self._task.cancelling() <= self._before
        return ours and kind is not None and issubclass(kind, asyncio.CancelledError)
