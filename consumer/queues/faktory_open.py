"""Opens Faktory together with the Redis that keeps its jobs' Records."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from redis.exceptions import RedisError

from consumer.errors import SetupError
from consumer.job_types import JobTypes
from consumer.lifeline import Lifeline
from consumer.model import Backlog, Claim, Settlement
from consumer.opslevel import LEGACY, Dialect, MakeLogJob
from consumer.ports import Queue, Records
from consumer.queues.backlog import faktory_backlog
from consumer.queues.faktory import FaktoryQueue
from consumer.queues.faktory_limits import FaktoryLimits
from consumer.queues.faktory_records import FaktoryRecords
from consumer.queues.faktory_settling import ClaimState
from consumer.queues.faktory_words import log_jobs_of
from consumer.queues.fitness import require_fit
from consumer.queues.limits import key_of, needs_place
from consumer.queues.none import NoRecords
from consumer.queues.redis_server import connect, transient, unusable
from consumer.settings import Settings
from consumer.tasks import end
from enqueue.errors import UsageError
from enqueue.wire import faktory as wire
from enqueue.wire.call import Load
from enqueue.wire.faktory_fetched import Fetched
from enqueue.wire.records import place_of, without_secrets
from enqueue.wire.trace import carried

log = structlog.get_logger()


NO_LIMITS = (
    "limit: needs Records, which this consumer has none of: start it with --records-url, or enqueue the job without it"
)


class FaktoryWithRecords(FaktoryQueue):
    """Faktory, and the store that shows the other consumers that we live, and where the limits' places are kept."""

    store: FaktoryRecords | None = None
    _life: asyncio.Task[None] | None = None
    _limits: FaktoryLimits | None = None

    async def open(self) -> None:
        """Connect to both. Raises QueueUnavailable, SetupError."""
        await super().open()
        if self.store is not None:
            self.hands_over = True
            self.store.queues = self.queues
            await self.store.arrive()
            self._limits = FaktoryLimits(self.store.redis, self._link, self._delivery)
            self._life = asyncio.create_task(self._stay_alive(self.store))

    def reload(self, settings: Settings) -> None:
        """The order of the same queues, and the job types."""
        self.order = settings.order
        self.queues = self.order.names
        if self.store is not None:
            self.store.queues = self.queues
        self._load = _load(settings)

    def carried(self, claim: Claim) -> Mapping[str, str]:
        """The trace context in the job's `custom`."""
        return carried(Fetched(claim.native, 0).custom)

    def log_jobs(self, claim: Claim) -> MakeLogJob | None:
        """How the log becomes jobs, if its producer wants that."""
        return log_jobs_of(claim)

    async def push(self, job: dict[str, Any]) -> None:
        """Put a job on a queue; tried once. Raises QueueUnavailable or ProtocolError."""
        (reply,) = await self._link.exchange([wire.push(job)])
        wire.expect_ok(reply, "PUSH")

    async def claim(self, slots: int) -> Sequence[Claim]:
        """As Faktory's; what a consumer that is gone has left comes at once."""
        if self.store is not None and self.store.parting.is_set():
            self._look_at = 0.0
        return await super().claim(slots)

    async def settle(self, settlements: Sequence[Settlement]) -> Mapping[str, Exception]:
        """As Faktory's; then the places of jobs with a limit are free."""
        refused = await super().settle(settlements)
        if self._limits is not None:
            await self._limits.release([s.claim for s in settlements if s.claim.token not in refused])
        return refused

    async def backlog(self) -> Mapping[str, Backlog]:
        """What waits in each queue."""
        return await faktory_backlog(self._link, self.store.redis if self.store else None, self.queues)

    def _claim_of(self, fetched: Fetched, token: str, now: float, state: ClaimState | None) -> Claim:
        claim = super()._claim_of(fetched, token, now, state)
        return replace(claim, refusal=NO_LIMITS) if key_of(claim) and self.store is None else claim

    def _waits(self, claim: Claim) -> bool:
        return self._limits is not None and needs_place(claim)

    async def _admit(self, claim: Claim) -> None:
        """Ready to run, unless it has to wait for its limit."""
        verdict = "ours"
        if self._limits is not None and needs_place(claim):
            verdict, ending = await self._limits.admit(claim, late=self._late(claim))
            if verdict != "ours":
                self._release(claim)
            if verdict == "parked":
                await self._delivery.tell(self.store, [ending])
        if verdict == "ours":
            await super()._admit(claim)

    async def close(self) -> None:
        """Say goodbye to both."""
        await super().close()
        if self._life is not None:
            await end(self._life)
        if self.store is not None:
            await self.store.leave(held=bool(self._held))
            await self.store.redis.aclose()

    async def _stay_alive(self, store: FaktoryRecords) -> None:
        while True:
            await asyncio.sleep(1)
            try:
                await store.live()
                if store.parting.is_set():
                    self._look_at = 0.0
                    self._news.set()
                if store.rewound.is_set():
                    await store.settle_again()
                if self._limits is not None:
                    await self._limits.sweep()
            except RedisError as error:
                if not transient(error):
                    log.error("sign_of_life_failed", error=without_secrets(str(error)))


async def open_faktory(settings: Settings, portable: bool) -> tuple[Queue, Records]:
    """Connect to Faktory and to the store of Records. Raises UsageError, SetupError, QueueUnavailable."""
    if settings.records_url is None and not settings.no_records:
        raise UsageError(
            "records_url: Faktory keeps no records of its jobs; give --records-url with a Redis for them, or "
            "--no-records to go without (then nobody can wait for a job, read its log or cancel it)"
        )
    store = None
    if settings.records_url is not None:
        redis = await connect(settings.records_url)
        try:
            await require_fit(redis, settings.records_url)
        except (RedisError, SetupError) as error:
            await redis.aclose()
            raise error if isinstance(error, SetupError) else unusable(settings.records_url, error) from None
        lifeline = Lifeline(settings.state_directory, place_of(settings.records_url), portable=portable)
        store = FaktoryRecords(redis, settings.name, uuid.uuid4().hex, settings.retention, lifeline)
    queue = FaktoryWithRecords(
        settings.queue_url,
        settings.queues,
        records=store,
        consumer=settings.name,
        max_bytes=settings.jobs.max_bytes,
        load=_load(settings),
        fetch_connections=settings.faktory.fetch_connections,
        labels=settings.faktory.labels,
        ca_file=settings.faktory.ca,
    )
    queue.store = store
    try:
        await queue.open()
    except BaseException as error:
        await FaktoryQueue.close(queue)
        if store is not None:
            with contextlib.suppress(RedisError):
                await store.redis.aclose()
        if isinstance(error, RedisError) and settings.records_url is not None:
            raise unusable(settings.records_url, error) from None
        raise
    return queue, store or NoRecords()


def _load(settings: Settings) -> Load:
    """Makes Jobs of `longshore.job`, of the operator's types, and of OpsLevel's `legacy` unless he says otherwise."""
    types, faktory = JobTypes(settings.job_types, only=settings.jobs.types_only), settings.faktory
    if not faktory.opslevel or settings.jobs.types_only or types.find(LEGACY) is not None:
        return types.job
    return Dialect(faktory.opslevel_queue, settings.queue_url if faktory.share_url else "").loading(types.job)
