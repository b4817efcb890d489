"""What was fetched from Faktory on its way to a claim: the store of Records is asked, many jobs in one go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog

from consumer.queues.faktory_settling import ClaimState, FaktoryRecords
from enqueue.wire.faktory_fetched import Fetched

log = structlog.get_logger()

Rest = Callable[[], Awaitable[None]]
Resolved = Callable[[Fetched, str, float, ClaimState], Rest | None]
"""Gets a job, its token, when it came and what is known of it; answers with what is to be awaited before it counts."""


class Resolving:
    """Asks until the store has answered: the jobs are ours for as long as their reservations last."""

    def __init__(
        self, resolved: Resolved, spawn: Callable[[Coroutine[Any, Any, None]], None], news: asyncio.Event
    ) -> None:
        self._resolved, self._spawn, self._news = resolved, spawn, news
        self.count = 0
        """Jobs that aren't resolved yet."""
        self.unstored = 0
        """Of these, the ones that the store didn't take at the first try: it is away."""

    def take(self, records: FaktoryRecords, fresh: Sequence[tuple[Fetched, str]]) -> Coroutine[Any, Any, None]:
        """Jobs with their tokens, which count from now on; to be run as a task until the store has answered."""
        self.count += len(fresh)
        return self._run(records, fresh)

    async def _run(self, records: FaktoryRecords, fresh: Sequence[tuple[Fetched, str]]) -> None:
        todo, now, pause, away = list(fresh), time.time(), 0.2, 0
        try:
            while todo:
                answers = await self._ask(records, todo)
                failed = [job for job, state in zip(todo, answers, strict=True) if isinstance(state, Exception)]
                self.unstored, away = self.unstored + len(failed) - away, len(failed)
                for (fetched, token), state in zip(todo, answers, strict=True):
                    if not isinstance(state, Exception):
                        self._tell(fetched, token, now, state)
                todo = failed
                self._news.set()
                if todo:
                    await asyncio.sleep(pause)
                    pause = min(5.0, pause * 2)
        finally:
            self.count, self.unstored = self.count - len(todo), self.unstored - away
            self._news.set()

    async def _ask(
        self, records: FaktoryRecords, jobs: Sequence[tuple[Fetched, str]]
    ) -> Sequence[ClaimState | Exception]:
        try:
            answers = await records.claim(jobs)
        except Exception as error:
            answers = [error] * len(jobs)
        for (fetched, _), answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Exception) and not self.unstored:
                log.warning("records_unavailable", job_id=fetched.jid, error=str(answer))
                break
        return answers

    def _tell(self, fetched: Fetched, token: str, now: float, state: ClaimState) -> None:
        try:
            rest = self._resolved(fetched, token, now, state)
        except Exception:  # a bug of ours must not take the others of its batch with it
            log.exception("claim_failed", job_id=fetched.jid)
            rest = None
        if rest is None:
            self.count -= 1
        else:
            self._spawn(self._finish(rest))

    async def _finish(self, rest: Rest) -> None:
        try:
            await rest()
        finally:
            self.count -= 1
            self._news.set()
