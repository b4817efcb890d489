"""Jobs listed by tag and status, and explained, on both queues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import redis
import rq

import enqueue
from consumer.executors.process.executor import ProcessExecutor
from enqueue import Job, Status, UsageError
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.wire import records as wire
from support.consuming import until
from support.places import PLACES, Place, placing

JOB = Job(commands=["true"])


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Place]:
    async for found in placing(request.param, redis_url):
        yield found
        if request.param == "faktory":
            with FaktoryClient(found.url) as client:
                client.queue("REMOVE", found.queue)


async def test_jobs_are_listed_by_tag_and_status_the_newest_first(place: Place) -> None:
    async with place.producer() as producer:
        good = await producer.enqueue(Job(commands=["true"], tags=["nightly", "customer:7"]))
        bad = await producer.enqueue(Job(commands=["exit 1"], tags=["nightly"]))
        async with place.consumer():
            await asyncio.gather(good.wait(30), bad.wait(30))
        late = await producer.enqueue(Job(commands=["true"], tags=["nightly"]))
        listed = await producer.jobs(tag="nightly")
        assert [record.id for record in listed] == [late.id, bad.id, good.id]
        assert [record.status for record in listed] == [Status.QUEUED, Status.FAILED, Status.SUCCEEDED]
        assert listed[0].tags == ("nightly",)
        assert listed[2].tags == ("nightly", "customer:7")
        assert [r.id for r in await producer.jobs(tag="nightly", status="failed")] == [bad.id]
        assert [r.id for r in await producer.jobs(tag="customer:7")] == [good.id]
        assert [r.id for r in await producer.jobs(tag="nightly", limit=2)] == [late.id, bad.id]
        assert await producer.jobs(tag="nightly", queue="another") == []
        assert await producer.jobs(tag="nobody") == []
        with pytest.raises(UsageError, match="status: must"):
            await producer.jobs(tag="nightly", status="started")
        with pytest.raises(UsageError, match="limit: must"):
            await producer.jobs(tag="nightly", limit=0)


async def test_jobs_that_have_expired_leave_the_index_and_it_ends_itself(
    place: Place, redis_client: redis.Redis
) -> None:
    async with place.producer() as producer:
        found = await producer.enqueue_many([Job(commands=["true"], tags=["t"])] * 450)
        prefix = "rq:job:" if place.rq else "longshore:job:"
        gone = [handle.id for handle in list(found)[100:430]]
        redis_client.delete(*(prefix + name for name in gone))
        left = await producer.jobs(tag="t", limit=1000)
        assert len(left) == 120
        assert redis_client.zcard("longshore:tag:t") == 120
        assert 0 < redis_client.ttl("longshore:tag:t") <= wire.TAG_KEPT


async def test_the_index_is_bounded(place: Place, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TAG_MOST", 5)
    redis_client.zadd("longshore:tag:t", {"of long ago": 1.0})
    async with place.producer() as producer:
        handles = list(await producer.enqueue_many([Job(commands=["true"], tags=["t"]) for _ in range(12)]))
    kept = {name.decode() for name in redis_client.zrange("longshore:tag:t", 0, -1)}
    assert len(kept) == 5
    assert kept <= {handle.id for handle in handles}


def test_rqs_jobs_are_listed_without_a_tag_too(redis_url: str, redis_client: redis.Redis) -> None:
    stock = rq.Queue("q", connection=redis_client)
    with enqueue.connect(redis_url, queue="q") as producer:
        first = producer.enqueue(JOB)
        second = stock.enqueue("longshore.job", JOB.payload())
        later = producer.enqueue(JOB, delay=60)
        first.cancel()
        assert [r.id for r in producer.jobs(status="queued")] == [second.id, later.id]
        assert [r.id for r in producer.jobs(status=Status.CANCELLED)] == [first.id]
        assert {r.id for r in producer.jobs()} == {first.id, second.id, later.id}
    with (
        enqueue.connect("tcp://127.0.0.1:1", records=redis_url) as producer,
        pytest.raises(UsageError, match="tag: is needed"),
    ):
        producer.jobs()


def words(found: enqueue.Explanation) -> list[str]:
    return [cause.word for cause in found.causes]


async def test_a_consumer_that_can_start_nothing_tells_why(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    why: list[str | None] = ["the cluster is away"]
    monkeypatch.setattr(ProcessExecutor, "trouble", property(lambda self: why[0]))
    async with place.producer() as producer, place.consumer(name="here"):
        handle = await producer.enqueue(Job(commands=["true"], tags=["early"]))

        async def told() -> bool:
            return "consumer_trouble" in words(await handle.explain())

        await until(told)
        assert "consumer here can't start anything now: the cluster is away" in (await handle.explain()).text
        why[0] = None
        await handle.wait(30)
        late = await producer.enqueue(Job(commands=["sleep 600"], tags=["late"]))

        async def quiet() -> bool:
            return words(await late.explain()) == ["running"]

        await until(quiet)
        await late.cancel()
        await late.wait(30)


async def test_a_job_is_explained_from_its_queue_to_its_end(place: Place) -> None:
    async with place.producer() as producer:
        first = await producer.enqueue(Job(commands=["exit 4"], tags=["t"]))
        second = await producer.enqueue(Job(commands=["true"], tags=["t"]))
        alone = await second.explain()
        assert (alone.id, alone.status, alone.queue) == (second.id, "queued", place.queue)
        assert words(alone) == ["no_consumer", "position"]
        assert "longshore run" in (alone.hint or "")
        if place.rq:
            assert "one job is before it" in alone.text
        else:
            assert "2 jobs wait" in alone.text

        async def others_are_named() -> bool:
            return "elsewhere" in (await second.explain()).causes[0].text

        async with place.consumer(queues=f"{place.queue}-other", name="elsewhere"):
            await until(others_are_named)
        async with place.consumer(name="here"):
            await asyncio.gather(first.wait(30), second.wait(30))
            running = await producer.enqueue(Job(commands=["sleep 600"]))

            async def runs() -> bool:
                return await running.status() is Status.RUNNING

            await until(runs)
            assert words(await running.explain()) == ["running"]
            later = await producer.enqueue(JOB, at=datetime.now(UTC) + timedelta(hours=1))
            waits = await later.explain()
            assert words(waits)[0] == "scheduled"
            assert "here" in waits.text
            await running.cancel()
            await running.wait(30)
        failed = await first.explain()
        assert words(failed) == ["exit_code"]
        assert failed.text.splitlines()[1] == "- exited with code 4"
        assert failed.hint is not None
        assert words(await second.explain()) == ["succeeded"]
        assert failed.as_dict()["causes"] == [{"word": "exit_code", "text": "exited with code 4"}]


async def test_what_holds_all_of_rq_is_told(redis_url: str, redis_client: redis.Redis) -> None:
    stock = rq.Queue("q", connection=redis_client)
    with enqueue.connect(redis_url, queue="q") as producer:
        parent = stock.enqueue("longshore.job", JOB.payload())
        child = stock.enqueue("longshore.job", JOB.payload(), depends_on=parent)
        redis_client.set("rq:suspended", 1)
        told = producer.handle(child.id).explain()
        assert words(told) == ["suspended", "deferred", "no_consumer"]
        assert parent.id in told.text
        assert "rq resume" in (told.hint or "")
        redis_client.delete("rq:suspended")
        redis_client.lrem("rq:queue:q", 0, parent.id)
        assert words(producer.handle(parent.id).explain()) == ["no_consumer", "unlisted"]
