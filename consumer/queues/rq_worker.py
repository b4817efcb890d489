"""Our entry among RQ's workers, as `rq info` and rq-dashboard read it, and the upkeep that RQ's workers do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.queues.limits import SWEEP_EVERY, Limits
from consumer.queues.redis_server import transient
from consumer.queues.rq_records import RqRecords
from consumer.queues.rq_settle import MAINTAIN, PROMOTE
from consumer.queues.spoilt import Troubles
from enqueue.wire import records as record_wire
from enqueue.wire import rq as wire

log = structlog.get_logger()

WORKER_TTL = 480
"""Seconds after which RQ forgets a worker that gives no sign of life: rq's 420 and 60."""
MAINTENANCE = 600.0
"""Seconds between two cleanings of RQ's registries, as rq's workers do it."""
SUSPENDED = "rq:suspended"


class RqWorker:
    """One consumer as a worker of RQ. `running`: the ids of the jobs that it holds, the oldest first."""

    def __init__(
        self, redis: Redis, records: RqRecords, name: str, queues: Sequence[str], running: Callable[[], Sequence[str]]
    ) -> None:
        self.redis, self.records, self.queues = redis, records, tuple(queues)
        self.key = wire.worker_key(name)
        self._running = running
        self.set_back: Callable[[], Awaitable[None]] = _nothing
        """What to do when the server may have forgotten what it had acknowledged."""
        self._birth = wire.utc()
        self._cleaned = -MAINTENANCE
        self.limits, self._swept = Limits(redis), time.monotonic()
        self._troubles = Troubles()
        self._promote = redis.register_script(PROMOTE)
        self._maintain = redis.register_script(MAINTAIN)

    async def register(self, *, anew: bool = True) -> None:
        """Enter ourselves; a former consumer of this name is written over, unless it is only we who were forgotten."""
        fields: dict[Any, Any] = {
            "birth": self._birth,
            "last_heartbeat": wire.utc(),
            "queues": ",".join(self.queues),
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "ip_address": await self._address(),
            "version": f"longshore {_version()}",
            "python_version": sys.version,
            "state": "busy" if self._running() else "idle",
        }
        async with self.redis.pipeline() as pipe:
            if anew:
                pipe.delete(self.key)
            pipe.hset(self.key, mapping=fields)
            pipe.sadd(wire.WORKERS, self.key)
            for queue in self.queues:
                pipe.sadd(f"{wire.WORKERS}:{queue}", self.key)
            pipe.expire(self.key, WORKER_TTL)
            await pipe.execute()

    async def stay_alive(self) -> None:
        """Signs of life, scheduled jobs and upkeep, every second until cancelled."""
        while True:
            try:
                await self.records.live()
                if self.records.rewound.is_set():
                    await self.set_back()
                    self.records.rewound.clear()  # not before: a server that is away again is asked once more
                await self.beat()
                for trouble in await self._promote(keys=[], args=[wire.utc(), *self.queues]):
                    self._troubles.tell(trouble)
                if time.monotonic() - self._swept >= SWEEP_EVERY:
                    self._swept = time.monotonic()
                    await self.limits.sweep()
                if time.monotonic() - self._cleaned >= MAINTENANCE:
                    self._cleaned = time.monotonic()
                    await self._maintain(keys=[], args=self.queues)
            except RedisError as error:
                if not transient(error):  # without a sign of life our jobs would be taken away: never give up
                    log.error("sign_of_life_failed", error=record_wire.without_secrets(str(error)))
                    await asyncio.sleep(4)
            await asyncio.sleep(1)

    async def beat(self) -> None:
        """What RQ's pages show of us: state, heartbeat, and of our jobs the oldest one."""
        running = self._running()
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.exists(SUSPENDED)
            pipe.hexists(self.key, "birth")
            pipe.hset(self.key, "last_heartbeat", wire.utc())
            pipe.expire(self.key, WORKER_TTL)
            if running:
                pipe.hset(self.key, "current_job", running[0])
            else:
                pipe.hdel(self.key, "current_job")
            suspended, known, *_ = await pipe.execute()
        if not known:  # it had expired, or somebody emptied the server
            await self.register(anew=False)
        state = "busy" if running else "suspended" if suspended else "idle"
        await self.redis.hset(self.key, "state", state)

    async def stopping(self) -> None:
        """We were told to stop."""
        with contextlib.suppress(RedisError):
            await self.redis.hset(self.key, "shutdown_requested_date", wire.utc())

    async def leave(self) -> None:
        """We are gone; the pages show it for a minute."""
        with contextlib.suppress(RedisError):
            async with self.redis.pipeline(transaction=False) as pipe:
                pipe.srem(wire.WORKERS, self.key)
                for queue in self.queues:
                    pipe.srem(f"{wire.WORKERS}:{queue}", self.key)
                pipe.hdel(self.key, "current_job")
                pipe.hset(self.key, "death", wire.utc())
                pipe.expire(self.key, 60)
                await pipe.execute()

    async def _address(self) -> str:
        with contextlib.suppress(RedisError):  # a right that we don't have
            info = await self.redis.client_info()
            return str(info.get("addr", "unknown"))
        return "unknown"


async def _nothing() -> None: ...


def _version() -> str:
    try:
        return version("longshore")
    except PackageNotFoundError:
        return "unknown"
