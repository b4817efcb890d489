"""Limits by key, on both queues: never more than so many at once, whoever consumes, dies or cancels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
import rq

import enqueue
from consumer.model import Claim, Verdict
from consumer.queues.faktory_open import FaktoryWithRecords
from consumer.queues.limits import Limits
from consumer.queues.rq import RqQueue
from consumer.recording import record_claimed, record_running
from consumer.tasks import end
from enqueue import Job, QueueUnavailable, Status, UsageError
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.record import Where
from support.consuming import until
from support.limits import Consumer, claim_some, consumer, dies, limited, look_now, quiet, settle, sweep
from support.places import PLACES, Place, placing
from support.rq_jobs import FAILURE

PLAIN = Job(commands=["true"])
Open = Callable[[str], Awaitable[Consumer]]


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Place]:
    async for found in placing(request.param, redis_url):
        yield found
        if request.param == "faktory":
            with FaktoryClient(found.url) as client:
                client.queue("REMOVE", found.queue)


@pytest.fixture
async def opened(place: Place) -> AsyncIterator[Open]:
    queues: list[Consumer] = []

    async def open_one(name: str) -> Consumer:
        queues.append(await consumer(place, name))
        return queues[-1]

    yield open_one
    for queue in queues:
        await queue.drain()
        await queue.close()


def parked(client: redis.Redis, key: str = "db") -> list[str]:
    """Ids of the jobs that wait for the key, the first one first."""
    return [name.decode().split(":", 2)[2] for name in client.zrange(f"longshore:parked:{key}", 0, -1)]


def left(client: redis.Redis) -> set[bytes]:
    """What is kept of limits. (A called job's key ends by itself, and holds nothing that counts.)"""
    return {key for kind in ("limit", "parked", "limits") for key in client.keys(f"longshore:{kind}*")}


async def all_parked(queue: Consumer, client: redis.Redis, count: int) -> None:
    """Claims until so many wait, in their order (several FETCHes at a time keep none); nobody else gets one."""
    async with asyncio.timeout(30):
        while len(parked(client)) < count:
            assert await queue.claim(1) == []


async def test_never_more_than_its_number_run_and_all_get_their_turn(
    place: Place, opened: Open, redis_client: redis.Redis
) -> None:
    queues = [await opened("one"), await opened("other")]
    async with place.producer() as producer:
        handles = list(await producer.enqueue_many([limited(3)] * 40))
        running: list[tuple[Consumer, Claim]] = []
        begun: list[str] = []

        async def take(queue: Consumer) -> None:
            while True:
                for claim in await queue.claim(10):
                    running.append((queue, claim))
                    begun.append(claim.id)
                    assert claim.attempt == 1
                    assert len(running) <= 3

        takers = [asyncio.create_task(take(queue)) for queue in queues]
        await until(lambda: len(parked(redis_client)) == 37)
        assert len(running) == 3
        for _ in handles:
            await until(lambda: running or any(taker.done() for taker in takers))
            assert not any(taker.done() for taker in takers)
            await settle(*running.pop(0))
        await end(*takers)
        assert sorted(begun) == sorted(handle.id for handle in handles)
        records = [await handle.record() for handle in handles]
        assert all((r.status, len(r.attempts)) == (Status.SUCCEEDED, 1) for r in records)
        assert left(redis_client) == set()


async def test_who_waits_blocks_nobody_and_its_record_says_what_for(
    place: Place, opened: Open, redis_client: redis.Redis
) -> None:
    queue = await opened("one")
    async with place.producer() as producer:
        first, *others = list(await producer.enqueue_many([limited()] * 20))
        plain = await producer.enqueue(PLAIN)
        other = await producer.enqueue(limited(key="api"))
        claims: list[Claim] = []
        while len(claims) < 3:
            claims += [claim for _, claim in await claim_some([queue], slots=1)]  # one FETCH at a time, in order
        assert [claim.id for claim in claims] == [first.id, plain.id, other.id]
        assert parked(redis_client) == [handle.id for handle in others]
        record = await others[0].record()
        assert (record.status, record.attempt, record.attempts) == (Status.QUEUED, 0, ())
        assert record.message == "waits for its limit 'db' (1 of 1 in use)"
        told = await others[1].explain()
        assert told.causes[0].word == "limit"
        text = f"it waits for its limit 'db': 1 of 1 in use, held by {first.id}; one job waits before it"
        assert told.causes[0].text == text
        assert "scheduled" not in [cause.word for cause in told.causes]
        if place.rq:
            assert redis_client.zcard(f"rq:scheduled:{place.queue}") == 19
            assert redis_client.hget(f"rq:job:{others[0].id}", "status") == b"scheduled"
            assert redis_client.zcard(f"rq:wip:{place.queue}") == 3
        await others[0].cancel()
        redis_client.delete(("rq:job:" if place.rq else "longshore:job:") + others[1].id)
        if place.rq:
            rq.job.Job.fetch(others[2].id, connection=redis_client).cancel()  # it knows nothing of limits
        text = (await others[3].explain()).causes[0].text
        assert text.endswith("it is the next one" if place.rq else "one job waits before it")


async def test_a_dead_consumers_place_passes_on_with_its_claim(
    place: Place, opened: Open, redis_client: redis.Redis
) -> None:
    dead, living = await opened("dead"), await opened("living")
    async with place.producer() as producer:
        first, second = list(await producer.enqueue_many([limited()] * 2))
        ((_, claim),) = await claim_some([dead], slots=1)
        assert claim.id == first.id
        await all_parked(living, redis_client, 1)
        await dies(dead)
        await sweep(living)
        assert redis_client.hlen("longshore:limit:db") == 1  # its pod may run
        again: list[Claim] = []
        async with asyncio.timeout(60):
            while not again:
                look_now(living)
                again = list(await living.claim(10))
        ((taken),) = again
        assert (taken.id, taken.attempt) == (first.id, 1)
        assert taken.token != claim.token
        assert redis_client.hlen("longshore:limit:db") == 1
        await settle(living, taken)
        ((_, last),) = await claim_some([living])
        assert (last.id, last.attempt) == (second.id, 1)
        await settle(living, last)
        assert left(redis_client) == set()


async def test_a_place_whose_claim_is_gone_is_free_by_itself(
    place: Place, opened: Open, redis_client: redis.Redis
) -> None:
    queue = await opened("one")
    async with place.producer() as producer:
        first, second = list(await producer.enqueue_many([limited()] * 2))
        await claim_some([queue], slots=1)
        await all_parked(queue, redis_client, 1)
        redis_client.delete(f"rq:job:{first.id}", f"longshore:job:{first.id}")  # such as by rq's job.delete()
        await sweep(queue)
        ((_, last),) = await claim_some([queue])
        assert last.id == second.id
        await settle(queue, last)


async def test_one_that_is_cancelled_while_it_waits_never_starts(
    place: Place, opened: Open, redis_client: redis.Redis
) -> None:
    queue = await opened("one")
    async with place.producer() as producer:
        _, second, third = list(await producer.enqueue_many([limited()] * 3))
        ((_, claim),) = await claim_some([queue], slots=1)
        await all_parked(queue, redis_client, 2)
        assert await second.cancel()
        assert await second.status() is Status.CANCELLED
        await settle(queue, claim)
        ((_, claim),) = await claim_some([queue])
        assert claim.id == third.id
        await settle(queue, claim)
        assert await second.status() is Status.CANCELLED
        assert await queue.claim(10) == []
        assert left(redis_client) == set()


async def test_between_two_tries_another_one_gets_the_place(
    place: Place, opened: Open, redis_client: redis.Redis
) -> None:
    queue = await opened("one")
    async with place.producer() as producer:
        first, second = list(await producer.enqueue_many([limited(retries=2)] * 2))
        ((_, claim),) = await claim_some([queue], slots=1)
        await all_parked(queue, redis_client, 1)
        await settle(queue, claim, FAILURE, Verdict.RETRY, infrastructure=True)
        ((_, claim),) = await claim_some([queue])
        assert (claim.id, claim.attempt) == (second.id, 1)
        await all_parked(queue, redis_client, 1)
        record = await first.record()
        assert [attempt.attempt for attempt in record.attempts] == [1]
        assert "waits for its limit" in (record.message or "")
        await settle(queue, claim)
        ((_, claim),) = await claim_some([queue])
        assert (claim.id, claim.attempt) == (first.id, 2)  # waiting has used up no try
        await settle(queue, claim)


async def test_each_jobs_own_number_decides_for_itself(place: Place, opened: Open, redis_client: redis.Redis) -> None:
    queue = await opened("one")
    async with place.producer() as producer:
        low = await producer.enqueue(limited(1))
        ((_, first),) = await claim_some([queue])
        waiting = await producer.enqueue(limited(1))
        await all_parked(queue, redis_client, 1)
        high = await producer.enqueue(limited(2))
        ((_, second),) = await claim_some([queue])
        assert (first.id, second.id) == (low.id, high.id)
        await settle(queue, first)
        assert await queue.claim(10) == []  # one still runs, and that is all that it allows
        await settle(queue, second)
        ((_, third),) = await claim_some([queue])
        assert third.id == waiting.id
        await settle(queue, third)


async def test_what_may_run_already_is_never_parked(place: Place, opened: Open, redis_client: redis.Redis) -> None:
    dead, living = await opened("dead"), await opened("living")
    async with place.producer() as producer:
        first = await producer.enqueue(limited())
        ((_, claim),) = await claim_some([dead])
        records = dead.records if isinstance(dead, RqQueue) else dead.store
        assert records is not None
        await records.write(claim, record_running(record_claimed(claim, "dead", "null", ""), Where(), 1.0))
        await quiet(dead)
        redis_client.delete("longshore:limit:db", "longshore:limits")  # the server has forgotten them
        second = await producer.enqueue(limited())
        ((_, other),) = await claim_some([living])
        assert other.id == second.id
        await dies(dead)
        again: list[Claim] = []
        async with asyncio.timeout(60):
            while not again:
                look_now(living)
                again = list(await living.claim(10))
        assert [c.id for c in again] == [first.id]
        await settle(living, again[0])
        await settle(living, other)


async def test_a_question_that_is_asked_twice_takes_one_place_and_gives_back_one_try(
    place: Place, opened: Open, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its answer was lost, and the client sends it again."""
    admit = Limits.admit

    async def twice(self: Limits, claims: list[tuple[str, Claim, str]]) -> object:
        first = await admit(self, claims)
        second = await admit(self, claims)
        verdicts = [[a.verdict == "ours" for a in answers] for answers, _ in (first, second)]
        assert verdicts[0] == verdicts[1]
        return second

    monkeypatch.setattr(Limits, "admit", twice)
    queue = await opened("one")
    async with place.producer() as producer:
        handles = list(await producer.enqueue_many([limited()] * 3))
        ran = []
        for _ in handles:
            ((_, claim),) = await claim_some([queue])
            assert claim.attempt == 1
            assert redis_client.hlen("longshore:limit:db") == 1
            await settle(queue, claim)
            ran.append(claim.id)
        assert sorted(ran) == sorted(handle.id for handle in handles)
        assert left(redis_client) == set()


@pytest.mark.parametrize("done", [False, True], ids=["before it was done", "after"])
async def test_an_outage_between_claim_and_place_costs_nothing(
    place: Place, opened: Open, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    admit, faults = Limits.admit, [redis.ConnectionError("cut")] * 2

    async def cut(self: Limits, claims: list[tuple[str, Claim, str]]) -> object:
        answer = await admit(self, claims) if done or not faults else None
        if faults:
            raise faults.pop()
        return answer

    monkeypatch.setattr(Limits, "admit", cut)
    queue = await opened("one")
    async with place.producer() as producer:
        handles = list(await producer.enqueue_many([limited()] * 3))
        ran = []
        for _ in handles:
            claims: list[Claim] = []
            async with asyncio.timeout(30):
                while not claims:
                    with contextlib.suppress(QueueUnavailable):
                        claims = list(await queue.claim(10))
            assert [claim.attempt for claim in claims] == [1]
            assert redis_client.hlen("longshore:limit:db") == 1
            await settle(queue, claims[0])
            ran.append(claims[0].id)
        assert sorted(ran) == sorted(handle.id for handle in handles)
        assert faults == []
        assert left(redis_client) == set()


async def test_a_called_job_that_doesnt_come_holds_up_nobody_for_long(
    place: Place, opened: Open, redis_client: redis.Redis
) -> None:
    queue = await opened("one")
    async with place.producer() as producer:
        _, second, third = list(await producer.enqueue_many([limited()] * 3))
        ((_, claim),) = await claim_some([queue], slots=1)
        await all_parked(queue, redis_client, 2)
        await settle(queue, claim)
        name = f"rq:job:{second.id}" if place.rq else f"longshore:job:{second.id}"
        assert redis_client.zrange("longshore:called:db", 0, -1) == [name.encode()]
        redis_client.zadd("longshore:called:db", {name: 1})  # its time is over
        if place.rq:
            redis_client.lrem(f"rq:queue:{place.queue}", 0, second.id)
            await sweep(queue)
            ((_, claim),) = await claim_some([queue])
            assert claim.id == third.id
            redis_client.lpush(f"rq:queue:{place.queue}", second.id)
            await all_parked(queue, redis_client, 1)
            late = await producer.enqueue(limited())
            await all_parked(queue, redis_client, 2)
            assert parked(redis_client) == [second.id, late.id]  # in the order in which they first came
        await sweep(queue)


async def test_a_whole_consumer_keeps_it_too(place: Place, redis_client: redis.Redis) -> None:
    """By the times in the Records: how many ran at the same moment."""
    async with place.producer() as producer, contextlib.AsyncExitStack() as stack:
        handles = list(await producer.enqueue_many([limited(2, infrastructure_retries=0)] * 8))
        for name in ("one", "other"):
            await stack.enter_async_context(place.consumer(name=name))
        async with asyncio.timeout(90):
            await asyncio.gather(*(handle.wait(80) for handle in handles))
        moments = []
        for record in [await handle.record() for handle in handles]:
            assert record.times.started is not None
            assert record.times.ended is not None
            moments += [(record.times.started, 1), (record.times.ended, -1)]
        count = most = 0
        for _, step in sorted(moments):
            count += step
            most = max(most, count)
        assert 1 <= most <= 2
        await until(lambda: left(redis_client) == set())


async def test_only_a_job_with_a_limit_costs_a_round_trip_more(
    place: Place, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("admit", "release"):
        asks = getattr(Limits, name)

        def noted(self: Limits, claims: Any, name: str = name, asks: Any = asks) -> Any:
            asked.append(name)
            return asks(self, claims)

        monkeypatch.setattr(Limits, name, noted)
    queue = await opened("one")
    async with place.producer() as producer:
        for job, costs in ((PLAIN, []), (limited(), ["admit"] if place.rq else ["admit", "release"])):
            await producer.enqueue(job)
            ((_, claim),) = await claim_some([queue])
            await settle(queue, claim)
            assert asked == costs


async def test_faktory_without_records_refuses_it(place: Place) -> None:
    if place.rq:
        pytest.skip("RQ keeps its Records itself")
    with enqueue.connect(place.url, queue=place.queue) as producer, pytest.raises(UsageError, match="limit: needs"):
        producer.enqueue(limited())
    queue = FaktoryWithRecords(place.url, [place.queue], records=None, consumer="c", max_bytes=100_000, patience=0.01)
    await queue.open()
    async with place.producer() as told_of_records:
        await told_of_records.enqueue(limited())
    ((_, claim),) = await claim_some([queue])
    assert "--records-url" in (claim.refusal or "")
    await settle(queue, claim, FAILURE)
    await queue.drain()
    await queue.close()
