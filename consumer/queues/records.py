"""Records and logs in Redis: one shape for both queues, written under the claim's token."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.exceptions import (
    RedisError,
)

from consumer.batch import Batcher
from consumer.errors import ClaimCancelled, ClaimLost
from consumer.lifeline import Lifeline
from consumer.model import AttemptKey, Claim, LogPosition, Standing
from consumer.queues import scripts
from consumer.queues.log_entries import entries_of, position_fields, position_of
from consumer.queues.redis_server import patiently, run_all, run_each, transient
from consumer.queues.standing import Standings
from consumer.settings import Retention
from enqueue.record import Record
from enqueue.wire import records as wire

T = TypeVar("T")
log = structlog.get_logger()

ALIVE = 8
"""Seconds for which a consumer counts as alive after its last sign of life, which it gives every second."""
ALIVE_BOUND = 15
"""The same for one whose jobs no other machine can go on with: it gets more time to come back."""

CLOCK = 1.0
"""Seconds by which a clock may differ from the server's before that is minded: any two machines' clocks do."""
APPENDS = 32
"""Entries of logs, of 64 KiB at most, that go in one round trip."""

WHILE_RUNNING = 8 * 86_400
"""Seconds to keep what belongs to a job that hasn't ended, beyond its own timeout."""


class RecordStore:
    """What both queues' stores share: logs, writes in batches, sign of life, word of cancellations.

    `redis` must not decode answers. Subclasses say where a claim's hash is and what guards it.
    """

    def __init__(
        self, redis: Redis, consumer: str, instance: str, retention: Retention, lifeline: Lifeline | None = None
    ) -> None:
        self.redis = redis
        self._lifeline = lifeline
        self.parting = asyncio.Event()
        """Set when a consumer has gone: its claims may be taken over."""
        self.rewound = asyncio.Event()
        """Set when another server answers, or the same after a restart: it may have forgotten what was acknowledged."""
        self._run = b""
        self._gone = 0
        self.consumer = consumer
        self.instance = instance
        self.retention = retention
        self.source = ""
        self.ahead = 0.0
        self.trouble: Callable[[], str | None] = lambda: None
        self._standings = Standings(redis)
        self._writes: Batcher[tuple[Claim, Record], None] = Batcher(self._write_many)
        self._appends: Batcher[tuple[list[Any], list[Any]], bytes] = Batcher(self._append_many, limit=APPENDS)
        self._script_write = redis.register_script(scripts.WRITE)
        self._script_append = redis.register_script(scripts.APPEND)
        self._script_keep = redis.register_script(scripts.KEEP)
        self._script_live = redis.register_script(scripts.LIVE)

    queues: Sequence[str] = ()
    """What this consumer takes jobs from, for those who want to know."""

    def key_of(self, claim: Claim) -> str:
        """The claim's hash."""
        raise NotImplementedError

    def guard_of(self, claim: Claim, record: Record) -> list[Any]:
        """Arguments 5 to 10 of the WRITE script."""
        raise NotImplementedError

    def refused(self, claim: Claim, answer: Sequence[Any]) -> bool:
        """True if the write is to be tried again (the script's answer brought what was missing)."""
        return False

    def taken(self, claim: Claim) -> None:
        """The write was taken."""

    def stream_of(self, claim: Claim) -> str:
        """The log's stream."""
        return wire.log_key(claim.id)

    def _keep(self, claim: Claim) -> int:
        return int((claim.timeout or 0) + WHILE_RUNNING)

    async def write(self, claim: Claim, record: Record) -> None:
        """Store the Record of a job that goes on. Raises ClaimLost."""
        await self._writes.put((claim, record))

    async def keep(self, claim: Claim, variables: Mapping[str, str]) -> None:
        """Store large variables beside the Record. Raises ClaimLost."""
        keys = [self.key_of(claim), wire.variables_key(claim.id)]
        args: list[Any] = [claim.token, self._keep(claim)]
        for name, value in variables.items():
            args += [name, value.encode()]
        if await patiently("keep variables", lambda: self._script_keep(keys=keys, args=args)) == b"lost":
            raise ClaimLost(f"job {claim.id} is no longer ours")

    async def _write_many(self, batch: Sequence[tuple[Claim, Record]]) -> Sequence[Exception | None]:
        results: list[Exception | None] = [None] * len(batch)
        todo = list(range(len(batch)))
        while todo:
            answers = await patiently("write records", lambda todo=todo: self._send_writes([batch[i] for i in todo]))  # type: ignore[misc]
            again = []
            for i, answer in zip(todo, answers, strict=True):
                claim = batch[i][0]
                if isinstance(answer, Exception):
                    results[i] = answer
                elif answer[0] == b"ok":
                    self.taken(claim)
                elif answer[0] == b"lost":
                    results[i] = ClaimLost(f"job {claim.id} is no longer ours")
                elif answer[0] == b"canceled":
                    results[i] = ClaimCancelled(f"job {claim.id} was cancelled by its queue")
                elif self.refused(claim, answer):
                    again.append(i)
            todo = again
        return results

    async def _send_writes(self, batch: Sequence[tuple[Claim, Record]]) -> list[Any]:
        return await run_each(self.redis, self._script_write, self._writing, batch)

    def _writing(self, each: tuple[Claim, Record]) -> tuple[list[Any], list[Any]]:
        claim, record = each
        args = [claim.token, record.dumps(), record.status.value, claim.id, *self.guard_of(claim, record)]
        return [self.key_of(claim)], args

    async def append(self, claim: Claim, data: bytes, position: LogPosition) -> None:
        """Append whole lines to the log; a repeat does no harm. Raises ClaimLost; RedisError: try again."""
        await self._append(claim, position, [b"d", data])

    async def end(self, claim: Claim, position: LogPosition) -> None:
        """Mark the end of this attempt's log."""
        dropped = sum(gap.get("lines", 0) for gap in position.gaps)
        totals = [b"lines", position.lines, b"bytes", position.bytes, b"dropped", dropped]
        await self._append(claim, position, [b"end", claim.attempt, *totals])

    async def _append(self, claim: Claim, position: LogPosition, fields: list[Any]) -> None:
        keys = [self.key_of(claim), self.stream_of(claim)]
        entry = wire.entry_id(claim.attempt, position.entries)
        args = [claim.token, entry, self._keep(claim), *position_fields(position), *fields]
        if await self._appends.put((keys, args)) == b"lost":
            raise ClaimLost(f"job {claim.id} is no longer ours")

    async def _append_many(self, batch: Sequence[tuple[list[Any], list[Any]]]) -> Sequence[Any]:
        return await run_all(self.redis, self._script_append, batch)

    async def drop(self, claim: Claim, sequences: Sequence[int]) -> None:
        """Forget entries from the middle of the log."""
        if sequences:
            await self.redis.xdel(self.stream_of(claim), *[wire.entry_id(claim.attempt, n) for n in sequences])

    async def resume(self, claim: Claim) -> LogPosition:
        """How far a former consumer stored this attempt's log."""
        low, high = wire.entry_id(claim.attempt, 0), f"{claim.attempt}-18446744073709551615"
        found = await patiently("read the log", lambda: self.redis.xrevrange(self.stream_of(claim), high, low, count=1))
        if not found:
            return LogPosition()
        entry: Any = found[0][0]
        fields: Any = found[0][1]
        return position_of(entry, fields)

    async def end_unread(self, claim: Claim) -> LogPosition:
        """Mark the end of an attempt's log of which nobody reads the rest; how far it is stored. Raises ClaimLost."""
        stored = await self.resume(claim)
        if stored.ended:
            return stored
        if stored.entries:
            end = replace(stored.unfinished, entries=stored.entries + 1, at=time.time())
            try:
                await patiently("end the log", lambda: self.end(claim, end))
            except RedisError as error:  # a follower ends with the Record all the same
                log.warning("log_without_end", job=claim.id, error=wire.without_secrets(str(error)))
        return stored.unfinished

    async def recorded(self, claim: Claim, after: int, count: int) -> Sequence[tuple[int, LogPosition, bytes]]:
        """Entries of this attempt's log, for a sink that has yet to store them."""
        low, high = wire.entry_id(claim.attempt, after + 1), f"{claim.attempt}-18446744073709551615"
        rows: Any = await patiently("read the log", lambda: self.redis.xrange(self.stream_of(claim), low, high, count))
        return entries_of(rows)

    async def arrive(self) -> None:
        """The first sign of life: nobody was cut off by our start, so the dead may be told at once."""
        if self._lifeline is not None:
            self._lifeline.hold(self.instance)
        self.source = await self._standings.identify()
        await self.redis.hset(wire.consumer_key(self.instance), "since", 0)
        await self.live()

    async def live(self) -> None:
        """One sign of life; to be given every few seconds."""
        life = ALIVE if self._lifeline is None or self._lifeline.portable else ALIVE_BOUND
        trouble, queues = (self.trouble() or "")[:500], ",".join(self.queues)
        args: list[Any] = [self.consumer, life, life - 5, self.instance, queues, trouble, ALIVE]
        asked = time.time()
        run, gone, clock = await self._script_live(keys=[wire.consumer_key(self.instance)], args=args)
        took = time.time() - asked
        ahead = asked + took / 2 - float(clock)
        self.ahead = ahead if abs(ahead) > CLOCK + took else 0.0
        if gone > self._gone:
            self.parting.set()
        self._gone = gone
        if self._run and run != self._run:
            self.rewound.set()
        self._run = run

    async def standing(self, attempts: Sequence[AttemptKey]) -> Sequence[Standing]:
        """Where each attempt stands. Raises QueueUnavailable."""
        return await self._standings.ask(attempts)

    async def leave(self, *, held: bool = False) -> None:
        """We are gone. Claims that we `held` may be taken over at once, or on this machine alone if not portable."""
        bound = held and self._lifeline is not None and not self._lifeline.portable
        if not bound:
            with contextlib.suppress(RedisError):
                await self._part([self.instance])
        if self._lifeline is not None:
            self._lifeline.release(stay=bound)

    async def bury(self) -> None:
        """Consumers of this machine that are dead for certain: their claims may be taken over at once."""
        dead = self._lifeline.dead() if self._lifeline is not None else []
        if dead and self._lifeline is not None:
            await self._part(dead, tell=self._lifeline.portable)
            self._lifeline.forget(dead)

    async def _part(self, instances: Sequence[str], *, tell: bool = True) -> None:
        """These are gone. `tell`: whoever lives shall look for their claims now, not only we."""
        await self.redis.delete(*map(wire.consumer_key, instances))
        await self.redis.zrem(wire.CONSUMERS, *instances)
        if tell:
            await self.redis.publish(wire.PARTINGS, ",".join(instances))

    async def cancellations(self) -> AsyncIterator[str]:
        """Ids of jobs that somebody wants cancelled, as they come; reconnects by itself."""
        async for message in self._messages(self.channels()):
            if job_id := await self.cancelled_id(message):
                yield job_id

    async def watched(self) -> AsyncIterator[str]:
        """Ids of jobs whose logs somebody follows, as they are announced; reconnects by itself."""
        async for message in self._messages([wire.WATCHED]):
            yield message.decode("utf-8", "replace")

    async def _messages(self, channels: Sequence[str]) -> AsyncIterator[bytes]:
        while True:
            try:
                async with self.redis.pubsub() as pubsub:
                    await pubsub.subscribe(*channels)
                    while True:
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=10)
                        if message and message["channel"] == wire.PARTINGS.encode():
                            self.parting.set()
                        elif message:
                            yield message["data"]
            except RedisError as error:
                if not transient(error):
                    raise
                await asyncio.sleep(1)

    def channels(self) -> list[str]:
        """Where cancellations are announced."""
        return [wire.CANCELLATIONS, wire.PARTINGS]

    async def cancelled_id(self, message: bytes) -> str | None:
        """The job's id in a message. The job's hash says whether it is meant: channels know no databases."""
        return message.decode("utf-8", "replace")
