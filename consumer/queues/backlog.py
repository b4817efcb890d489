"""How much waits in the queues: asked for metrics and by the autoscaler, a round trip or two each time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.model import Backlog
from consumer.queues.spoilt import usable
from enqueue.errors import QueueUnavailable
from enqueue.wire import records as record_wire
from enqueue.wire import rq as wire

if TYPE_CHECKING:  # a consumer of RQ needs nothing of it
    from consumer.queues.faktory_connection import Link


async def rq_backlog(redis: Redis, queues: Sequence[str]) -> Mapping[str, Backlog]:
    """Of RQ's queues; the next job's age is the oldest one's unless somebody enqueued at the front.

    One whose list is of a wrong type isn't told.
    """
    try:
        async with redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.llen(wire.queue_key(queue))
                pipe.zcard(wire.registry_key("wip", queue))
                pipe.lindex(wire.queue_key(queue), 0)
            answers = usable(await pipe.execute(raise_on_error=False))
            rows = [answers[i : i + 3] for i in range(0, len(answers), 3)]
            for _, _, first in rows:
                pipe.hget(wire.job_key(first.decode("utf-8", "replace") if first else ""), "enqueued_at")
            times = usable(await pipe.execute(raise_on_error=False))
    except RedisError as error:
        raise _away(error) from None
    now, found = time.time(), {}
    for queue, (waiting, running, _), told in zip(queues, rows, times, strict=True):
        if waiting is None:
            continue
        since = wire.from_utc(told)
        oldest = 0.0 if not waiting else None if since is None else max(0.0, now - since)
        found[queue] = Backlog(waiting, running, oldest)
    return found


async def faktory_backlog(link: Link, records: Redis | None, queues: Sequence[str]) -> Mapping[str, Backlog]:
    """Of Faktory's queues. Older servers don't know QUEUE LATENCY; without Records nobody knows what runs.

    Source: the Faktory server's `INFO` and `QUEUE LATENCY`, as 1.10 answers them.
    """
    info, latency = await link.exchange([b"INFO\r\n", b"QUEUE LATENCY " + " ".join(queues).encode() + b"\r\n"])
    sizes = _object(info).get("faktory", {}).get("queues", {})
    ages = _object(latency)
    running: Sequence[int | None] = [None] * len(queues)
    if records is not None:
        try:
            async with records.pipeline(transaction=False) as pipe:
                for queue in queues:
                    pipe.zcard(f"longshore:claims:{queue}")
                running = usable(await pipe.execute(raise_on_error=False))
        except RedisError as error:
            raise _away(error) from None
    return {
        queue: Backlog(int(sizes.get(queue, 0)), claimed, float(ages[queue]) if queue in ages else None)
        for queue, claimed in zip(queues, running, strict=True)
    }


def _object(reply: object) -> dict[str, Any]:
    try:
        said = json.loads(reply) if isinstance(reply, bytes) else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _away(error: RedisError) -> QueueUnavailable:
    return QueueUnavailable(f"Redis doesn't answer: {record_wire.without_secrets(str(error))}")
