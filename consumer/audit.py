"""`longshore audit`: is anything lost, doubled, orphaned or overdue? Reads queue, Records and cluster; changes nothing.

All of it moves while it is read, so what a look finds is told only if a second one, some time later, finds it too.
That time is also what a consumer gets to mend it by itself: to take over a claim, to sweep a pod, to call a job.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.audit_kinds import Looked
from consumer.model import AttemptKey, Standing
from consumer.queues import audit_faktory, audit_rq, scheme_of
from consumer.queues.audit import Reader, look_at_keys, look_at_limits, look_at_webhooks, text
from consumer.queues.redis_server import connect, unusable
from consumer.settings import Settings
from enqueue.backends import RQ_SCHEMES
from enqueue.errors import UsageError
from enqueue.wire import records as wire

PATIENCE = 15.0
"""Seconds between two looks: more than a takeover takes."""
MOST = 200_000
"""Entries of a list, and keys of a kind, that are looked at."""


async def audit(
    settings: Settings,
    patience: float = PATIENCE,
    most: int = MOST,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Looked:
    """Look twice, `patience` seconds apart. Raises UsageError, SetupError, QueueUnavailable."""
    rq = scheme_of(settings.queue_url) in RQ_SCHEMES
    url = settings.queue_url if rq else settings.records_url
    if url is None:
        raise UsageError("records_url: without Records there is nothing to audit; give --records-url with their Redis")
    redis = await connect(url)
    try:
        first = await _look(redis, settings, rq, most)
        if not first.faults or patience <= 0:
            return first
        await pause(patience)
        second = await _look(redis, settings, rq, most)
    except RedisError as error:
        raise unusable(url, error) from None
    finally:
        await redis.aclose()
    both = set(first.faults) & set(second.faults)
    return replace(second, faults=[fault for fault in second.faults if fault in both])


async def _look(redis: Redis, settings: Settings, rq: bool, most: int) -> Looked:
    looked = Looked()
    reader = Reader(redis, most, looked)
    queues = settings.order.names
    await (audit_rq.look_at_rq if rq else audit_faktory.look_at_faktory)(reader, queues)
    await look_at_limits(reader)
    if rq:
        await look_at_webhooks(reader)
    await look_at_keys(reader)
    source = text(await redis.get(wire.SOURCE))
    if settings.executor == "kubernetes" and source:
        from consumer.executors.kubernetes.audit import look_at_pods

        await look_at_pods(settings.kubernetes, source, functools.partial(_standings, reader), looked)
    return looked


async def _standings(reader: Reader, attempts: Sequence[AttemptKey]) -> list[Standing]:
    """Where attempts stand, whichever queue they are from: both may keep their Records in this store."""
    on_rq, on_faktory = [await ask(reader, attempts) for ask in (audit_rq.standings, audit_faktory.standings)]
    pairs = zip(on_rq, on_faktory, strict=True)
    return [one if one is Standing.HELD or other is Standing.GONE else other for one, other in pairs]
