"""RQ's queue in trouble: rows that nobody should write, and a server that takes no writes for a while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
import rq
import structlog
from redis._parsers.base import BaseParser

from consumer.errors import SetupError
from consumer.model import Claim, LogPosition, Settlement, Verdict
from consumer.queues import open_queue
from consumer.queues.redis_server import transient
from consumer.queues.rq import RqQueue
from consumer.recording import log_of, record_claimed, record_ended
from consumer.settings import Retention, Settings
from enqueue import Job, Status, UsageError, aio, connect
from enqueue.errors import QueueUnavailable
from enqueue.record import Outcome, Where
from enqueue.wire.records import consumer_key
from support.consuming import consuming, until
from support.redis_server import RedisServer

JOB = {"image": "alpine:3.20", "commands": ["echo hi"]}


def make_queue(url: str) -> RqQueue:
    return RqQueue(
        url, ("q",), consumer="c1", max_bytes=100_000, retention=Retention(success=111, failure=222), patience=0.1
    )


def succeeded(claim: Claim) -> Settlement:
    outcome = Outcome(status=Status.SUCCEEDED, exit_code=0)
    record = record_claimed(claim, "c1", "null", "")
    record = record_ended(record, outcome, Verdict.DONE, Where(), None, log_of("", LogPosition()), time.time())
    return Settlement(claim, Verdict.DONE, outcome, record)


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize(
    "odd",
    [
        {"timeout": "9" * 400},
        {"timeout": "9" * 18},
        {"result_ttl": "9" * 18},
        {"retries_left": "9" * 40},
        {"retry_intervals": "[1e400]"},
        {"retry_intervals": "[" * 100_000},
        {"enqueued_at": b"\xff"},
        {"meta": pickle.dumps({"mine": b"\xff"})},  # and the payload is JSON
        {"longshore": "{" * 1000},
    ],
    ids=lambda odd: next(iter(odd)),
)
async def test_an_odd_field_costs_neither_its_job_nor_another_one(
    redis_url: str, redis_client: redis.Redis, odd: dict[str, Any]
) -> None:
    fields = {"status": "queued", "origin": "q", "data": json.dumps(["longshore.job", None, [JOB], {}])}
    redis_client.hset("rq:job:odd", mapping={**fields, **odd})
    redis_client.hset("rq:job:plain", mapping=fields)
    redis_client.rpush("rq:queue:q", "odd", "plain")
    queue = make_queue(redis_url)
    await queue.open()
    claims = await queue.claim(5)
    assert [claim.id for claim in claims] == ["odd", "plain"]
    assert all(claim.job for claim in claims)
    assert await queue.settle([succeeded(claim) for claim in claims]) == {}
    assert redis_client.hget("rq:job:odd", "status") == redis_client.hget("rq:job:plain", "status") == b"finished"
    if "meta" in odd:
        assert redis_client.hget("rq:job:odd", "meta") == odd["meta"]
    await queue.close()


async def test_an_id_that_is_no_text_is_left_and_the_others_run(redis_url: str, redis_client: redis.Redis) -> None:
    redis_client.hset(b"rq:job:\xff", mapping={"status": "queued"})
    redis_client.rpush("rq:queue:q", b"\xff")
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="plain")
    queue = make_queue(redis_url)
    await queue.open()
    assert [claim.id for claim in await queue.claim(5)] == ["plain"]
    await queue.close()


async def test_an_end_that_cant_be_written_costs_no_other_one(redis_url: str, redis_client: redis.Redis) -> None:
    stock = rq.Queue("q", connection=redis_client)
    for name in ("bad", "good"):
        stock.enqueue("longshore.job", JOB, job_id=name)
    queue = make_queue(redis_url)
    await queue.open()
    bad, good = [succeeded(claim) for claim in await queue.claim(2)]
    bad = replace(bad, record=bad.record.model_copy(update={"result": "\ud800"}))
    written = await asyncio.gather(
        *(queue.records.write(each.claim, each.record) for each in (bad, good)), return_exceptions=True
    )
    assert isinstance(written[0], ValueError)
    assert written[1] is None
    refused = await queue.settle([bad, good])
    assert list(refused) == [bad.claim.token]
    assert isinstance(refused[bad.claim.token], ValueError)
    assert redis_client.hget("rq:job:good", "status") == b"finished"
    await queue.close()


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'. script: 1f", True),
        ("READONLY You can't write against a read only replica.", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("MISCONF Redis is configured to save RDB snapshots", True),
        ("ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("NOPERM this user has no permissions", False),
    ],
)
def test_what_passes_by_itself_is_told_from_what_does_not(answer: str, passes: bool) -> None:
    assert transient(BaseParser.parse_error(answer)) is passes


@pytest.mark.parametrize(
    ("trouble", "relief"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["full", "replica"],
)
async def test_claims_and_ends_wait_for_a_server_that_takes_no_writes(
    own_server: RedisServer, trouble: tuple[str, ...], relief: tuple[str, ...]
) -> None:
    queue = make_queue(own_server.url(0))
    await queue.open()
    with redis.Redis.from_url(own_server.url(0)) as control, structlog.testing.capture_logs() as said:
        stock = rq.Queue("q", connection=control)
        stock.enqueue("longshore.job", JOB, job_id="first")
        (first,) = await queue.claim(1)
        stock.enqueue("longshore.job", JOB, job_id="second")
        control.execute_command(*trouble)
        claimed: list[Claim] = []
        with contextlib.suppress(QueueUnavailable):  # a full server lets the script go on: it begins by taking away
            claimed += await queue.claim(1)
        settling = asyncio.create_task(queue.settle([succeeded(first)]))
        await until(lambda: settling.done() or any(entry.get("doing") == "settle" for entry in said))
        control.execute_command(*relief)
        assert await settling == {}
        assert control.hget("rq:job:first", "status") == b"finished"
        claimed += await queue.claim(1)
        assert [claim.id for claim in claimed] == ["second"]
        await queue.close()


async def test_after_an_outage_nobody_is_taken_for_dead_before_it_could_give_a_sign(
    redis_url: str, redis_client: redis.Redis
) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB, job_id="j1")
    holder, other = make_queue(redis_url), make_queue(redis_url)
    await holder.open()
    await other.open()
    (claim,) = await holder.claim(5)

    async def taken_over(queue: RqQueue) -> list[str]:
        queue._last_takeover = 0.0
        return [claim.id for claim in await queue.claim(5)]

    for queue in (holder, other):  # what expires while the server is away for long
        redis_client.delete(consumer_key(queue.instance))
    assert await taken_over(other) == []
    assert await taken_over(holder) == []
    await other.records.live()
    assert await taken_over(other) == []
    await holder.records.live()
    redis_client.hset(consumer_key(other.instance), "since", int(time.time()) - 60)
    assert await taken_over(other) == []
    assert await holder.beat([claim]) == {}
    redis_client.hset(consumer_key(holder.instance), "since", 0)
    assert await taken_over(holder) == []  # nobody is dead to itself
    await holder.close()
    assert await taken_over(other) == ["j1"]
    await other.close()


async def test_a_server_that_refuses_us_is_not_waited_for(own_server: RedisServer) -> None:
    with redis.Redis.from_url(own_server.url(0)) as control:
        control.execute_command("ACL", "SETUSER", "reader", "on", ">s3cret", "~*", "&*", "+@all", "-eval", "-evalsha")
        control.execute_command("CONFIG", "SET", "requirepass", "other-s3cret")
        bare = own_server.url(0).removeprefix("unix://")
        for user in ("", ":wrong-s3cret@", "reader:s3cret@"):
            with pytest.raises(SetupError, match="refuses us") as caught:
                await make_queue(f"unix://{user}{bare}").open()
            assert "s3cret" not in str(caught.value)
        control.execute_command("CONFIG", "SET", "requirepass", "")


@pytest.mark.parametrize("url", ["redis://:s3cret@[::1/0", "redis://:s3cret@localhost:port/0"])
async def test_a_url_that_cant_be_read_is_a_sentence(url: str) -> None:
    with pytest.raises(UsageError, match="can't be read") as caught:
        await open_queue(Settings(queue_url=url))
    with pytest.raises(UsageError, match="can't be read") as other:
        connect(url)
    assert "s3cret" not in str(caught.value) + str(other.value)


async def test_a_suspended_rq_is_asked_less_and_less(redis_url: str, redis_client: redis.Redis) -> None:
    rq.Queue("q", connection=redis_client).enqueue("longshore.job", JOB)
    redis_client.set("rq:suspended", 1)
    queue = make_queue(redis_url)
    await queue.open()
    pauses = []
    for _ in range(4):
        assert await queue.claim(1) == []
        pauses.append(queue._pause)
    assert pauses == sorted(set(pauses))
    redis_client.delete("rq:suspended")
    assert len(await queue.claim(1)) == 1
    assert queue._pause == 0
    await queue.close()


async def test_an_id_that_is_used_again_begins_with_nothing_of_the_former_job(
    redis_url: str, redis_client: redis.Redis
) -> None:
    queue = make_queue(redis_url)
    await queue.open()
    with connect(redis_url) as producer:
        producer.enqueue(Job.load(JOB), queue="q", job_id="same")
        (claim,) = await queue.claim(1)
        await queue.records.append(claim, b"of the first one\n", LogPosition(1, 1, 17))
        await queue.settle([succeeded(claim)])
        again = producer.enqueue(Job.load(JOB), queue="elsewhere", job_id="same")
        assert list(again.logs()) == []
        assert redis_client.zcard("rq:finished:q") == 0  # `rq requeue` would have put it back beside the new one
    await queue.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_producer_waits_and_follows_across_a_restart(own_server: RedisServer, kind: str) -> None:
    url = own_server.url(0)
    own_server.stop()
    server = own_server
    server.options = ("--appendonly", "yes", "--appendfsync", "no")
    server.start()
    async with aio.connect(url) as producer, consuming(url):
        handle = await producer.enqueue(
            Job(commands=["until test -e go; do sleep 0.05; done", "echo end"], workdir=str(server.directory))
        )
        async with asyncio.TaskGroup() as group:
            if kind == "sync":
                blocking = connect(url).handle(handle.id)
                waiting = group.create_task(asyncio.to_thread(blocking.wait, 60))
                following = group.create_task(asyncio.to_thread(lambda: b"".join(blocking.logs(follow=True))))
            else:
                waiting = group.create_task(handle.wait(60))
                following = group.create_task(whole(handle))
            await until(lambda: is_running(handle))
            server.stop(kill=True)
            (server.directory / "go").touch()
            server.start()
        assert waiting.result().succeeded
        assert following.result() == b"end\n"


async def is_running(handle: aio.AsyncHandle) -> bool:
    return await handle.status() is Status.RUNNING


async def whole(handle: aio.AsyncHandle) -> bytes:
    return b"".join([part async for part in handle.logs(follow=True)])


async def test_a_queue_that_was_idle_for_long_is_heard_at_once(redis_url: str) -> None:
    queue = make_queue(redis_url)
    await queue.open()
    for _ in range(4):
        assert await queue.claim(1) == []
        assert queue._pause == 0
    await queue.close()
