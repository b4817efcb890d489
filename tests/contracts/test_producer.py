"""The producer on both queues: the same verbs, the same answers, with a consumer beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import enqueue
from enqueue import Job, RecordsUnavailable, Status, UnknownJob, UsageError, Variable
from support.places import PLACES, Place, placing


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Place]:
    async for found in placing(request.param, redis_url):
        yield found


async def read(parts: Any) -> bytes:
    return b"".join([part async for part in parts])


async def test_a_job_is_followed_to_its_end(place: Place) -> None:
    job = Job(
        commands=["echo one; sleep 0.1; echo two $S", "echo ::set-outcome-var k=v"],
        variables=[Variable(name="S", value="s3cret", sensitive=True)],
    )
    async with place.producer() as producer:
        handle = await producer.enqueue(job)
        assert await handle.status() is Status.QUEUED
        assert await handle.outcome() is None
        with pytest.raises(TimeoutError, match="queued"):
            await handle.wait(0)
        following = asyncio.create_task(read(handle.logs(follow=True)))
        async with place.consumer():
            outcomes = await asyncio.gather(handle.wait(30), producer.handle(handle.id).wait(30))
        assert await following == b"one\ntwo ***\n"
        assert [(o.status, o.variables, o.exit_code) for o in outcomes] == [(Status.SUCCEEDED, {"k": "v"}, 0)] * 2
        assert await read(handle.logs()) == b"one\ntwo ***\n"
        assert await handle.wait(0) == outcomes[0]
        record = await handle.record()
        assert (record.id, record.queue, record.attempt) == (handle.id, place.queue, 1)
        assert not await handle.cancel()


async def test_the_sync_face_is_the_same(place: Place) -> None:
    def produce() -> None:
        with enqueue.connect(place.url, queue=place.queue, **place.options) as producer:
            handle = producer.enqueue(Job(commands=["echo hi", "exit 2"]))
            assert b"".join(handle.logs(follow=True)) == b"hi\n"
            outcome = handle.wait(30)
            assert (outcome.status, outcome.reason, outcome.exit_code) == (Status.FAILED, "exit_code", 2)
            assert (handle.status, handle.outcome, handle.record.outcome) == (Status.FAILED, outcome, outcome)
            assert not handle.cancel()
            with pytest.raises(TimeoutError):
                producer.enqueue(Job(commands=["true"]), queue=place.nobodys).wait(0.01)

    async with place.consumer():
        await asyncio.to_thread(produce)


async def test_a_job_that_is_cancelled_in_time_never_runs(place: Place) -> None:
    async with place.producer() as producer:
        early = await producer.enqueue(Job(commands=["echo never"]))
        assert await early.cancel()
        outcome = await early.wait(30)
        assert (outcome.status, outcome.reason, outcome.message) == (
            Status.CANCELLED,
            "requested",
            "cancelled before it started",
        )
        async with place.consumer():
            later = await producer.enqueue(Job(commands=["true"]))
            assert (await later.wait(30)).succeeded
            running = await producer.enqueue(Job(commands=["echo up; sleep 600"]))
            async for _ in running.logs(follow=True):
                break
            assert await running.cancel()
            assert (await running.wait(30)).status is Status.CANCELLED
        assert await read(early.logs(follow=True)) == b""


async def test_a_payload_that_is_too_large_is_refused_before_it_is_sent(place: Place) -> None:
    async with place.producer() as producer:
        with pytest.raises(enqueue.InvalidJob, match="at most 1000000"):
            await producer.enqueue(Job(commands=["x" * 1_000_001]))


async def test_bad_payloads_are_final_and_the_consumer_goes_on(place: Place) -> None:
    async with place.producer() as producer, place.consumer():
        refused = await producer.enqueue(Job(commands=["true"], labels={"a": "b"}, retries=3))
        outcome = await refused.wait(30)
        assert (outcome.reason, (await refused.record()).attempt) == ("refused", 1)
        assert "labels" in (outcome.message or "")
        assert (await (await producer.enqueue(Job(commands=["true"]))).wait(30)).succeeded


def test_what_isnt_there_is_said(redis_url: str) -> None:
    with enqueue.connect(redis_url) as producer:
        handle = producer.handle("no-such-job")
        for verb in (lambda: handle.status, handle.cancel, lambda: list(handle.logs()), lambda: handle.wait(1)):
            with pytest.raises(UnknownJob, match="no-such-job"):
                verb()
    with enqueue.connect("tcp://127.0.0.1:1") as producer, pytest.raises(RecordsUnavailable, match="records URL"):
        producer.handle("x" * 12).wait(1)
    with enqueue.connect("redis://:hunter2@127.0.0.1:1/0") as producer:
        with pytest.raises(enqueue.QueueUnavailable, match=r"127\.0\.0\.1:1") as caught:
            producer.enqueue(Job(commands=["true"]))
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://h", {}),
        ("redis://h", {"records": "redis://h"}),
        ("tcp://h:1", {"records": "tcp://h"}),
        ("redis://h:x", {}),
    ],
)
def test_a_url_that_cant_work_is_a_usage_error(url: str, options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        enqueue.connect(url, **options)
