"""RQ as our queue: claims, heartbeats and endings in one script each, on RQ's own keys."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.errors import ClaimLost, SetupError
from consumer.job_types import JobTypes
from consumer.lifeline import Lifeline
from consumer.model import Backlog, Claim, Settlement, Signal
from consumer.outcome import cancelled_settlement
from consumer.queue_order import QueueOrder
from consumer.queues import rq_scripts as scripts
from consumer.queues.backlog import rq_backlog
from consumer.queues.fitness import require_fit
from consumer.queues.limits import needs_place
from consumer.queues.recent import FIX, Recent
from consumer.queues.redis_server import connect, patiently, run_each, transient, unusable
from consumer.queues.rq_records import RqRecords
from consumer.queues.rq_settle import SETTLE
from consumer.queues.rq_words import claim_of, settling
from consumer.queues.rq_worker import RqWorker
from consumer.queues.spoilt import Troubles
from consumer.queues.webhooks import Webhooks
from consumer.settings import Retention, Rq, Settings
from consumer.tasks import end
from enqueue.errors import QueueUnavailable
from enqueue.wire import records as record_wire
from enqueue.wire import rq as wire
from enqueue.wire.call import Load, the_job
from enqueue.wire.trace import carried

log = structlog.get_logger()

LEASE = 3600
"""Seconds that registry scores reach ahead, so that nobody's clean-up takes jobs while all consumers are down."""
UNANSWERED = 300.0
"""Seconds for which a claim without an answer may still be made; for so long, and until a takeover, it is asked for."""
FORGOTTEN = 1000
"""Older ones that are asked for at most."""

TAKEOVER_EVERY = 5.0
"""Seconds between two looks for claims of dead consumers."""
AT_ONCE = 200
"""Claims that one script makes at most: meanwhile the server answers nobody else."""
READ_AT_ONCE = 32
"""Claims read in one round of the event loop: each takes some 0.1 ms, and other jobs go on meanwhile."""


class RqQueue:
    """The port `Queue` on RQ. One instance belongs to one consumer process. `queues`: as `QueueOrder` reads them."""

    def __init__(
        self,
        url: str,
        queues: Sequence[str],
        *,
        consumer: str,
        max_bytes: int,
        retention: Retention,
        rq: Rq | None = None,
        patience: float = 2.0,
        lifeline: Lifeline | None = None,
        load: Load = the_job,
    ) -> None:
        self.url = url
        self.order = QueueOrder.of(queues)
        self.queues = self.order.names
        self.consumer = consumer
        self.instance = uuid.uuid4().hex
        self.requeues = self.hands_over = True
        self.stopping = asyncio.Event()
        self.terminated = asyncio.Event()
        self._max_bytes, self._load = max_bytes, load
        self._retention = retention
        self._rq = rq or Rq()
        self._patience = patience
        self._lifeline = lifeline
        self._tasks: list[asyncio.Task[None]] = []
        self._waiters: dict[str, asyncio.Task[None]] = {}
        self._unanswered: dict[str, float] = {}
        self._known: dict[str, str] = {}
        """Token -> id of the claims that are ours, the oldest first."""
        self._recent: Recent[Settlement] = Recent()
        self._troubles = Troubles()
        self._pause = 0.0
        self._parked = False
        """The last claim brought jobs that wait for their limit."""

    async def open(self) -> None:
        """Connect and register as a worker. Raises QueueUnavailable, SetupError."""
        self.redis: Redis = await connect(self.url)
        try:
            await self._enter()
        except (RedisError, SetupError) as error:
            await self.redis.aclose()
            raise error if isinstance(error, SetupError) else unusable(self.url, error) from None
        self._waiting: Redis = Redis.from_url(
            record_wire.ours_to_choose(self.url), socket_connect_timeout=5, socket_timeout=30, protocol=2
        )
        self._last_takeover = 0.0
        self._tasks = [asyncio.create_task(work()) for work in (self.worker.stay_alive, self._webhooks.run)]

    async def claim(self, slots: int) -> Sequence[Claim]:
        """Up to `slots` jobs in the queues' order; waits about two seconds for the first one."""
        woken, claims = False, await self._claim_now(slots)
        if not claims:
            woken = await self._work_arrives()
            claims = await self._claim_now(slots)
        # Woken for nothing: others were quicker, or RQ is suspended and its queues are full.
        self._pause = min(1.0, max(0.01, 2 * self._pause)) if woken and not claims else 0.0
        return claims

    def reload(self, settings: Settings) -> None:
        """The order of the same queues, and the job types."""
        self.order = settings.order
        self.queues = self.records.queues = self.worker.queues = self.order.names
        self._load = JobTypes(settings.job_types, only=settings.jobs.types_only).job

    def carried(self, claim: Claim) -> Mapping[str, str]:
        """The trace context in the job's `meta`."""
        return carried(wire.read_meta(claim.native.meta))

    async def drain(self) -> Sequence[Claim]:
        """No more claims. Nothing is ever in flight here: a claim is one step."""
        await self._stop_waiting()
        await self.worker.stopping()
        return []

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        """Keep the claims ours; {token: Signal} for those that are lost or cancelled."""
        signals: dict[str, Signal] = {}
        for start in range(0, len(claims), 500):
            part = claims[start : start + 500]
            args: list[Any] = [wire.utc(), LEASE]
            for claim in part:
                args += [claim.id, claim.queue, claim.token]
            await patiently("beat", self.records.live)  # what is ours now must stay so
            answers = await patiently("beat", lambda args=args: self._beat(keys=[], args=args))  # type: ignore[misc]
            for claim, answer in zip(part, answers, strict=True):
                if isinstance(answer, list):  # it can't be kept alive; it runs, and its claim is ours for an hour
                    self._troubles.tell(answer)
                elif answer == b"lost":  # it won't be settled by us
                    self._known.pop(claim.token, None)
                    signals[claim.token] = Signal.LOST
                elif answer != b"ok":
                    signals[claim.token] = Signal.CANCEL
        return signals

    async def settle(self, settlements: Sequence[Settlement]) -> Mapping[str, Exception]:
        """Outcome, Record and RQ's own bookkeeping of each job in one step; the batch in one round trip."""
        refused: dict[str, Exception] = {}
        todo = list(settlements)
        while todo:
            answers = await patiently("settle", lambda todo=todo: self._send(todo))  # type: ignore[misc]
            again: list[Settlement] = []
            for settlement, answer in zip(todo, answers, strict=True):
                claim = settlement.claim
                if isinstance(answer, Exception):
                    refused[claim.token] = answer
                elif answer[0] == b"meta":
                    claim.native.meta = answer[1]
                    again.append(settlement)
                elif answer[0] in (b"canceled", b"stopped"):
                    claim.native.stopped = answer[0] == b"stopped"
                    again.append(cancelled_settlement(settlement))
                elif answer[0] == b"ok":
                    for left in answer[1:]:
                        self._troubles.tell([claim.id.encode(), claim.queue.encode(), b"not all of the end: " + left])
                else:
                    refused[claim.token] = ClaimLost(
                        f"job {claim.id} was {'deleted' if answer[0] == b'deleted' else 'taken'} meanwhile"
                    )
            todo = again
        for settlement in settlements:
            self._known.pop(settlement.claim.token, None)
            if settlement.claim.token not in refused:
                self._recent.add(settlement)
        return refused

    async def _settle_again(self) -> None:
        """The server was set back: what it has forgotten of the last settlements is told once more."""
        recent = self._recent.all()
        args: list[Any] = []
        for settlement in recent:
            claim = settlement.claim
            args += [claim.id, claim.queue, claim.token, claim.attempt]
        forgotten = [recent[(place - 1) // 4] for place in await self._forgotten(keys=[], args=args)]
        if forgotten:
            log.warning("redis_lost_writes", settled_again=len(forgotten), fix=FIX)
            await self.settle(forgotten)

    async def backlog(self) -> Mapping[str, Backlog]:
        """What waits in each queue."""
        return await rq_backlog(self.redis, self.queues)

    async def close(self) -> None:
        """Say goodbye. Claims that are left may be taken over at once."""
        await self._stop_waiting()
        await end(*self._tasks)
        await self.records.leave(held=bool(self._known))
        await self.worker.leave()
        await self._webhooks.close()
        await self._waiting.aclose()
        await self.redis.aclose()

    async def _claim_now(self, slots: int) -> list[Claim]:
        if self.stopping.is_set():
            return []
        try:
            if self.records.parting.is_set() or time.monotonic() - self._last_takeover > TAKEOVER_EVERY:
                self.records.parting.clear()
                await self.records.bury()
                taken = await self._call(self._takeover, slots)
                if len(taken) < AT_ONCE:  # else there may be more
                    self._last_takeover = time.monotonic()
                if taken:
                    log.info("claims_taken_over", count=len(taken))
                    return taken
            while not (claims := await self._call(self._claim, slots)) and self._parked:
                if self.stopping.is_set():
                    break
            return claims
        except RedisError as error:
            if not transient(error):
                raise
            raise QueueUnavailable(
                f"Redis at {record_wire.place_of(self.url)} doesn't answer: {record_wire.without_secrets(str(error))}"
            ) from None

    async def _call(self, script: Any, slots: int) -> list[Claim]:
        """Claim under fresh tokens; those whose answer is lost are looked for by the takeovers of the next minutes."""
        slots, now = min(slots, AT_ONCE), time.monotonic()
        tokens = [uuid.uuid4().hex for _ in range(slots)]
        queues = self.order.drawn()
        for token in [token for token, since in self._unanswered.items() if now - since >= UNANSWERED][FORGOTTEN:]:
            del self._unanswered[token]  # of a long outage: the first ones are those that a server may have heard
        args = [
            wire.utc(),
            self.consumer,
            self.instance,
            LEASE,
            self._max_bytes,
            slots,
            len(queues),
            *queues,
            *tokens,
        ]
        further = list(self._unanswered) if script is self._takeover else self.order.draws(slots)
        try:
            rows = await script(keys=[], args=args + further)
            claims = await self._within_limits(await self._read(rows))
            if script is self._takeover:  # it was asked for these; what a server heard so late has come by now
                for token in further:
                    if now - self._unanswered.get(token, now) >= UNANSWERED:
                        del self._unanswered[token]
        except BaseException:
            self._unanswered.update(dict.fromkeys(tokens, now))
            self._last_takeover = 0.0
            raise
        self._known.update((claim.token, claim.id) for claim in claims)
        return claims

    async def _read(self, rows: Sequence[Any]) -> list[Claim]:
        claims = []
        for place, row in enumerate(rows):
            if place and place % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
            if len(row) == 3:
                self._troubles.tell(row)
                continue
            try:
                claims.append(claim_of(row, self._max_bytes, self._load, self._rq.callback_queue))
            except Exception as error:  # such as an id that isn't text: it must not cost the others of this answer
                log.error("claim_unreadable", job=repr(row[0])[:200], error=f"{type(error).__name__}: {error}")
        return claims

    async def _within_limits(self, claims: list[Claim]) -> list[Claim]:
        """The claims that may run now; the others are parked. Costs nothing where no job has a limit."""
        limited = [(wire.job_key(claim.id), claim, "") for claim in claims if needs_place(claim)]
        self._parked = False
        if not limited:
            return claims
        answers, _ = await self._limits.admit(limited)
        waiting = {c.token for (_, c, _), a in zip(limited, answers, strict=True) if a.verdict != "ours"}
        self._parked = bool(waiting)
        return [claim for claim in claims if claim.token not in waiting]

    async def _send(self, settlements: Sequence[Settlement]) -> list[Any]:
        def made(settlement: Settlement) -> tuple[list[Any], list[Any]]:
            return [], settling(settlement, self._retention, self.consumer, self._rq)

        return await run_each(self.redis, self._settle, made, settlements)

    async def _work_arrives(self) -> bool:
        """Waits until a queue holds something; says whether one does.

        BLMOVE onto the same end changes nothing and wakes at once.
        """
        for queue in self.queues:
            if queue not in self._waiters or self._waiters[queue].done():
                self._waiters[queue] = asyncio.create_task(self._watch(queue))
        events = [asyncio.ensure_future(event.wait()) for event in (self.stopping, self.records.parting)]
        try:
            await asyncio.wait(events, timeout=self._pause, return_when=asyncio.FIRST_COMPLETED)
            waits = [*events, *self._waiters.values()]
            await asyncio.wait(waits, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
            return any(waiter.done() for waiter in self._waiters.values())
        finally:
            for event in events:
                event.cancel()

    async def _watch(self, queue: str) -> None:
        key = wire.queue_key(queue)
        try:
            while not await self._waiting.blmove(key, key, 5, "LEFT", "LEFT"):
                pass
        except RedisError:
            await asyncio.sleep(0.2)  # the claim that follows reports it

    async def _stop_waiting(self) -> None:
        await end(*self._waiters.values())
        self._waiters = {}

    async def _enter(self) -> None:
        await require_fit(self.redis, self.url)
        self.records = RqRecords(self.redis, self.consumer, self.instance, self._retention, self._lifeline)
        self.records.queues = self.queues
        self.records.terminated = self.terminated
        self.worker = RqWorker(self.redis, self.records, self.consumer, self.queues, lambda: [*self._known.values()])
        self.worker.set_back = self._settle_again
        self._limits = self.worker.limits
        self._webhooks = Webhooks(self.redis, self._rq)
        self._claim = self.redis.register_script(scripts.CLAIM)
        self._takeover = self.redis.register_script(scripts.TAKEOVER)
        self._beat = self.redis.register_script(scripts.BEAT)
        self._settle = self.redis.register_script(SETTLE)
        self._forgotten = self.redis.register_script(scripts.FORGOTTEN)
        await self.records.arrive()
        await self.worker.register()
