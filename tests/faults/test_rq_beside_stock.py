"""A stock worker's maintenance, a stock scheduler and `rq info` run beside us all the time: they take nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import timedelta

import redis
import rq

from enqueue import Job, aio
from support.consuming import consuming, until
from support.stock import stock_beside

JOBS = 200


async def test_stock_maintenance_beside_us_takes_and_doubles_nothing(redis_url: str, redis_client: redis.Redis) -> None:
    counts: Counter[str] = Counter()
    stock = rq.Queue("q", connection=redis_client)
    beside = asyncio.create_task(stock_beside(redis_url, counts))
    try:
        async with consuming(redis_url, queues="q", concurrency=20), aio.connect(redis_url, queue="q") as producer:
            long = await producer.enqueue(Job(commands=["until test -e go; do sleep 0.1; done"], timeout=600))
            ids = [stock.enqueue("longshore.job", {"commands": ["exit $((RANDOM % 2))"], "shell": ["/bin/bash"]},
                                 retry=rq.Retry(max=1, interval=1)).id for _ in range(JOBS // 10)]  # fmt: skip
            ids += [stock.enqueue_in(timedelta(seconds=1), "longshore.job", {"commands": ["true"]}).id
                    for _ in range(JOBS // 10)]  # fmt: skip
            over = ("finished", "failed")
            await until(lambda: all(job.get_status() in over for job in fetched(stock, ids)), 120)
            seen = counts["rounds"]
            await until(lambda: counts["rounds"] >= seen + 3)
            assert await long.status() == "running"
            await long.cancel()
            assert (await long.wait(30)).status == "cancelled"
    finally:
        beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beside
    assert counts["rounds"] > 5
    for job in fetched(stock, ids):
        attempts = redis_client.hget(job.key, "longshore_attempt")
        results = [result.type.name for result in job.results()]
        assert len(results) == int(attempts or 0), "each attempt has one end"
        assert results[0] == ("SUCCESSFUL" if job.get_status() == "finished" else "FAILED")
        assert not any("AbandonedJob" in (result.exc_string or "") for result in job.results())
    assert redis_client.zcard("rq:wip:q") == 0
    assert redis_client.zcard("rq:scheduled:q") == 0


def fetched(queue: rq.Queue, ids: list[str]) -> list[rq.job.Job]:
    found = rq.job.Job.fetch_many(ids, connection=queue.connection)
    return [job for job in found if job is not None]
