"""A consumer that is gone without a word, such as with its machine: the living notice by its missing signs of life."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from consumer.model import Claim
from consumer.ports import Queue
from consumer.queues import open_queue
from consumer.settings import Settings
from enqueue import Job, aio
from enqueue.wire.records import CONSUMERS, consumer_key
from support.fake_faktory import FakeFaktory


async def claims_of(queue: Queue) -> list[Claim]:
    found: list[Claim] = []
    while not found:
        found += await queue.claim(5)
    return found


@pytest.mark.parametrize("kind", ["rq", "faktory"])
async def test_the_living_look_for_its_claims_as_soon_as_it_counts_as_gone(
    kind: str, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    async with FakeFaktory() as faktory:
        url, records_url = (redis_url, None) if kind == "rq" else (faktory.url, redis_url)

        async def opened(name: str) -> tuple[Queue, str]:
            there = set(redis_client.zrange(CONSUMERS, 0, -1))
            settings = Settings(
                queue_url=url, records_url=records_url, executor="null", name=name, state_directory=tmp_path / name
            )  # as on a machine of its own
            queue, _ = await open_queue(settings)
            (instance,) = set(redis_client.zrange(CONSUMERS, 0, -1)) - there
            return queue, instance.decode()

        dead, instance = await opened("dead")
        living, _ = await opened("living")
        async with aio.connect(url, records=records_url) as producer:
            await producer.enqueue(Job(commands=["true"]))
        (claim,) = await claims_of(dead)
        for name in ("_tasks", "_life"):  # no more signs of life
            work = getattr(dead, name, None)
            for task in [work] if name == "_life" and work else list(work or ()):
                task.cancel()
        assert await living.claim(5) == []  # and so its regular look is over
        redis_client.delete(consumer_key(instance))
        redis_client.zadd(CONSUMERS, {instance: time.time() - 9})
        (taken,) = await claims_of(living)
        assert (taken.id, taken.attempt) == (claim.id, claim.attempt)
        assert taken.token != claim.token
        await living.close()
        await dead.close()
