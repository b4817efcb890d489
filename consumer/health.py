"""Whether a consumer lives, and whether it can take jobs: for probes, and in words for people."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from consumer.ports import Executor
from consumer.worker import Worker, now

STALE = 60.0
"""Seconds without a heartbeat after which something is wrong with us, if the queue answers otherwise."""
DOUBT = 20.0
"""Seconds after which a missing heartbeat says that the queue is away."""
PATIENCE = 2.0
"""Seconds that the queue has to show that it isn't."""


@dataclass
class Health:
    """What probes are told. `worker` None: it hasn't begun; `waiting_for` says why."""

    executor: Executor
    waiting_for: str = "the executor"
    worker: Worker | None = None
    ask_queue: Callable[[], Awaitable[object]] | None = None
    """Raises, or gives no answer, while the queue is away."""

    @property
    def silence(self) -> float:
        """Seconds since the last heartbeat that the queue has taken."""
        return 0.0 if self.worker is None else now() - self.worker.heard

    @property
    def queue_up(self) -> bool:
        """The queue answered last."""
        return self.worker is not None and self.worker.trouble is None and self.silence < DOUBT

    def unready(self) -> list[str]:
        """Why no jobs are taken now; empty: they are."""
        worker, why = self.worker, []
        if worker is None:
            return [f"starting: waiting for {self.waiting_for}"]
        if worker.stopped:
            why.append("draining: it was told to stop")
        elif worker.queue.stopping.is_set():
            why.append("quiet: it was told to claim nothing more")
        if (trouble := self.executor.trouble) is not None:
            why.append(f"executor: {trouble}")
        if worker.trouble is not None:
            why.append(f"queue: {worker.trouble}")
        elif self.silence >= DOUBT:
            why.append(f"queue: it has taken no heartbeat for {self.silence:.0f} s")
        return why

    async def dead(self) -> list[str]:
        """Why this process should be started anew; that somebody hears this shows that the event loop turns.

        An outage of the queue or the cluster is no reason: another process would fare no better.
        """
        silence = self.silence
        if silence < STALE or self.worker is None or self.ask_queue is None:
            return []
        try:
            async with asyncio.timeout(PATIENCE):
                await self.ask_queue()
        except Exception:
            return []
        if self.silence < STALE:
            return []
        return [f"no heartbeat for {silence:.0f} s although the queue answers"]
