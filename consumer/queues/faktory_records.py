"""Records of Faktory's jobs in Redis, and with them what another consumer needs to go on with a claim."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.batch import Batcher
from consumer.errors import ClaimLost
from consumer.lifeline import Lifeline
from consumer.model import Claim, Settlement, Signal
from consumer.queues import faktory_scripts as scripts
from consumer.queues.faktory_words import MARGIN, Ending, untold_of
from consumer.queues.recent import FIX, Recent
from consumer.queues.records import WHILE_RUNNING, RecordStore
from consumer.queues.redis_server import patiently, run_all
from consumer.settings import Retention
from enqueue.record import Record
from enqueue.wire import records as wire
from enqueue.wire.faktory_fetched import Fetched, decode

log = structlog.get_logger()

AT_ONCE = 200
"""Claims that one script takes over at most: meanwhile the server answers nobody else."""


@dataclass(frozen=True, slots=True)
class ClaimState:
    """What the store knows of a Faktory job that was just fetched.

    `verdict`: "ours" to run (the attempt is counted), "held" by another living consumer, "final" (succeeded,
    cancelled), "failed" for good, of which Faktory may not have been told, "spoilt": its hash is none.
    """

    attempt: int
    record: Record | None
    cancelled: bool
    verdict: Literal["ours", "held", "final", "failed", "spoilt"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A Faktory job that a dead consumer held. `until`: the end of its reservation, seconds since the epoch."""

    token: str
    fetched: Fetched
    state: ClaimState
    until: float


class FaktoryRecords(RecordStore):
    """Records of Faktory's jobs, which Faktory itself can't keep: hash `longshore:job:<jid>`."""

    def __init__(
        self, redis: Redis, consumer: str, instance: str, retention: Retention, lifeline: Lifeline | None = None
    ) -> None:
        super().__init__(redis, consumer, instance, retention, lifeline)
        self._claims: Batcher[tuple[Fetched, str], ClaimState] = Batcher(self._claim_many)
        self._endings: dict[str, Ending] = {}
        self._tellings: Batcher[Ending, None] = Batcher(self._tell_many)
        self._script_claim = redis.register_script(scripts.FAKTORY_CLAIM)
        self._script_beat = redis.register_script(scripts.FAKTORY_BEAT)
        self._script_takeover = redis.register_script(scripts.FAKTORY_TAKEOVER)
        self._script_untold = redis.register_script(scripts.FAKTORY_UNTOLD)
        self._script_told = redis.register_script(scripts.FAKTORY_TOLD)
        self._script_forgotten = redis.register_script(scripts.FAKTORY_FORGOTTEN)
        self._recent: Recent[tuple[Settlement, Ending]] = Recent()

    def key_of(self, claim: Claim) -> str:
        """The claim's hash."""
        return wire.faktory_job_key(claim.id)

    def guard_of(self, claim: Claim, record: Record) -> list[Any]:
        """Arguments 5 to 11 of the WRITE script."""
        ttl = self._keep(claim)
        if record.status.final:
            wanted = claim.job.retention if claim.job else None
            success = record.status.value == "succeeded"
            own = (wanted.success if success else wanted.failure) if wanted else None
            ttl = own or (self.retention.success if success else self.retention.failure)
        ending = self._endings.get(claim.token)
        return [ttl, "", "", "0", "", "", ending.dumps() if ending else ""]

    async def claim(self, fetched: Sequence[tuple[Fetched, str]]) -> Sequence[ClaimState | Exception]:
        """Take fetched jobs, each under its token, in the store's view; each is atomic.

        Their payloads stay in the store while they run, so that another consumer can go on with them.
        """
        return await self._claims.put_all(fetched)

    async def _claim_many(self, batch: Sequence[tuple[Fetched, str]]) -> Sequence[ClaimState | Exception]:
        answers = await patiently("claim", lambda: run_all(self.redis, self._script_claim, self._calls(batch)))
        return [answer if isinstance(answer, Exception) else _state_of(answer) for answer in answers]

    def _calls(self, batch: Sequence[tuple[Fetched, str]]) -> list[tuple[list[Any], list[Any]]]:
        now, calls = time.time(), []
        for fetched, token in batch:
            jid, seconds = fetched.jid, fetched.reserve_for
            payload = fetched.raw or json.dumps(fetched.native, separators=(",", ":"))
            keys: list[Any] = [wire.faktory_job_key(jid), wire.log_key(jid)]
            args: list[Any] = [
                token, self.instance, seconds + WHILE_RUNNING, jid, fetched.queue, payload, now + seconds,
                fetched.failures,
            ]  # fmt: skip
            calls.append((keys, args))
        return calls

    async def failures(self, jids: Sequence[str]) -> Mapping[str, int]:
        """{jid: failures} as Faktory counted them when it handed a running job to another consumer; none if unknown."""
        pipe = self.redis.pipeline(transaction=False)
        for jid in jids:
            pipe.hget(wire.faktory_job_key(jid), "longshore_failures")
        try:
            found = await pipe.execute()
        except RedisError:  # then it counts as never handed out again, which may cost a try
            return {}
        return {jid: int(count) for jid, count in zip(jids, found, strict=True) if count is not None}

    async def takeover(self, queues: Sequence[str], slots: int) -> Sequence[Taken]:
        """Up to `slots` claims of dead consumers, now under tokens of ours; none while Redis is away."""
        rows: list[Any] = []
        try:
            self.parting.clear()
            await self.bury()
            while (wanted := min(slots - len(rows), AT_ONCE)) > 0:
                tokens = [uuid.uuid4().hex for _ in range(wanted)]
                args: list[Any] = [self.instance, wanted, len(queues), *queues, *tokens]
                some = await self._script_takeover(keys=[], args=args)
                rows += some
                if len(some) < wanted:
                    break
        except RedisError as error:
            log.warning("records_unavailable", error=wire.without_secrets(str(error)))
        return [
            Taken(
                token=row[0].decode(),
                fetched=decode(row[1]),
                state=ClaimState(int(row[2]), wire.read_record(row[3]), bool(row[4]), "ours"),
                until=float(row[5]),
            )
            for row in rows
        ]

    async def untold(self, queues: Sequence[str]) -> Sequence[Ending]:
        """What dead consumers have recorded and may not have told Faktory; ours to tell. None while Redis is away."""
        try:
            rows = await self._script_untold(keys=[], args=[self.instance, AT_ONCE, *queues])
        except RedisError as error:
            log.warning("records_unavailable", error=wire.without_secrets(str(error)))
            return []
        late = time.time() + MARGIN
        return [untold_of(r[0].decode(), r[1].decode(), r[2], late=float(r[3]) < late) for r in rows]

    async def told(self, endings: Sequence[Ending]) -> Sequence[Exception | None]:
        """Faktory has been told: there is nothing left for another consumer to do."""
        return await self._tellings.put_all(endings)

    async def _tell_many(self, batch: Sequence[Ending]) -> Sequence[Exception | None]:
        args = [text for ending in batch for text in (ending.jid, ending.token)]
        await patiently("settle", lambda: self._script_told(keys=[], args=args))
        return [None] * len(batch)

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        """{token: Signal} for claims that are lost or to be cancelled."""
        if not claims:
            return {}
        await patiently("beat", self.live)  # what is ours now must stay so
        args = [text for claim in claims for text in (claim.id, claim.token)]
        answers = await patiently("beat", lambda: self._script_beat(keys=[], args=args))
        signals = {b"lost": Signal.LOST, b"cancel": Signal.CANCEL}
        return {c.token: signals[a] for c, a in zip(claims, answers, strict=True) if a in signals}

    async def settle(self, ends: Sequence[tuple[Settlement, Ending]]) -> Sequence[Exception | None]:
        """Store final Records, or those of jobs that will be tried again, and their endings; ClaimLost of the lost."""
        for settlement, ending in ends:
            self._endings[settlement.claim.token] = ending
        try:
            refused = await self._writes.put_all([(settlement.claim, settlement.record) for settlement, _ in ends])
        finally:
            for settlement, _ in ends:
                self._endings.pop(settlement.claim.token, None)
        for end, error in zip(ends, refused, strict=True):
            if error is None:
                self._recent.add(end)
        return refused

    async def settle_again(self) -> None:
        """The store was set back: what it has forgotten of the last settlements is written once more."""
        recent, args = self._recent.all(), [self.instance]
        for settlement, _ in recent:
            args += [settlement.claim.id, settlement.claim.token, str(settlement.claim.attempt)]
        forgotten = [recent[(place - 2) // 3] for place in await self._script_forgotten(keys=[], args=args)]
        if forgotten:
            log.warning("redis_lost_writes", settled_again=len(forgotten), fix=FIX)
        refused = await self.settle(forgotten)
        for error in refused:
            if error is not None and not isinstance(error, ClaimLost):
                raise error
        await self.told([ending for (_, ending), error in zip(forgotten, refused, strict=True) if error is None])
        self.rewound.clear()  # not before: a store that is away again is asked once more


def _state_of(answer: Sequence[Any]) -> ClaimState:
    record = wire.read_record(answer[2]) if answer[2] else None
    return ClaimState(int(answer[1]), record, bool(answer[3]), answer[0].decode())
