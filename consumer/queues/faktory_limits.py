"""Limits of Faktory's jobs: places in the Redis with the Records; Faktory keeps what waits as scheduled jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.batch import Batcher
from consumer.model import Claim
from consumer.queues.faktory_connection import Link
from consumer.queues.faktory_settling import Delivery
from consumer.queues.faktory_words import Ending, parked_of
from consumer.queues.limits import SWEEP_EVERY, Admission, Limits, key_of
from consumer.queues.redis_server import patiently
from enqueue.errors import ProtocolError, QueueUnavailable
from enqueue.wire import faktory as wire
from enqueue.wire import records as record_wire

log = structlog.get_logger()

BACK_AFTER, PER_WAITING, LONGEST = 5.0, 0.05, 120.0
"""Seconds after which a parked job comes back even if nobody calls it: the more wait for the key, the later."""


class FaktoryLimits:
    """The limits in the store of one consumer's Records, and the word to Faktory of who may come back."""

    def __init__(self, redis: Redis, link: Link, delivery: Delivery) -> None:
        self._limits, self._link, self._delivery = Limits(redis), link, delivery
        self._admissions: Batcher[tuple[str, Claim, str], Admission] = Batcher(self._admit_many)
        self._waiting: dict[str, int] = {}
        self._swept = time.monotonic()

    async def admit(self, claim: Claim, *, late: bool) -> tuple[str, Ending]:
        """Take a place, or have none: "ours", "parked" (the Ending is to be told), or "gone". Tries until it is done.

        `late`: Faktory may have taken the job back.
        """
        pause = 0.2
        wait = min(LONGEST, BACK_AFTER + PER_WAITING * self._waiting.get(key_of(claim), 0))
        ending = parked_of(claim, time.time() + wait, late=late)
        found: Admission | None = None
        while found is None:
            try:
                found = await self._admissions.put((record_wire.faktory_job_key(claim.id), claim, ending.dumps()))
            except Exception as error:  # the claim is ours for as long as its reservation lasts: try on
                log.warning("records_unavailable", job_id=claim.id, error=record_wire.without_secrets(str(error)))
                await asyncio.sleep(pause)
                pause = min(5.0, pause * 2)
        if len(self._waiting) > 1000:
            self._waiting.clear()
        self._waiting[key_of(claim)] = found.waiting
        return found.verdict, ending

    async def release(self, claims: Sequence[Claim]) -> None:
        """These have ended. What fails here is made good by the next sweep."""
        ended = [(record_wire.faktory_job_key(claim.id), claim) for claim in claims if key_of(claim)]
        if not ended:
            return
        try:
            await self._call(await self._limits.release(ended))
        except RedisError as error:
            log.warning("limits_not_released", error=record_wire.without_secrets(str(error)))

    async def sweep(self) -> None:
        """Every few seconds: free what nobody holds any more. Raises RedisError."""
        if time.monotonic() - self._swept >= SWEEP_EVERY:
            self._swept = time.monotonic()
            await self._call(await self._limits.sweep())

    async def _admit_many(self, batch: Sequence[tuple[str, Claim, str]]) -> Sequence[Admission]:
        answers, jids = await patiently("claim", lambda: self._limits.admit(batch))
        await self._call(jids)
        return answers

    async def _call(self, jids: Sequence[str]) -> None:
        """Have Faktory bring scheduled jobs back now; else they come at their time."""
        if not jids:
            return
        try:
            await self._link.exchange([wire.mutate("requeue", "scheduled", jid=jid) for jid in jids])
        except (QueueUnavailable, ProtocolError) as error:
            log.info("waiting_jobs_not_called", count=len(jids), error=str(error))
