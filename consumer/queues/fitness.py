"""Is a Redis fit to keep jobs or Records? Asked at start."""

from __future__ import annotations

import structlog
from redis.asyncio import Redis

from consumer.errors import SetupError
from enqueue.wire.records import place_of

log = structlog.get_logger()

OLDEST = (6, 2)
"""The oldest Redis whose commands suffice (LMOVE, BLMOVE)."""


async def require_fit(redis: Redis, url: str) -> None:
    """Warn of a server that may drop our keys. Raises SetupError for one that is too old, RedisError."""
    info = await redis.info()
    version = tuple(int(part) for part in str(info.get("redis_version", "0")).split(".")[:2])
    if version < OLDEST:
        said = ".".join(map(str, version))
        raise SetupError(f"Redis at {place_of(url)} is {said}; longshore needs {OLDEST[0]}.{OLDEST[1]} or newer")
    if info.get("maxmemory") and info.get("maxmemory_policy") not in ("noeviction", None):
        log.warning(
            "redis_may_evict_jobs", policy=info["maxmemory_policy"], fix="CONFIG SET maxmemory-policy noeviction"
        )
