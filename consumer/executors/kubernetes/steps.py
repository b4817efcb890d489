"""One step of a pod as the follower of its log sees it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumer.executors.kubernetes.execution import PodExecution


class StepLog:
    """The port `logs.Source`: what the log's follower asks about one container."""

    def __init__(self, execution: PodExecution, step: str) -> None:
        self._execution, self._step = execution, step

    def readable(self) -> bool:
        container = self._execution.container(self._step)
        return container is not None and container.started  # one that never was there has no log to be missed

    def ended(self) -> bool:
        container = self._execution.container(self._step)
        return self._execution.ended or (container is not None and container.state == "terminated")

    def ended_at(self) -> float | None:
        container = self._execution.container(self._step)
        return container.ended_at if container is not None else None

    def watched(self) -> bool:
        return time.monotonic() < self._execution.watched_until

    def news(self) -> asyncio.Future[None]:
        return self._execution.news.next()

    async def changed(self, timeout: float | None = None) -> None:
        await self._execution.news.wait(timeout)
