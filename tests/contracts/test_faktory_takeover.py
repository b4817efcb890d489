"""Faktory with Records: a dead consumer's claims pass to a living one, whatever `retry` says."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from consumer.errors import ClaimLost
from consumer.model import Claim, LogPosition, Settlement, Signal, Verdict
from consumer.queues.faktory_open import FaktoryWithRecords
from consumer.queues.faktory_records import FaktoryRecords
from consumer.queues.faktory_words import ending_of
from consumer.queues.redis_server import connect
from consumer.recording import log_of, record_claimed, record_ended, record_running
from consumer.settings import Retention
from consumer.tasks import end
from enqueue.job import Job
from enqueue.record import Outcome, Status, Where
from enqueue.wire import faktory as wire
from enqueue.wire.records import consumer_key
from support.consuming import until
from support.faktory_servers import Kind, Server, serving

JOB = Job(commands=["true"], retries=0)
SUCCESS = Outcome(status=Status.SUCCEEDED, exit_code=0)
Open = Callable[[str, str], Awaitable[FaktoryWithRecords]]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.faktory)])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with contextlib.asynccontextmanager(serving)(request.param) as found:
        yield found


@pytest.fixture
async def opened(server: Server, redis_url: str) -> AsyncIterator[Open]:
    queues: list[FaktoryWithRecords] = []

    async def open_one(name: str, consumer: str) -> FaktoryWithRecords:
        store = FaktoryRecords(await connect(redis_url), consumer, uuid.uuid4().hex, Retention())
        queue = FaktoryWithRecords(
            server.url, [name], records=store, consumer=consumer, max_bytes=100_000, patience=0.01
        )
        queue.store = store
        await queue.open()
        queues.append(queue)
        return queue

    yield open_one
    for queue in queues:
        await queue.drain()
        await queue.close()


async def dies(queue: FaktoryWithRecords) -> None:
    """No sign of life any more."""
    assert queue._life is not None
    assert queue.store is not None
    await end(queue._life)
    await queue.store.leave()


async def claim_one(queue: FaktoryWithRecords) -> Claim:
    queue._look_at = 0.0
    while not (claims := await queue.claim(5)):
        queue._look_at = 0.0
    (claim,) = claims
    return claim


def ended(claim: Claim, outcome: Outcome = SUCCESS, verdict: Verdict = Verdict.DONE) -> Settlement:
    record = record_ended(
        record_claimed(claim, "c", "null", ""), outcome, verdict, Where(), None, log_of("", LogPosition()), time.time()
    )
    return Settlement(claim, verdict, outcome, record)


async def test_the_same_attempt_goes_on_and_the_dead_one_cant_write(
    server: Server, opened: Open, redis_client: redis.Redis
) -> None:
    name = server.name()
    dead, living = await opened(name, "dead"), await opened(name, "living")
    job = wire.build_job(JOB, name)
    assert job["retry"] == -1  # Faktory itself would bury it
    await server.push(job)
    old = await claim_one(dead)
    await dead.store.write(old, record_running(record_claimed(old, "dead", "null", ""), Where(), time.time()))
    living._look_at = 0.0
    assert await living.claim(5) == []  # its consumer lives
    await dies(dead)
    new = await claim_one(living)
    assert (new.id, new.attempt, new.job, new.retries_left) == (old.id, 1, JOB, 0)
    assert new.history is not None
    assert new.history.status is Status.RUNNING
    assert await dead.beat([old]) == {old.token: Signal.LOST}
    refused = await dead.settle([ended(old)])
    assert isinstance(refused[old.token], ClaimLost)
    assert await living.settle([ended(new)]) == {}
    stored: dict[bytes, Any] = redis_client.hgetall(f"longshore:job:{new.id}")
    assert stored[b"longshore_status"] == b"succeeded"
    assert b"longshore_payload" not in stored
    assert redis_client.zcard(f"longshore:claims:{name}") == 0
    assert redis_client.ttl(f"longshore:job:{new.id}") > 0


@pytest.mark.parametrize("verdict", Verdict)
async def test_a_log_that_arrives_after_the_end_is_not_stored(server: Server, opened: Open, verdict: Verdict) -> None:
    """It was given up, and told as a gap."""
    name = server.name()
    queue = await opened(name, "one")
    await server.push(wire.build_job(JOB, name))
    claim = await claim_one(queue)
    await queue.store.append(claim, b"one\n", LogPosition(1, lines=1, bytes=4))
    outcome = SUCCESS if verdict is Verdict.DONE else Outcome(status=Status.FAILED, reason="exit_code", exit_code=3)
    assert await queue.settle([ended(claim, outcome, verdict)]) == {}
    with pytest.raises(ClaimLost):
        await queue.store.append(claim, b"two\n", LogPosition(2, lines=2, bytes=8))
    assert (await queue.store.resume(claim)).lines == 1


async def test_nothing_is_left_to_take_over_after_an_end(
    server: Server, opened: Open, redis_client: redis.Redis
) -> None:
    name = server.name()
    one, other = await opened(name, "one"), await opened(name, "other")
    await server.push(wire.build_job(JOB, name))
    claim = await claim_one(one)
    redis_client.hset(f"longshore:job:{claim.id}", "longshore_cancel", "1")
    failed = Outcome(status=Status.FAILED, reason="exit_code", message="exited with code 1", exit_code=1)
    assert await one.settle([ended(claim, failed, Verdict.BURY)]) == {}
    await dies(one)
    other._look_at = 0.0
    assert await other.claim(5) == []
    # an operator who revives it from the dead set doesn't meet an old cancellation
    assert not redis_client.hexists(f"longshore:job:{claim.id}", "longshore_cancel")


@pytest.mark.parametrize("told", [False, True], ids=["before it told Faktory", "after"])
@pytest.mark.parametrize("how", ["done", "bury", "retry", "infrastructure"])
async def test_what_the_dead_one_recorded_is_told_in_its_place(
    server: Server, opened: Open, redis_client: redis.Redis, how: str, told: bool
) -> None:
    """It dies between the Record and the note that Faktory was told."""
    name = server.name()
    dead, living = await opened(name, "dead"), await opened(name, "living")
    await server.push(wire.build_job(JOB, name) | {"retry": 3})
    claim = await claim_one(dead)
    outcome = SUCCESS if how == "done" else Outcome(status=Status.FAILED, reason="exit_code", exit_code=1)
    verdict = {"done": Verdict.DONE, "bury": Verdict.BURY}.get(how, Verdict.RETRY)
    settlement = replace(ended(claim, outcome, verdict), infrastructure=how == "infrastructure")
    ending = ending_of(settlement, late=False, now=time.time() + 3600)
    assert dead.store is not None
    assert await dead.store.settle([(settlement, ending)]) == [None]
    if told:
        assert await dead._delivery.send([ending]) == {}
    key = f"longshore:job:{claim.id}"
    record = redis_client.hget(key, "longshore")
    living._look_at = 0.0
    assert await living.claim(5) == []
    assert redis_client.hexists(key, "longshore_ending")  # it lives, and will tell it itself
    await dies(dead)
    async with asyncio.timeout(30):
        while redis_client.hexists(key, "longshore_ending"):
            living._look_at = 0.0
            assert await living.claim(5) == []
    assert redis_client.zcard(f"longshore:claims:{name}") == 0
    assert redis_client.hget(key, "longshore") == record
    places = {"done": [], "bury": ["dead"], "retry": ["retries"], "infrastructure": ["scheduled"]}
    kinds: tuple[Kind, ...] = ("dead", "retries", "scheduled")
    assert [kind for kind in kinds if await server.entry(kind, claim.id)] == places[how]
    if server.fake is not None:
        assert not server.fake.working


async def test_what_failed_for_good_is_buried_when_it_comes_again_untold(server: Server, opened: Open) -> None:
    """Nobody was there to tell it before its reservation ended."""
    if server.fake is None:
        pytest.skip("a real reservation takes a minute to end")
    name = server.name()
    dead, living = await opened(name, "dead"), await opened(name, "living")
    await server.push(wire.build_job(JOB, name) | {"retry": 3})
    claim = await claim_one(dead)
    failed = ended(claim, Outcome(status=Status.FAILED, reason="exit_code", exit_code=1), Verdict.BURY)
    assert dead.store is not None
    assert await dead.store.settle([(failed, ending_of(failed, late=False, now=time.time()))]) == [None]
    await dead.drain()
    server.fake.expire(claim.id)
    server.fake.promote()
    async with asyncio.timeout(30):
        while not server.fake.dead:
            assert await living.claim(5) == []
    assert not [*server.fake.working, *server.fake.retries, *server.fake.queues[name]]


async def test_after_an_outage_nobody_is_taken_for_dead_before_it_could_give_a_sign(
    server: Server, opened: Open, redis_client: redis.Redis
) -> None:
    name = server.name()
    holder, other = await opened(name, "holder"), await opened(name, "other")
    await server.push(wire.build_job(JOB, name))
    claim = await claim_one(holder)
    for queue in (holder, other):  # what expires while Redis is away for long
        assert queue.store is not None
        redis_client.delete(consumer_key(queue.store.instance))
    assert holder.store is not None
    assert other.store is not None
    await other.store.live()
    assert await other.store.takeover([name], 5) == []
    redis_client.hset(consumer_key(other.store.instance), "since", 1)
    (taken,) = await other.store.takeover([name], 5)
    assert taken.fetched.jid == claim.id


async def test_a_reservation_that_ended_costs_no_try_also_if_another_consumer_was_handed_the_job(
    server: Server, opened: Open, redis_client: redis.Redis
) -> None:
    name = server.name()
    holder, other = await opened(name, "holder"), await opened(name, "other")
    await server.push(wire.build_job(JOB.model_copy(update={"retries": 1}), name))
    claim = await claim_one(holder)
    await until(lambda: not any(fetcher.busy for fetcher in holder._fetchers))  # else it may be handed to it again
    if server.fake:
        server.fake.expire(claim.id)
        server.fake.promote()
    else:
        failing = [wire.fail(claim.id, "ReservationExpired", "Faktory job reservation expired")]
        await server.client._run(told for told in [[*failing, wire.mutate("requeue", "retries", jid=claim.id)]])
    async with asyncio.timeout(60):
        while redis_client.hget(f"longshore:job:{claim.id}", "longshore_failures") is None:
            assert await other.claim(1) == []
    failed = Outcome(status=Status.FAILED, exit_code=1, reason="exit_code")
    assert await holder.settle([ended(claim, failed, Verdict.RETRY)]) == {}
    assert await server.entry("dead", claim.id) is None
    assert await server.entry("scheduled", claim.id) is not None
