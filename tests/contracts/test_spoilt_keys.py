"""Keys that somebody wrote over: no script loses a job in its middle, and the others go on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import redis
import rq
import structlog
from redis.exceptions import ResponseError
from structlog.typing import EventDict

from consumer.model import Claim, Verdict
from consumer.queues.rq import RqQueue
from consumer.queues.rq_settle import PROMOTE
from consumer.settings import Retention
from enqueue import Job, Order, connect
from enqueue.record import Record, Status
from support.consuming import until
from support.fake_faktory import FakeFaktory
from support.limits import claim_some, consumer, limited
from support.places import Place
from support.rq_jobs import FAILURE, JOB, SUCCESS, ended


def make_queue(url: str, *queues: str) -> RqQueue:
    return RqQueue(url, queues or ("q",), consumer="c1", max_bytes=100_000, retention=Retention(), patience=0.05)


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[RqQueue]:
    opened = make_queue(redis_url)
    await opened.open()
    yield opened
    await opened.close()


def enqueued(redis_client: redis.Redis, *ids: str, job: Any = JOB, queue: str = "q", **options: Any) -> None:
    stock = rq.Queue(queue, connection=redis_client)
    for name in ids:
        stock.enqueue("longshore.job", job, job_id=name, **options)


def spoil(redis_client: redis.Redis, key: str) -> None:
    redis_client.delete(key)
    redis_client.set(key, "spoilt")


async def claimed(queue: RqQueue) -> list[str]:
    return [claim.id for claim in await queue.claim(5)]


def told(said: Sequence[EventDict]) -> EventDict:
    (entry,) = [entry for entry in said if entry["event"] == "key_unusable"]
    return entry


@pytest.mark.parametrize("kind", ["rq:job:bad", "rq:executions:bad", "attempt"])
async def test_a_job_that_cant_be_claimed_is_set_aside_and_told_once(
    queue: RqQueue, redis_client: redis.Redis, kind: str
) -> None:
    enqueued(redis_client, "first", "bad", "last")
    if kind == "attempt":
        redis_client.hset("rq:job:bad", "longshore_attempt", "many")
    else:
        spoil(redis_client, kind)
    with structlog.testing.capture_logs() as said:
        assert await claimed(queue) == ["first", "last"]
        assert await claimed(queue) == []
    assert (told(said)["job"], told(said)["queue"]) == ("bad", "q")
    assert ("not an integer" if kind == "attempt" else f"{kind} is of type string") in told(said)["error"]
    assert redis_client.zrange("longshore:aside:q", 0, -1) == [b"bad"]
    redis_client.delete("rq:job:bad", "rq:executions:bad")
    enqueued(redis_client, "bad")
    assert await claimed(queue) == ["bad"]


async def test_a_job_that_cant_be_set_aside_stays_in_its_queue(queue: RqQueue, redis_client: redis.Redis) -> None:
    enqueued(redis_client, "bad", "good")
    spoil(redis_client, "rq:job:bad")
    spoil(redis_client, "longshore:aside:q")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await queue.claim(5)
    assert redis_client.lrange("rq:queue:q", 0, -1) == [b"bad", b"good"]
    redis_client.delete("longshore:aside:q")
    assert await claimed(queue) == ["good"]


@pytest.mark.parametrize("key", ["rq:queue:q", "rq:wip:q"])
async def test_a_queue_that_cant_be_claimed_from_loses_nothing_and_costs_no_other_one(
    redis_url: str, redis_client: redis.Redis, key: str
) -> None:
    enqueued(redis_client, "held")
    spoil(redis_client, key)
    enqueued(redis_client, "free", queue="other")
    queue = make_queue(redis_url, "q", "other")
    await queue.open()
    with structlog.testing.capture_logs() as said:
        assert await claimed(queue) == ["free"]
        assert await claimed(queue) == []
    assert told(said)["error"].startswith(f"{key} is of type string")
    redis_client.delete(key)
    assert await claimed(queue) == ([] if key == "rq:queue:q" else ["held"])
    await queue.close()


@pytest.mark.parametrize("key", ["rq:job:bad", "rq:executions:bad"])
async def test_a_claim_that_cant_pass_on_or_be_kept_alive_costs_no_other_one(
    redis_url: str, queue: RqQueue, redis_client: redis.Redis, key: str
) -> None:
    enqueued(redis_client, "bad", "good")
    claims = await queue.claim(5)
    spoil(redis_client, key)
    with structlog.testing.capture_logs() as said:
        assert await queue.beat(claims) == await queue.beat(claims) == {}
        assert told(said)["job"] == "bad"
        other = make_queue(redis_url)
        await other.open()
        redis_client.delete(f"longshore:consumer:{queue.instance}")
        assert await claimed(other) == ["good"]
    assert f"bad:{claims[0].token}".encode() in redis_client.zrange("rq:wip:q", 0, -1)
    assert [entry["job"] for entry in said if entry["event"] == "key_unusable"][1] == f"bad:{claims[0].token}"
    await other.close()


@pytest.mark.parametrize(
    "key", ["rq:results:j", "rq:executions:j", "rq:finished:q", "rq:worker:c1", "rq:job:j:dependents"]
)
async def test_an_end_is_written_without_what_cant_be_and_that_is_told(
    queue: RqQueue, redis_client: redis.Redis, key: str
) -> None:
    enqueued(redis_client, "j")
    (claim,) = await queue.claim(5)
    spoil(redis_client, key)
    with structlog.testing.capture_logs() as said:
        assert await queue.settle([ended(claim, SUCCESS, Verdict.DONE)]) == {}
    assert key in told(said)["error"]
    assert redis_client.hget("rq:job:j", "status") == b"finished"
    assert Record.loads(redis_client.hget("rq:job:j", "longshore")).status is Status.SUCCEEDED
    assert redis_client.zcard("rq:wip:q") == 0
    assert redis_client.ttl("rq:job:j") > 0
    assert redis_client.zcard("rq:finished:q") == 1 if key != "rq:finished:q" else True


@pytest.mark.parametrize("key", ["rq:wip:q", "rq:queue:q", "rq:scheduled:q", "rq:job:j"])
async def test_an_end_whose_way_on_is_barred_is_not_written_at_all(
    queue: RqQueue, redis_client: redis.Redis, key: str
) -> None:
    enqueued(redis_client, "j", retry=rq.Retry(max=3, interval=60 if "scheduled" in key else 0))
    (claim,) = await queue.claim(5)
    wip = redis_client.zrange("rq:wip:q", 0, -1, withscores=True)
    before = redis_client.hgetall("rq:job:j")
    spoil(redis_client, key)
    failed = ended(claim, FAILURE, Verdict.RETRY)
    refused = await queue.settle([failed])
    assert f"{key} is of type string" in str(refused[claim.token])
    redis_client.delete(key)
    if key == "rq:job:j":
        return
    assert redis_client.hgetall("rq:job:j") == before
    if key == "rq:wip:q":
        redis_client.zadd(key, dict(wip))
    assert await queue.settle([failed]) == {}
    assert redis_client.hget("rq:job:j", "retries_left") == b"2"


async def test_a_job_that_waits_is_told_and_stays_where_its_end_cant_release_it(
    queue: RqQueue, redis_client: redis.Redis
) -> None:
    enqueued(redis_client, "j")
    enqueued(redis_client, "after", depends_on="j")
    enqueued(redis_client, "elsewhere", queue="other", depends_on="j")
    spoil(redis_client, "rq:queue:other")
    (claim,) = await queue.claim(5)
    with structlog.testing.capture_logs() as said:
        assert await queue.settle([ended(claim, SUCCESS, Verdict.DONE)]) == {}
    assert "its dependent elsewhere" in told(said)["error"]
    assert redis_client.smembers("rq:job:j:dependents") == {b"elsewhere"}
    assert redis_client.zrange("rq:deferred:other", 0, -1) == [b"elsewhere"]
    assert await claimed(queue) == ["after"]


async def test_what_is_due_and_cant_come_is_set_aside_or_waits(queue: RqQueue, redis_client: redis.Redis) -> None:
    enqueued(redis_client, "bad", "good")
    redis_client.delete("rq:queue:q")
    spoil(redis_client, "rq:job:bad")
    promote = redis_client.register_script(PROMOTE)
    spoil(redis_client, "rq:queue:q")
    redis_client.zadd("rq:scheduled:q", dict.fromkeys(("bad", "good"), time.time() - 5))
    assert b"rq:queue:q is of type string" in promote(args=["now", "q"])[0][2]
    assert redis_client.zcard("rq:scheduled:q") == 2
    redis_client.delete("rq:queue:q")
    promote(args=["now", "q"])  # or the queue's own, in its second
    assert redis_client.zcard("rq:scheduled:q") == 0
    assert redis_client.zrange("longshore:aside:q", 0, -1) == [b"bad"]
    assert await claimed(queue) == ["good"]


async def test_a_limit_that_cant_be_read_makes_its_jobs_wait_and_no_others(
    queue: RqQueue, redis_client: redis.Redis
) -> None:
    enqueued(redis_client, "limited", job=limited().model_dump(mode="json", exclude_defaults=True))
    enqueued(redis_client, "free")
    spoil(redis_client, "longshore:limit:db")
    with structlog.testing.capture_logs() as said:
        assert await claimed(queue) == ["free"]
    (entry,) = [entry for entry in said if entry["event"] == "limit_unusable"]
    assert (entry["job"], entry["became"]) == ("limited", "parked")
    assert "longshore:limit:db" in entry["fix"]
    assert redis_client.zscore("rq:scheduled:q", "limited") > time.time()
    redis_client.delete("longshore:limit:db")
    redis_client.zadd("rq:scheduled:q", {"limited": 1})
    redis_client.register_script(PROMOTE)(args=["now", "q"])
    assert [claim.attempt for claim in await queue.claim(5)] == [1]


async def test_a_job_that_is_no_hash_any_more_keeps_nobody_from_its_place(
    queue: RqQueue, redis_client: redis.Redis
) -> None:
    job = limited().model_dump(mode="json", exclude_defaults=True)
    enqueued(redis_client, "holds", "bad", "next", job=job)
    claims: list[Claim] = list(await queue.claim(5))
    assert [claim.id for claim in claims] == ["holds"]
    spoil(redis_client, "rq:job:bad")
    assert await queue.settle([ended(claims[0], SUCCESS, Verdict.DONE)]) == {}
    assert await claimed(queue) == ["next"]


@pytest.mark.parametrize("key", ["rq:queue:q", "longshore:tag:t"])
def test_what_cant_be_enqueued_whole_is_not_enqueued_at_all(
    redis_url: str, redis_client: redis.Redis, key: str
) -> None:
    spoil(redis_client, key)
    job = Job(commands=["true"], tags=("t",))
    with connect(redis_url) as producer:
        with pytest.raises(Exception, match=f"{key} is of type string"):
            producer.enqueue_many([Order(job, queue="other"), Order(job, queue="q", key="once")])
        assert redis_client.keys("rq:*") == ([key.encode()] if key.startswith("rq") else [])
        redis_client.delete(key)
        assert producer.enqueue(job, queue="q", key="once").id == producer.enqueue(job, queue="q", key="once").id
    assert redis_client.llen("rq:queue:q") == 1


def test_a_job_is_cancelled_whatever_its_queues_keys_are(redis_url: str, redis_client: redis.Redis) -> None:
    with connect(redis_url) as producer:
        handle = producer.enqueue(Job(commands=["true"]), queue="q")
        for key in ("rq:scheduled:q", "rq:deferred:q", "rq:canceled:q"):
            spoil(redis_client, key)
        assert handle.cancel()
        assert handle.status is Status.CANCELLED
    assert redis_client.llen("rq:queue:q") == 0


async def test_a_job_of_faktory_whose_record_is_spoilt_comes_later_and_holds_up_nobody(
    redis_url: str, redis_client: redis.Redis
) -> None:
    async with FakeFaktory(punctual=True) as server:
        place = Place(server.url, {"records": redis_url})
        queue = await consumer(place, "c")
        async with place.producer() as producer:
            await producer.enqueue(Job(commands=["true"]), job_id="spoilt-job")
            spoil(redis_client, "longshore:job:spoilt-job")
            await producer.enqueue(Job(commands=["true"]), job_id="another-job")
        with structlog.testing.capture_logs() as said:
            ((_, claim),) = await claim_some([queue], 1)
            await until(lambda: "spoilt-job" in str(server.scheduled))
        assert claim.id == "another-job"
        assert "longshore:job:spoilt-job is no hash" in told(said)["error"]
        assert await queue.beat([claim]) == {}
        spoil(redis_client, "longshore:job:another-job")
        assert await queue.beat([claim]) == {}
        await queue.close()


async def test_the_backlog_is_told_as_far_as_its_keys_can_be_read(redis_url: str, redis_client: redis.Redis) -> None:
    enqueued(redis_client, "fine", queue="fine")
    enqueued(redis_client, "bad", queue="half")
    for key in ("rq:queue:bad", "rq:wip:half", "rq:job:bad"):
        spoil(redis_client, key)
    opened = make_queue(redis_url, "fine", "bad", "half")
    await opened.open()
    try:
        found = await opened.backlog()
    finally:
        await opened.close()
    assert list(found) == ["fine", "half"]
    assert (found["fine"].waiting, found["fine"].running) == (1, 0)
    assert tuple(found["half"]) == (1, None, None)
