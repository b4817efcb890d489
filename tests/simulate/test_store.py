"""The store in memory answers the consumer's own queue as a real Redis does: one story, told on both."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
from rq.job import Job as StockJob

from consumer.errors import ClaimCancelled, ClaimLost
from consumer.model import AttemptKey, Claim, LogPosition, Settlement, Verdict
from consumer.queues.rq import RqQueue
from consumer.recording import log_of, record_claimed, record_ended, record_running
from consumer.settings import Retention
from enqueue import Job, connect
from enqueue.protocol import cancelled_record
from enqueue.record import Outcome, Reason, Record, Status, Where
from enqueue.wire import rq as wire
from simulate.redis_double import RedisDouble, SimulatedQueue
from simulate.store import Store
from simulate.wire import Weather

RETENTION = Retention(success=100, failure=100)
SUCCESS = Outcome(status=Status.SUCCEEDED, exit_code=0)
FAILURE = Outcome(status=Status.FAILED, reason=Reason.EXIT_CODE, message="exited with code 3", exit_code=3)
JOB = Job(image="x", commands=("true",), retries=2)


class Direct:
    """A wire without any way to go."""

    weather = Weather(rng=None)  # type: ignore[arg-type]

    async def call(self, deed: Callable[[], Any]) -> Any:
        return deed()


class Real:
    """A real Redis and its producers."""

    def __init__(self, url: str, client: redis.Redis) -> None:
        self.url, self.client = url, client

    def put(self, job_id: str) -> None:
        _, fields = wire.new_job(JOB, "q", job_id=job_id)
        self.client.hset(wire.job_key(job_id), mapping={**fields, "status": "queued"})  # type: ignore[misc]
        self.client.rpush(wire.queue_key("q"), job_id)

    def cancel(self, job_id: str) -> None:
        with connect(self.url, queue="q") as queue:
            queue.handle(job_id).cancel()

    def cancel_by_rq(self, job_id: str) -> None:
        StockJob.fetch(job_id, connection=self.client).cancel()

    async def queue(self, name: str) -> RqQueue:
        made = RqQueue(self.url, ("q",), consumer=name, max_bytes=10_000, retention=RETENTION, patience=0.05)
        await made.open()
        return made


class Double:
    """The store in memory."""

    def __init__(self) -> None:
        self.store = Store("q", time.time, lambda event: None, "double")

    def put(self, job_id: str) -> None:
        self.store.enqueue(job_id, wire.new_job(JOB, "q", job_id=job_id)[1])

    def cancel(self, job_id: str) -> None:
        record = cancelled_record(Record(id=job_id, queue="q"), time.time())
        self.store.cancel(job_id, record.dumps())

    def cancel_by_rq(self, job_id: str) -> None:
        self.store.cancel_by_rq(job_id)

    async def queue(self, name: str) -> RqQueue:
        made = SimulatedQueue(
            "redis://double", ("q",), consumer=name, max_bytes=10_000, retention=RETENTION, patience=0.05
        )
        await made.connect(RedisDouble(self.store, Direct())).open()  # type: ignore[arg-type]
        return made


Queues = tuple[RqQueue, RqQueue]


@pytest.fixture(params=["real", "double"])
def server(request: pytest.FixtureRequest, redis_url: str, redis_client: redis.Redis) -> Real | Double:
    return Real(redis_url, redis_client) if request.param == "real" else Double()


@pytest.fixture
async def queues(server: Real | Double) -> AsyncIterator[Queues]:
    """Two consumers' own."""
    made = await server.queue("a"), await server.queue("b")
    yield made
    for queue in made:
        await queue.close()


def ending(claim: Claim, outcome: Outcome, verdict: Verdict) -> Settlement:
    log = log_of("", LogPosition())
    record = record_ended(record_claimed(claim, "c", "null", ""), outcome, verdict, Where(), None, log, time.time())
    return Settlement(claim, verdict, outcome, record)


async def stands(queue: RqQueue, job_id: str, attempt: int) -> str:
    [found] = await queue.records.standing([AttemptKey(job_id, "q", attempt)])
    return found.value


async def lost(write: Awaitable[Any]) -> bool:
    try:
        await write
    except ClaimLost:
        return True
    return False


async def test_claims_and_retries(server: Real | Double, queues: Queues) -> None:
    a, b = queues
    for name in ("one", "two", "three"):
        server.put(name)
    first = list(await a.claim(2))
    assert [(c.id, c.attempt, c.retries_left, c.job) for c in first] == [("one", 1, 2, JOB), ("two", 1, 2, JOB)]
    [third] = await b.claim(5)
    assert (third.id, list(await b.claim(5))) == ("three", [])
    assert await a.beat(first) == {}
    assert [await stands(a, "one", 1), await stands(a, "one", 2), await stands(a, "four", 1)] == [
        "held",
        "held",
        "gone",
    ]
    assert await a.settle([ending(first[0], FAILURE, Verdict.RETRY)]) == {}
    assert [await stands(a, "one", 1), await stands(a, "one", 2)] == ["failed", "held"]
    [again] = await b.claim(5)
    assert (again.id, again.attempt, again.retries_left) == ("one", 2, 1)
    assert again.history is not None
    assert [one.reason for one in again.history.attempts] == ["exit_code"]
    assert list((await a.beat([first[0]])).values()) == ["lost"]
    for _ in range(2):  # an answer that was lost
        assert await b.settle([ending(again, SUCCESS, Verdict.DONE)]) == {}
    assert [await stands(a, "one", 1), await stands(a, "one", 2), await stands(a, "one", 3)] == [
        "failed",
        "ended",
        "gone",
    ]


async def test_takeover_fences_the_former_one(server: Real | Double, queues: Queues) -> None:
    a, b = queues
    server.put("one")
    [before] = await a.claim(1)
    await a.records.write(before, record_running(record_claimed(before, "a", "null", ""), Where(), time.time()))
    await a.records.append(before, b"first\n", LogPosition(entries=1, lines=1, bytes=6))
    assert list(await b.claim(1)) == []
    await a.records.leave()
    b.records.parting.set()  # as word of it would
    [after] = await b.claim(1)
    assert (after.id, after.attempt) == ("one", 1)
    assert after.token != before.token
    assert after.history is not None
    assert after.history.status is Status.RUNNING
    assert (await b.records.resume(after)).bytes == 6
    assert await lost(a.records.write(before, record_claimed(before, "a", "null", "")))
    assert await lost(a.records.append(before, b"second\n", LogPosition(entries=2, lines=2, bytes=13)))
    assert [type(error) for error in (await a.settle([ending(before, FAILURE, Verdict.DONE)])).values()] == [ClaimLost]
    for _ in range(2):  # the second time is none
        await b.records.append(after, b"second\n", LogPosition(entries=2, lines=2, bytes=13))
    found = await b.records.recorded(after, 0, 10)
    assert [(number, data) for number, _, data in found] == [(1, b"first\n"), (2, b"second\n")]
    await b.records.drop(after, [1])
    assert [number for number, _, _ in await b.records.recorded(after, 0, 10)] == [2]
    assert await b.settle([ending(after, SUCCESS, Verdict.DONE)]) == {}


async def test_a_claim_whose_answer_was_lost_is_found_again(server: Real | Double, queues: Queues) -> None:
    a, _ = queues
    server.put("one")
    [unknown] = await a.claim(1)
    a._unanswered[unknown.token] = time.monotonic()
    a._last_takeover = 0.0
    [known] = await a.claim(1)
    assert (known.id, known.attempt) == ("one", 1)
    assert list((await a.beat([unknown])).values()) == ["lost"]


async def test_cancellations(server: Real | Double, queues: Queues) -> None:
    a, _ = queues
    for name in ("one", "two", "three"):
        server.put(name)
    one, two = await a.claim(2)
    server.cancel("one")
    server.cancel_by_rq("two")
    server.cancel("three")
    assert list((await a.beat([one, two])).values()) == ["cancel", "cancel"]
    with pytest.raises(ClaimCancelled):
        await a.records.write(two, record_claimed(two, "a", "null", ""))
    assert list(await a.claim(2)) == []
    assert await stands(a, "three", 1) == "gone"
    assert await stands(a, "two", 1) == "gone"
    refused = await a.settle([ending(one, SUCCESS, Verdict.DONE), ending(two, SUCCESS, Verdict.DONE)])
    assert refused == {}
    assert [await stands(a, "one", 1), await stands(a, "two", 1)] == ["ended", "ended"]
