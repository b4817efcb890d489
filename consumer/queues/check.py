"""Is the queue's server, and the store of Records, fit for us? Reads only."""

from __future__ import annotations

import json
import time
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.errors import SetupError
from consumer.findings import Finding, Level, clock_finding
from consumer.queues import NEEDLESS, scheme_of
from consumer.queues.fitness import OLDEST
from consumer.queues.redis_server import connect
from consumer.settings import Settings
from enqueue.backends import RQ_SCHEMES
from enqueue.backends.faktory_aio import dial
from enqueue.errors import ProtocolError, QueueUnavailable
from enqueue.wire import faktory as faktory_wire
from enqueue.wire import records as wire
from enqueue.wire import rq as rq_wire


async def check_queue(settings: Settings) -> list[Finding]:
    """Findings about queue and Records. Raises UsageError for a URL that can't work."""
    if scheme_of(settings.queue_url) in RQ_SCHEMES:
        found = await _check_redis("queue", settings.queue_url, settings.order.names)
        if settings.records_url is not None:
            text = f"records_url: {NEEDLESS}, so the consumer won't start"
            found.append(Finding("records", Level.PROBLEM, text, "leave it out"))
        return found
    found = await _check_faktory(settings)
    if settings.records_url is not None:
        found += await _check_redis("records", settings.records_url, ())
    elif settings.no_records:
        text = "no Records are kept: nobody can wait for a job, read its log or cancel it, and nothing is taken over"
        found.append(Finding("records", Level.WARNING, text, "give --records-url with a Redis"))
    else:
        text = "records_url: Faktory keeps no records of its jobs, so the consumer won't start"
        fix = "give --records-url with a Redis for them, or --no-records to go without"
        found.append(Finding("records", Level.PROBLEM, text, fix))
    return found


async def _check_redis(area: str, url: str, queues: tuple[str, ...]) -> list[Finding]:
    try:
        redis = await connect(url)
    except (QueueUnavailable, SetupError) as error:
        return [Finding(area, Level.PROBLEM, str(error), _way_to(error))]
    try:
        before = time.time()
        seconds, micros = await redis.time()
        clock = clock_finding(area, "Redis", float(seconds) + float(micros) / 1e6, before, time.time())
        info = await redis.info()
        found = [_version(area, url, info), *_durability(area, info)]
        if await redis.eval("return 1", 0) != 1:
            found.append(Finding(area, Level.PROBLEM, "its scripts don't work: EVAL gives no answer"))
        return [*found, *await _rq(redis, queues), clock]
    except RedisError as error:
        text = f"Redis at {wire.place_of(url)} refuses what longshore needs: {wire.without_secrets(str(error))}"
        fix = "let the user run scripts and read and write the keys rq:* and longshore:* and their channels"
        return [Finding(area, Level.PROBLEM, text, fix)]
    finally:
        await redis.aclose()


def _way_to(error: Exception) -> str:
    if isinstance(error, QueueUnavailable):
        return "start the server, or mend the URL's host and port"
    return "mend the URL's user, password or database"


def _version(area: str, url: str, info: dict[str, Any]) -> Finding:
    name, said = ("Valkey", info.get("valkey_version")) if "valkey_version" in info else ("Redis", None)
    said = str(said or info.get("redis_version", "0"))
    text = f"{name} {said} at {wire.place_of(url)}"
    if tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2]) < OLDEST:
        return Finding(area, Level.PROBLEM, text, "longshore needs 6.2 or newer")
    return Finding(area, Level.GOOD, text)


def _durability(area: str, info: dict[str, Any]) -> list[Finding]:
    found = []
    policy, limit = str(info.get("maxmemory_policy") or ""), int(info.get("maxmemory") or 0)
    if policy in ("", "noeviction"):
        found.append(Finding(area, Level.GOOD, "it never evicts keys (maxmemory-policy noeviction)"))
    else:
        text = f"maxmemory-policy is {policy}: when memory is short it throws jobs and Records away"
        text += "" if limit else " (not yet: maxmemory sets no limit)"
        level = Level.PROBLEM if limit else Level.WARNING
        found.append(Finding(area, level, text, "CONFIG SET maxmemory-policy noeviction"))
    if info.get("role") == "slave":
        found.append(Finding(area, Level.PROBLEM, "it is a replica: nothing can be written", "name the primary"))
    if not info.get("aof_enabled"):
        text = "it keeps no append-only file: what was written since its last snapshot is lost when it is killed"
        found.append(Finding(area, Level.WARNING, text, "CONFIG SET appendonly yes"))
    return found


async def _rq(redis: Redis, queues: tuple[str, ...]) -> list[Finding]:
    found = []
    if queues and await redis.exists("rq:suspended"):
        text = "RQ is suspended: no job is taken until it is resumed"
        found.append(Finding("queue", Level.WARNING, text, "rq resume"))
    for queue in queues:
        members: Any = await redis.smembers(f"{rq_wire.WORKERS}:{queue}")
        for member in members:
            version: Any = await redis.hget(member, "version")
            if version not in (None, b"longshore"):
                name = member.decode("utf-8", "replace").removeprefix("rq:worker:")
                text = f"the stock RQ worker '{name}' listens on '{queue}' too: it would take jobs and fail them"
                found.append(Finding("queue", Level.PROBLEM, text, "give longshore queues of its own"))
    return found


async def _check_faktory(settings: Settings) -> list[Finding]:
    address = faktory_wire.parse_url(settings.queue_url)
    try:
        connection = await dial(address, ca_file=settings.faktory.ca)
    except (QueueUnavailable, ProtocolError) as error:
        return [Finding("queue", Level.PROBLEM, str(error), _way_to(error))]
    try:
        (reply,) = await connection.exchange([faktory_wire.INFO])
        said = json.loads(reply) if isinstance(reply, bytes) else {}
        version = (said.get("server") or {}).get("faktory_version") or "of an unknown version"
    except (OSError, ValueError) as error:
        return [Finding("queue", Level.PROBLEM, f"Faktory at {address} doesn't answer INFO: {error}")]
    finally:
        await connection.close()
    found = [Finding("queue", Level.GOOD, f"Faktory {version} at {address}")]
    bad = [queue for queue in settings.order if not faktory_wire.is_queue_name(queue)]
    if bad:
        fix = "use letters, digits, '.', '_' and '-' only"
        found.append(Finding("queue", Level.PROBLEM, f"queues: Faktory knows no such name: {', '.join(bad)}", fix))
    return found
