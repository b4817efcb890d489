"""How much waits in a queue, how long the oldest job has waited, and how much is claimed: as all queues tell it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from consumer.model import Backlog
from consumer.queues import open_queue
from consumer.queues.faktory_open import FaktoryWithRecords
from consumer.queues.faktory_records import FaktoryRecords
from consumer.queues.redis_server import connect
from consumer.queues.rq import RqQueue
from consumer.settings import Retention, Settings
from enqueue import Job, aio
from enqueue.errors import QueueUnavailable
from enqueue.wire import faktory as wire
from support.faktory_servers import Server, claim_all, serving

JOB = Job(commands=["true"])


async def test_rq(redis_url: str, redis_client: redis.Redis) -> None:
    queue, _ = await open_queue(Settings(queue_url=redis_url, queues="a,b"))
    assert isinstance(queue, RqQueue)
    try:
        assert await queue.backlog() == {"a": Backlog(0, 0, 0.0), "b": Backlog(0, 0, 0.0)}
        async with aio.connect(redis_url) as producer:
            handles = [await producer.enqueue(JOB, queue="a") for _ in range(3)]
        redis_client.hset(f"rq:job:{handles[1].id}", "enqueued_at", "2026-01-01T00:00:00.000000Z")
        await queue.claim(1)
        found = (await queue.backlog())["a"]
        assert found[:2] == (2, 1)
        assert found.oldest is not None
        assert found.oldest > time.time() - 1_767_225_600 - 5
        redis_client.delete(f"rq:job:{handles[1].id}")
        assert (await queue.backlog())["a"] == Backlog(2, 1, None)
    finally:
        await queue.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.faktory)])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with contextlib.asynccontextmanager(serving)(request.param) as found:
        yield found


async def test_faktory(server: Server, redis_url: str) -> None:
    name, empty = server.name(), server.name()
    store = FaktoryRecords(await connect(redis_url), "c", uuid.uuid4().hex, Retention())
    queue = FaktoryWithRecords(
        server.url, [name, empty], records=store, consumer="c", max_bytes=100_000, patience=0.01, fetch_connections=1
    )
    queue.store = store
    await queue.open()
    try:
        await server.push(*[wire.build_job(JOB, name) for _ in range(3)])
        assert len(await claim_all(queue, 1, 1)) == 1
        found = await queue.backlog()
        assert [found[name].waiting, found[name].running] == [2, 1]
        assert found[empty][:2] == (0, 0)
        for oldest in (found[name].oldest, found[empty].oldest):
            assert oldest is None if server.fake else oldest is not None and 0 <= oldest < 60
        queue.store = None
        assert (await queue.backlog())[name].running is None
    finally:
        queue.store = store
        await queue.drain()
        await queue.close()


async def test_a_server_that_is_away(redis_url: str) -> None:
    queue, _ = await open_queue(Settings(queue_url=redis_url))
    assert isinstance(queue, RqQueue)
    there, queue.redis = queue.redis, redis.asyncio.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))
    try:
        with pytest.raises(QueueUnavailable, match="Redis doesn't answer"):
            await queue.backlog()
    finally:
        await queue.redis.aclose()
        queue.redis = there
        await queue.close()
