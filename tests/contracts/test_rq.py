"""RQ's queue on a real server: what we take, keep and leave, as stock rq sees it."""

from __future__ import annotations

import asyncio
import pickle
import time
import zlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import rq
from rq.job import Job as StockJob
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from consumer.errors import ClaimLost
from consumer.model import LogPosition, Signal, Verdict
from consumer.queues.rq import RqQueue
from consumer.recording import record_claimed, record_running
from consumer.settings import Retention
from enqueue import Job, UsageError, connect
from enqueue.record import Outcome, Reason, Record, Status, Where
from support.consuming import until
from support.rq_jobs import FAILURE, JOB, SUCCESS, ended, run_stock


def make_queue(url: str, *queues: str, name: str = "c1") -> RqQueue:
    return RqQueue(
        url,
        queues or ("q",),
        consumer=name,
        max_bytes=100_000,
        retention=Retention(success=111, failure=222),
        patience=0.1,
    )


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[RqQueue]:
    opened = make_queue(redis_url)
    await opened.open()
    yield opened
    await opened.close()


async def test_jobs_come_in_strict_queue_order_and_never_more_than_slots(
    redis_url: str, redis_client: redis.Redis
) -> None:
    for name in ("low", "high"):
        stock = rq.Queue(name, connection=redis_client)
        for i in range(3):
            stock.enqueue("longshore.job", JOB, job_id=f"{name}{i}")
    queue = make_queue(redis_url, "high", "low")
    await queue.open()
    first = await queue.claim(4)
    second = await queue.claim(10)
    assert [c.id for c in (*first, *second)] == ["high0", "high1", "high2", "low0", "low1", "low2"]
    assert all(c.attempt == 1 and c.job is not None and c.timeout == 180 for c in first)
    await queue.close()


async def test_a_claimed_job_is_started_for_stock_rq_and_survives_its_ttl_and_clean_up(
    queue: RqQueue, redis_client: redis.Redis
) -> None:
    stock = rq.Queue("q", connection=redis_client)
    job = stock.enqueue("longshore.job", JOB, ttl=5)
    (claim,) = await queue.claim(5)
    job.refresh()
    assert job.get_status() == "started"
    assert job.worker_name == "c1"
    assert redis_client.ttl(job.key) == -1
    registry = StartedJobRegistry("q", connection=redis_client)
    registry.cleanup()
    assert registry.get_job_ids() == [job.id]
    redis_client.zadd("rq:wip:q", {f"{claim.id}:{claim.token}": time.time() + 10})  # a lease that is about to end
    assert await queue.beat([claim]) == {}
    assert redis_client.zscore("rq:wip:q", f"{claim.id}:{claim.token}") > time.time() + 3000
    (worker,) = rq.Worker.all(connection=redis_client)
    assert worker.name == "c1"


@pytest.mark.parametrize("serializer", [None, JSONSerializer])
async def test_success_reads_back_with_nothing_but_stock_rq(
    queue: RqQueue, redis_client: redis.Redis, serializer: Any
) -> None:
    stock = rq.Queue("q", connection=redis_client, serializer=serializer)
    job = stock.enqueue("longshore.job", JOB, meta={"mine": 1})
    (claim,) = await queue.claim(5)
    await queue.records.write(
        claim, record_running(record_claimed(claim, "c1", "null", ""), Where(pod="p"), time.time())
    )
    assert job.get_meta()["longshore"]["status"] == "running"
    job.meta["later"] = 2  # the producer changes its meta while the job runs
    job.meta["mine"] = 3
    job.meta.pop("longshore", None)
    job.save_meta()
    assert await queue.settle([ended(claim, SUCCESS, Verdict.DONE)]) == {}
    job = StockJob.fetch(job.id, connection=redis_client, serializer=serializer)
    assert job.get_status() == "finished"
    assert job.return_value()["variables"] == {"a": "1"}
    assert job.return_value()["exit_code"] == 0
    assert {k: job.meta[k] for k in ("mine", "later")} == {"mine": 3, "later": 2}
    assert job.meta["longshore"]["status"] == "succeeded"
    assert job.ended_at >= job.started_at
    assert FinishedJobRegistry("q", connection=redis_client).get_job_ids() == [job.id]
    assert StartedJobRegistry("q", connection=redis_client).get_job_ids() == []
    left = {key.decode(): redis_client.ttl(key) for key in redis_client.keys(f"*{job.id}*")}
    assert set(left) == {f"rq:job:{job.id}", f"rq:results:{job.id}"}
    assert all(100 < ttl <= 111 for ttl in left.values())


async def test_failure_shows_why_and_is_final_without_retries(queue: RqQueue, redis_client: redis.Redis) -> None:
    job = rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, failure_ttl=333)
    (claim,) = await queue.claim(5)
    assert claim.retries_left == 0
    await queue.settle([ended(claim, FAILURE, Verdict.BURY)])
    job.refresh()
    assert job.get_status() == "failed"
    assert job.latest_result().exc_string.startswith("exit_code: exited with code 3\nHint: See its log.")
    assert FailedJobRegistry("q", connection=redis_client).get_job_ids() == [job.id]
    assert all(300 < redis_client.ttl(key) <= 333 for key in redis_client.keys(f"*{job.id}*"))


async def test_a_retry_goes_by_rqs_own_policy_and_leaves_a_trace(queue: RqQueue, redis_client: redis.Redis) -> None:
    job = rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, retry=rq.Retry(max=2))
    for attempt, left in ((1, 2), (2, 1), (3, 0)):
        (claim,) = await queue.claim(5)
        assert (claim.attempt, claim.retries_left) == (attempt, left)
        await queue.settle([ended(claim, FAILURE, Verdict.RETRY if left else Verdict.BURY)])
        job.refresh()
        assert job.get_status() == ("queued" if left else "failed")
    assert [r.type.name for r in job.results()] == ["FAILED", "RETRIED", "RETRIED"]
    record = Record.loads(redis_client.hget(job.key, "longshore"))
    assert [a.attempt for a in record.attempts] == [1, 2, 3]


async def test_a_delayed_retry_comes_back_without_a_scheduler(queue: RqQueue, redis_client: redis.Redis) -> None:
    job = rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, retry=rq.Retry(max=1, interval=60))
    (claim,) = await queue.claim(5)
    await queue.settle([ended(claim, FAILURE, Verdict.RETRY)])
    assert job.get_status(refresh=True) == "scheduled"
    assert 50 < redis_client.zscore("rq:scheduled:q", job.id) - time.time() <= 61
    redis_client.zadd("rq:scheduled:q", {job.id: time.time() - 1})
    async with asyncio.timeout(20):
        while not (claims := await queue.claim(5)):
            pass
    assert claims[0].attempt == 2


async def test_an_infrastructure_retry_costs_the_job_none_of_its_own(queue: RqQueue, redis_client: redis.Redis) -> None:
    job = rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, retry=rq.Retry(max=1))
    (claim,) = await queue.claim(5)
    lost = Outcome(status=Status.FAILED, reason=Reason.NODE_LOST.value, message="node gone")
    await queue.settle([ended(claim, lost, Verdict.RETRY, infrastructure=True)])
    (claim,) = await queue.claim(5)
    assert (claim.attempt, claim.retries_left) == (2, 1)
    assert job.get_status(refresh=True) == "started"


async def test_a_stock_cancel_is_noticed_and_wins_over_a_late_success(
    queue: RqQueue, redis_client: redis.Redis
) -> None:
    job = rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB)
    (claim,) = await queue.claim(5)
    job.cancel()
    assert await queue.beat([claim]) == {claim.token: Signal.CANCEL}
    assert await queue.settle([ended(claim, SUCCESS, Verdict.DONE)]) == {}
    assert job.get_status(refresh=True) == "canceled"
    assert Record.loads(redis_client.hget(job.key, "longshore")).status is Status.CANCELLED
    assert redis_client.zcard("rq:finished:q") == 0
    assert redis_client.ttl(job.key) > 0


async def test_a_deleted_job_leaves_no_ghost(queue: RqQueue, redis_client: redis.Redis) -> None:
    job = rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB)
    (claim,) = await queue.claim(5)
    job.delete()
    assert await queue.beat([claim]) == {claim.token: Signal.CANCEL}
    refused = await queue.settle([ended(claim, SUCCESS, Verdict.DONE)])
    assert isinstance(refused[claim.token], ClaimLost)
    assert redis_client.keys(f"*{job.id}*") == []
    assert redis_client.zcard("rq:wip:q") == 0


async def test_a_job_that_others_took_is_lost_and_nothing_is_written(queue: RqQueue, redis_client: redis.Redis) -> None:
    job = rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB)
    (claim,) = await queue.claim(5)
    redis_client.zadd("rq:wip:q", {f"{claim.id}:{claim.token}": 1})
    StartedJobRegistry("q", connection=redis_client).cleanup()  # stock maintenance takes it for abandoned
    before = redis_client.hgetall(job.key)
    assert await queue.beat([claim]) == {claim.token: Signal.LOST}
    with pytest.raises(ClaimLost):
        await queue.records.write(claim, record_claimed(claim, "c1", "null", ""))
    refused = await queue.settle([ended(claim, SUCCESS, Verdict.DONE)])
    assert isinstance(refused[claim.token], ClaimLost)
    assert redis_client.hgetall(job.key) == before


async def test_settling_twice_is_settling_once(queue: RqQueue, redis_client: redis.Redis) -> None:
    job = rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB)
    (claim,) = await queue.claim(5)
    settlement = ended(claim, SUCCESS, Verdict.DONE)
    assert await queue.settle([settlement]) == {}
    assert await queue.settle([settlement]) == {}
    assert len(job.results()) == 1


async def test_a_dead_consumers_claims_pass_on_with_their_attempt(redis_url: str, redis_client: redis.Redis) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="j1")
    dead, living = make_queue(redis_url, name="dead"), make_queue(redis_url, name="living")
    await dead.open()
    await living.open()
    (old,) = await dead.claim(5)
    await dead.records.write(old, record_running(record_claimed(old, "dead", "null", ""), Where(), time.time()))
    living._last_takeover = 0
    assert await living.claim(5) == []  # it lives
    await dead.close()
    living._last_takeover = 0
    (new,) = await living.claim(5)
    assert (new.id, new.attempt, new.history.status) == ("j1", 1, Status.RUNNING)
    assert new.token != old.token
    assert (await living.beat([old])) == {old.token: Signal.LOST}
    with pytest.raises(ClaimLost):
        await living.records.append(old, b"late\n", LogPosition(1, 1, 5))
    await living.close()


@pytest.mark.parametrize("wrong", [-600.0, 0.4, 600.0])
async def test_the_store_tells_how_wrong_our_clock_is(
    queue: RqQueue, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    now = time.time
    monkeypatch.setattr("consumer.queues.records.time", SimpleNamespace(time=lambda: now() + wrong))
    await queue.records.live()
    assert queue.records.ahead == (0.0 if abs(wrong) < 1 else pytest.approx(wrong, abs=30))


@pytest.mark.parametrize("soon", [True, False])
async def test_a_claim_whose_answer_was_lost_is_found_again(
    queue: RqQueue, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    """Also if nothing could be claimed for long since, as while the cluster is away."""
    monkeypatch.setattr("consumer.queues.rq.UNANSWERED", 300.0 if soon else 0.0)
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="j1")
    script = queue._claim

    async def cut(**kwargs: Any) -> Any:
        await script(**kwargs)
        queue._claim = script
        raise redis.ConnectionError("cut after the server did it")

    queue._claim = cut
    queue._last_takeover = time.monotonic()
    with pytest.raises(Exception, match="doesn't answer"):
        await queue.claim(5)
    (claim,) = await queue.claim(5)
    assert (claim.id, claim.attempt) == ("j1", 1)
    assert bool(queue._unanswered) is soon


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"not zlib, not json", "neither JSON nor a pickle"),
        (zlib.compress(b"[1, 2]"), "must be RQ's"),
        (
            zlib.compress(pickle.dumps(("longshore.job", None, (pickle.Pickler,), {}))),
            "wants to import _pickle.Pickler",
        ),
        (zlib.compress(b"\0" * 50_000_000), "inflates to more than"),
        (b"x" * 200_000, "at most 100000 are accepted"),
        (b"", "neither JSON nor"),
    ],
)
async def test_a_bad_payload_is_a_claim_with_a_problem(
    queue: RqQueue, redis_client: redis.Redis, data: bytes, says: str
) -> None:
    redis_client.hset("rq:job:bad", mapping={"data": data, "status": "queued", "origin": "q"})
    redis_client.rpush("rq:queue:q", "bad")
    (claim,) = await queue.claim(5)
    assert claim.job is None
    assert says in (claim.problem or "")


async def test_ids_without_a_job_and_cancelled_ones_are_passed_over(queue: RqQueue, redis_client: redis.Redis) -> None:
    stock = rq.Queue("q", connection=redis_client)
    stock.enqueue("longshore.job", JOB, job_id="cancelled").cancel()
    redis_client.rpush("rq:queue:q", "ghost", "cancelled")
    stock.enqueue("longshore.job", JOB, job_id="real")
    assert [c.id for c in await queue.claim(5)] == ["real"]


async def test_an_id_that_is_queued_twice_runs_once_at_a_time(queue: RqQueue, redis_client: redis.Redis) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="twice")
    redis_client.rpush("rq:queue:q", "twice")
    assert [c.id for c in await queue.claim(5)] == ["twice"]


async def test_a_suspended_rq_gives_nothing(queue: RqQueue, redis_client: redis.Redis) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB)
    rq.suspension.suspend(redis_client)
    assert await queue.claim(5) == []
    rq.suspension.resume(redis_client)
    assert len(await queue.claim(5)) == 1


async def test_a_job_that_arrives_wakes_a_waiting_claim(redis_url: str, redis_client: redis.Redis) -> None:
    queue = RqQueue(redis_url, ("a", "b"), consumer="c", max_bytes=1000, retention=Retention(), patience=60)
    await queue.open()
    waiting = asyncio.create_task(queue.claim(1))
    await until(lambda: redis_client.info("clients")["blocked_clients"] >= 2)
    rq.Queue("b", connection=redis_client).enqueue("longshore.job", JOB, job_id="woken")
    async with asyncio.timeout(30):
        (claim,) = await waiting
    assert claim.id == "woken"
    await queue.close()


async def test_an_id_can_be_used_again_once_its_job_has_ended(
    queue: RqQueue, redis_url: str, redis_client: redis.Redis
) -> None:
    with connect(redis_url) as producer:
        job = Job(commands=["true"])
        producer.enqueue(job, queue="q", job_id="again")
        with pytest.raises(UsageError, match="hasn't ended yet"):
            producer.enqueue(job, queue="q", job_id="again")
        (claim,) = await queue.claim(5)
        await queue.records.append(claim, b"old\n", LogPosition(1, 1, 4))
        with pytest.raises(UsageError, match="hasn't ended yet"):
            producer.enqueue(job, queue="q", job_id="again")
        await queue.settle([ended(claim, SUCCESS, Verdict.DONE)])
        handle = producer.enqueue(job, queue="q", job_id="again")
        assert handle.status is Status.QUEUED
        (claim,) = await queue.claim(5)
        await queue.records.append(claim, b"new\n", LogPosition(1, 1, 4))
        assert b"".join(handle.logs()) == b"new\n"


async def test_what_a_stock_worker_made_of_a_job_is_told_as_that(
    queue: RqQueue, redis_url: str, redis_client: redis.Redis
) -> None:
    stock = rq.Queue("q", connection=redis_client)
    with connect(redis_url) as producer:
        again = stock.enqueue("support.rq_functions.succeed", JOB, job_id="again")
        (claim,) = await queue.claim(1)
        await queue.settle([ended(claim, FAILURE, Verdict.BURY)])
        assert producer.handle("again").record.reason == "exit_code"
        again.requeue()
        stock.enqueue("support.rq_functions.fail", JOB, job_id="fails")
        run_stock(redis_client, "q")
        record = producer.handle("again").record
        assert (record.status, record.reason, len(record.attempts)) == (Status.SUCCEEDED, None, 1)
        outcome = producer.handle("fails").wait(5)
        assert (outcome.reason, outcome.message) == ("exception", "it failed in a stock RQ worker")


def test_our_producer_writes_what_stock_rq_writes(redis_url: str, redis_client: redis.Redis) -> None:
    job = Job.load({**JOB, "timeout": 7, "retries": 2, "retention": {"success": 60, "failure": 61}})
    with connect(redis_url) as producer:
        ours = redis_client.hgetall(f"rq:job:{producer.enqueue(job, queue='q').id}")
    stock = rq.Queue("q", connection=redis_client).enqueue(**job.as_rq(), retry=rq.Retry(max=2))
    theirs = redis_client.hgetall(stock.key)
    volatile = {b"created_at", b"enqueued_at"}
    assert ours.pop(b"longshore_call")
    assert {k: v for k, v in ours.items() if k not in volatile | {b"data"}} == {
        k: v for k, v in theirs.items() if k not in volatile | {b"data", b"retry_intervals"}
    }
    assert pickle.loads(zlib.decompress(ours[b"data"])) == pickle.loads(zlib.decompress(theirs[b"data"]))
