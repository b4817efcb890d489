"""What follows an RQ job's end: repetitions, dependents, callbacks, scheduled jobs, groups."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import redis
import rq
from rq.group import Group
from rq.job import Dependency
from rq.registry import DeferredJobRegistry, ScheduledJobRegistry

from consumer.model import Verdict
from consumer.plan import plan_of
from consumer.queues.rq import RqQueue
from consumer.settings import Jobs, Retention, Rq
from enqueue import Job
from enqueue.record import Record, Status
from support.consuming import consuming, until
from support.rq_jobs import CANCELLED, FAILURE, JOB, SUCCESS, claimed, ended, run_stock

CALLS = "support.rq_functions"


def make_queue(url: str, *queues: str, rq: Rq | None = None) -> RqQueue:
    return RqQueue(url, queues or ("q",), consumer="c1", max_bytes=100_000, retention=Retention(), rq=rq, patience=0.1)


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[RqQueue]:
    opened = make_queue(redis_url, rq=Rq(callback_queue="app"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def stock(redis_client: redis.Redis) -> rq.Queue:
    return rq.Queue("q", connection=redis_client)


async def test_weighted_queues_share_a_claim_and_an_empty_one_leaves_its_turn(
    redis_url: str, redis_client: redis.Redis
) -> None:
    for name in ("a", "b"):
        for _ in range(150):
            rq.Queue(name, connection=redis_client).enqueue("longshore.job", JOB)
    queue = make_queue(redis_url, "a=5", "b=1", "empty=1000")
    await queue.open()
    first = [claim.queue for claim in await queue.claim(100)]
    assert len(first) == 100
    rest = [claim.queue for _ in range(2) for claim in await queue.claim(100)]
    assert sorted(first + rest) == ["a"] * 150 + ["b"] * 150
    await queue.close()


async def test_a_repetition_comes_at_once_or_after_its_interval(queue: RqQueue, stock: rq.Queue) -> None:
    job = stock.enqueue("longshore.job", JOB, repeat=rq.Repeat(times=2, interval=[0, 60]))
    first = await claimed(queue)
    await queue.settle([ended(first, SUCCESS, Verdict.DONE)])
    job.refresh()
    assert (job.get_status(), job.repeats_left) == ("scheduled", 1)  # rq takes the intervals from behind
    assert 50 < stock.connection.zscore("rq:scheduled:q", job.id) - time.time() <= 61
    stock.connection.zadd("rq:scheduled:q", {job.id: time.time() - 1})
    second = await claimed(queue)
    assert second.attempt == 2
    await queue.settle([ended(second, SUCCESS, Verdict.DONE)])
    third = await claimed(queue)
    await queue.settle([ended(third, SUCCESS, Verdict.DONE)])
    job.refresh()
    assert (job.get_status(), job.repeats_left, len(job.results())) == ("finished", 0, 3)
    record = Record.loads(stock.connection.hget(job.key, "longshore"))
    assert [attempt.attempt for attempt in record.attempts] == [1, 2, 3]


async def test_a_failed_or_cancelled_job_isnt_repeated(queue: RqQueue, stock: rq.Queue) -> None:
    for outcome, verdict in ((FAILURE, Verdict.BURY), (CANCELLED, Verdict.DONE)):
        job = stock.enqueue("longshore.job", JOB, repeat=rq.Repeat(times=2))
        await queue.settle([ended(await claimed(queue), outcome, verdict)])
        assert job.get_status(refresh=True) in ("failed", "canceled")
        assert len(stock) == 0


async def test_dependents_are_released_by_the_end_they_wait_for(
    queue: RqQueue, stock: rq.Queue, redis_client: redis.Redis
) -> None:
    """Ours and stock jobs, on this queue and on others."""
    other = rq.Queue("other", connection=redis_client)
    parent = stock.enqueue("longshore.job", JOB)
    mine = stock.enqueue("longshore.job", JOB, depends_on=parent)
    elsewhere = other.enqueue(f"{CALLS}.succeed", depends_on=Dependency([parent], allow_failure=True))
    front = other.enqueue(f"{CALLS}.succeed", depends_on=Dependency([parent], enqueue_at_front=True))
    second = stock.enqueue("longshore.job", JOB)
    both = other.enqueue(f"{CALLS}.succeed", depends_on=[parent, second], ttl=1000)
    other.enqueue(f"{CALLS}.succeed", depends_on=parent).cancel()
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE)])
    assert other.get_job_ids()[0] == front.id
    assert sorted(other.get_job_ids()) == sorted([front.id, elsewhere.id])
    assert both.get_status(refresh=True) == "deferred"
    claims = [await claimed(queue), await claimed(queue)]
    assert {claim.id for claim in claims} == {mine.id, second.id}
    await queue.settle([ended(claim, SUCCESS, Verdict.DONE) for claim in claims])
    assert other.get_job_ids()[-1] == both.id
    assert 900 < redis_client.ttl(both.key) <= 1000
    assert DeferredJobRegistry("other", connection=redis_client).get_job_ids() == []
    run_stock(redis_client, "other")
    assert both.get_status(refresh=True) == "finished"


async def test_a_failure_releases_only_those_who_allow_it_and_a_retry_nobody(queue: RqQueue, stock: rq.Queue) -> None:
    parent = stock.enqueue("longshore.job", JOB, retry=rq.Retry(max=1))
    strict = stock.enqueue("longshore.job", JOB, depends_on=parent)
    lenient = stock.enqueue("longshore.job", JOB, depends_on=Dependency([parent], allow_failure=True))
    await queue.settle([ended(await claimed(queue), FAILURE, Verdict.RETRY)])
    assert lenient.get_status(refresh=True) == strict.get_status(refresh=True) == "deferred"
    await queue.settle([ended(await claimed(queue), FAILURE, Verdict.BURY)])
    assert lenient.get_status(refresh=True) == "queued"
    assert strict.get_status(refresh=True) == "deferred"
    assert (await claimed(queue)).id == lenient.id


async def test_a_cancelled_parent_releases_nobody(queue: RqQueue, stock: rq.Queue) -> None:
    parent = stock.enqueue("longshore.job", JOB)
    lenient = stock.enqueue("longshore.job", JOB, depends_on=Dependency([parent], allow_failure=True))
    await queue.settle([ended(await claimed(queue), CANCELLED, Verdict.DONE)])
    assert lenient.get_status(refresh=True) == "deferred"


async def test_a_dependent_of_the_wrong_kind_costs_the_others_nothing(
    queue: RqQueue, stock: rq.Queue, redis_client: redis.Redis
) -> None:
    parent = stock.enqueue("longshore.job", JOB)
    stock.enqueue("longshore.job", JOB, job_id="good", depends_on=parent)
    redis_client.set("rq:job:string", "x")
    redis_client.hset("rq:job:odd", mapping={"status": "deferred", "origin": "q", "ttl": "nan"})
    redis_client.set("rq:job::odd:dependencies", "x")
    redis_client.sadd(parent.dependents_key, "string", "odd", "gone")
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE)])
    assert parent.get_status(refresh=True) == "finished"
    assert (await claimed(queue)).id == "good"


async def test_callbacks_become_jobs_for_stock_workers(
    queue: RqQueue, stock: rq.Queue, redis_client: redis.Redis
) -> None:
    """Nothing is imported here: a stock worker calls them with what RQ would have given them."""
    wishes: dict[str, Any] = {
        "on_success": rq.Callback(f"{CALLS}.note_success", timeout=17),
        "on_failure": rq.Callback(f"{CALLS}.note_failure"),
        "on_stopped": rq.Callback(f"{CALLS}.note_stopped"),
    }
    good = stock.enqueue("longshore.job", JOB, **wishes)
    bad = stock.enqueue("longshore.job", JOB, retry=rq.Retry(max=1), **wishes)
    gone = stock.enqueue("longshore.job", JOB, result_ttl=0, **wishes)
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE)])
    await queue.settle([ended(await claimed(queue), FAILURE, Verdict.RETRY)])
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE)])
    await queue.settle([ended(await claimed(queue), FAILURE, Verdict.BURY)])
    app = rq.Queue("app", connection=redis_client)
    assert [job.timeout for job in app.get_jobs()] == [17, 60, 17, 60]
    assert app.get_jobs()[0].description == f"{CALLS}.note_success after job {good.id}"
    run_stock(redis_client, "app")
    told = [json.loads(entry) for entry in redis_client.lrange("told", 0, -1)]
    assert told == [
        ["success", good.id, "finished", "succeeded"],
        ["failure", bad.id, "failed", "JobFailed", "exit_code: exited with code 3"],
        ["success", gone.id, None, "succeeded"],
        ["failure", bad.id, "failed", "JobFailed", "exit_code: exited with code 3"],
    ]


async def test_a_job_with_callbacks_is_refused_where_nobody_would_call_them(
    redis_url: str, redis_client: redis.Redis, stock: rq.Queue
) -> None:
    job = stock.enqueue("longshore.job", JOB, on_success=rq.Callback("os.system"))
    async with consuming(redis_url, queues="q", executor="null"):
        await until(lambda: job.get_status(refresh=True) == "failed")
    record = Record.loads(redis_client.hget(job.key, "longshore"))
    assert record.reason == "refused"
    assert "on_success: 'os.system' can't be called" in (record.message or "")
    assert "rq.callback_queue" in (record.message or "")


async def test_what_already_runs_isnt_refused_for_its_callbacks(
    redis_url: str, redis_client: redis.Redis, stock: rq.Queue
) -> None:
    stock.enqueue("longshore.job", JOB, on_success=rq.Callback("a.b"))
    queue = make_queue(redis_url)
    await queue.open()
    claim = await claimed(queue)
    assert claim.refusal is not None
    assert plan_of(claim, Jobs(), "c1", begun=True).job == Job.load(JOB)
    await queue.close()


async def test_scheduled_jobs_come_when_they_are_due(queue: RqQueue, stock: rq.Queue) -> None:
    later = stock.enqueue_in(timedelta(hours=1), "longshore.job", JOB)
    front = stock.enqueue_in(timedelta(hours=1), "longshore.job", JOB, at_front=True, ttl=500)
    assert await queue.claim(5) == []
    stock.connection.zadd("rq:scheduled:q", {later.id: time.time() - 5, front.id: time.time() - 4})
    first, second = await claimed(queue), await claimed(queue)
    assert {first.id, second.id} == {later.id, front.id}
    assert ScheduledJobRegistry("q", connection=stock.connection).get_job_ids() == []


async def test_a_stock_schedulers_lock_is_respected(queue: RqQueue, stock: rq.Queue, redis_client: redis.Redis) -> None:
    job = stock.enqueue_in(timedelta(hours=1), "longshore.job", JOB)
    scheduler = rq.scheduler.RQScheduler(["q"], connection=redis_client)
    assert scheduler.acquire_locks() == {"q"}
    redis_client.zadd("rq:scheduled:q", {job.id: time.time() - 5})
    before = redis_client.hget("rq:worker:c1", "last_heartbeat")
    for _ in range(2):  # two whole rounds of our own upkeep
        await until(lambda before=before: redis_client.hget("rq:worker:c1", "last_heartbeat") != before)
        before = redis_client.hget("rq:worker:c1", "last_heartbeat")
    assert redis_client.zcard("rq:scheduled:q") == 1
    scheduler.enqueue_scheduled_jobs()
    assert (await claimed(queue)).id == job.id
    scheduler.release_locks()


async def test_a_group_loses_the_jobs_that_are_gone(queue: RqQueue, stock: rq.Queue, redis_client: redis.Redis) -> None:
    group = Group.create(connection=redis_client, name="g")
    data = [rq.Queue.prepare_data("longshore.job", (JOB,), job_id=name, result_ttl=ttl) for name, ttl in
            (("kept", 50), ("gone", 0))]  # fmt: skip
    group.enqueue_many(stock, data)
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE) for _ in range(2)])
    assert redis_client.smembers("rq:group:g") == {b"kept"}
    assert [job.id for job in group.get_jobs()] == ["kept"]


async def test_a_unique_job_is_one_for_as_long_as_it_is_kept(queue: RqQueue, stock: rq.Queue) -> None:
    if "unique" not in rq.Queue.enqueue_call.__code__.co_varnames:
        pytest.skip("this rq has no unique jobs")
    stock.enqueue("longshore.job", JOB, job_id="one", unique=True, result_ttl=0)
    with pytest.raises(rq.exceptions.DuplicateJobError):
        stock.enqueue("longshore.job", JOB, job_id="one", unique=True)
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE)])
    stock.enqueue("longshore.job", JOB, job_id="one", unique=True, result_ttl=0)
    assert (await claimed(queue)).id == "one"


async def test_an_id_that_stock_rq_uses_again_is_a_new_job(queue: RqQueue, stock: rq.Queue) -> None:
    stock.enqueue("longshore.job", JOB, job_id="same")
    await queue.settle([ended(await claimed(queue), FAILURE, Verdict.BURY)])
    stock.enqueue("longshore.job", JOB | {"retries": 1}, job_id="same")
    claim = await claimed(queue)
    assert (claim.attempt, claim.history, claim.retries_left) == (1, None, 1)
    await queue.settle([ended(claim, FAILURE, Verdict.RETRY)])
    assert (await claimed(queue)).attempt == 2


async def test_an_ended_job_whose_id_was_pushed_twice_isnt_run_again(
    queue: RqQueue, stock: rq.Queue, redis_client: redis.Redis
) -> None:
    stock.enqueue("longshore.job", JOB, job_id="once")
    claim = await claimed(queue)
    await queue.settle([ended(claim, SUCCESS, Verdict.DONE)])
    redis_client.rpush("rq:queue:q", "once")
    stock.enqueue("longshore.job", JOB, job_id="next")
    assert (await claimed(queue)).id == "next"
    assert Record.loads(redis_client.hget("rq:job:once", "longshore")).status is Status.SUCCEEDED
