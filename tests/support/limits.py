"""Both queues with one face for the tests of limits: consumers whose claims the test makes and ends itself."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

from consumer.model import Claim, Settlement, Verdict
from consumer.queues.faktory_open import FaktoryWithRecords
from consumer.queues.faktory_records import FaktoryRecords
from consumer.queues.redis_server import connect
from consumer.queues.rq import RqQueue
from consumer.settings import Retention
from consumer.tasks import end
from enqueue import Job, Limit
from enqueue.record import Outcome
from support.places import Place
from support.rq_jobs import SUCCESS, ended

Consumer = RqQueue | FaktoryWithRecords


def limited(concurrency: int = 1, key: str = "db", **fields: Any) -> Job:
    """A job with a limit."""
    return Job(commands=["true"], limit=Limit(key=key, concurrency=concurrency), **fields)


async def consumer(place: Place, name: str) -> Consumer:
    """A consumer of the place, opened; nobody runs its jobs but the test."""
    if place.rq:
        queue: Consumer = RqQueue(
            place.url, [place.queue], consumer=name, max_bytes=100_000, retention=Retention(), patience=0.05
        )
    else:
        store = FaktoryRecords(await connect(place.options["records"]), name, uuid.uuid4().hex, Retention())
        queue = FaktoryWithRecords(
            place.url, [place.queue], records=store, consumer=name, max_bytes=100_000, patience=0.01
        )
        queue.store = store
    await queue.open()
    return queue


async def quiet(queue: Consumer) -> None:
    """It takes no more jobs: a FETCH that is in flight would still get one."""
    assert await queue.drain() == []


async def dies(queue: Consumer) -> None:
    """No sign of life any more, and nothing is said."""
    await quiet(queue)
    if isinstance(queue, RqQueue):
        await end(*queue._tasks)
        await queue.redis.delete(f"longshore:consumer:{queue.instance}")
    else:
        assert queue._life is not None
        assert queue.store is not None
        await end(queue._life)
        await queue.store.redis.delete(f"longshore:consumer:{queue.store.instance}")


def look_now(queue: Consumer) -> None:
    """Its next claim looks for the claims of the dead."""
    if isinstance(queue, RqQueue):
        queue._last_takeover = 0.0
    else:
        queue._look_at = 0.0


async def sweep(queue: Consumer) -> None:
    """Look for places whose holders are gone, as if the time had come."""
    if isinstance(queue, RqQueue):
        for key in await queue.redis.zrange("longshore:limits", 0, -1):
            await queue.redis.zadd("longshore:limits", {key: 1})
        await queue._limits.sweep()
    else:
        assert queue.store is not None
        assert queue._limits is not None
        for key in await queue.store.redis.zrange("longshore:limits", 0, -1):
            await queue.store.redis.zadd("longshore:limits", {key: 1})
        queue._limits._swept = -1e9
        await queue._limits.sweep()


async def settle(
    queue: Consumer, claim: Claim, outcome: Outcome = SUCCESS, verdict: Verdict = Verdict.DONE, **options: Any
) -> None:
    """End a claim; it must be taken."""
    settlement: Settlement = ended(claim, outcome, verdict, **options)
    assert await queue.settle([settlement]) == {}


async def claim_some(queues: Sequence[Consumer], slots: int = 10, seconds: float = 30) -> list[tuple[Consumer, Claim]]:
    """Ask one after the other until one of them has claims."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for queue in queues:
            if claims := await queue.claim(slots):
                return [(queue, claim) for claim in claims]
        await asyncio.sleep(0)
    raise TimeoutError("nobody got a claim")
