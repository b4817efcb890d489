"""The API server is away, refuses us or lets us wait: jobs wait, none fails, none runs twice, and it is said why."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from consumer.executors import circuit
from consumer.executors.kubernetes import executor, judging, log_right, watch
from enqueue import Status, aio
from support.consuming import until
from support.fake_cluster import Held, consumer_on, ended_well, enqueue
from support.fakekube import FakeKube


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with FakeKube("jobs", script=Held()) as kube:
        yield kube


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waits for the API at a hundredth of their length: three seconds are five minutes."""
    for module, names in (
        (watch, ("PAUSE_CAP", "LIFE_SECONDS")),
        (executor, ("START_PATIENCE",)),
        (circuit, ("PAUSE_FIRST", "PAUSE_CAP")),
        (judging, ("INSIST_FIRST", "INSIST_CAP")),
        (log_right, ("PROBE_FIRST",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name) / 100)
    monkeypatch.setattr("consumer.start.DOWN_PAUSE_CAP", 0.3)
    monkeypatch.setattr("consumer.start.START_PAUSE", 0.05)
    monkeypatch.setattr("consumer.worker.BEAT_INTERVAL", 0.2)
    monkeypatch.setattr("consumer.worker.LOOK_INTERVAL", 0.02)


def said(events: list[Any], event: str) -> Callable[[], bool]:
    return lambda: any(e["event"] == event for e in events)


async def running(handles: list[aio.AsyncHandle], count: int) -> bool:
    return [await handle.status() for handle in handles].count(Status.RUNNING) == count


async def waiting(redis_url: str) -> int:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        return int(await client.llen("rq:queue:default"))


@contextlib.asynccontextmanager
async def away(kube: FakeKube) -> AsyncIterator[list[float]]:
    """Nobody serves on the API's port while the block goes on; the times of all calls that were in vain."""
    calls: list[float] = []

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(time.monotonic())
        writer.close()

    await kube.stop()
    server = await asyncio.start_server(hang_up, "127.0.0.1", int(kube.url.rpartition(":")[2]))
    yield calls
    server.close()
    await server.wait_closed()
    await kube.start()


@pytest.mark.row(15)
@pytest.mark.usefixtures("quick")
async def test_five_minutes_without_an_api_fail_no_job(kube: FakeKube, redis_url: str, tmp_path: Path) -> None:
    async with consumer_on(kube, redis_url, tmp_path, concurrency=4) as events, aio.connect(redis_url) as queue:
        handles = await enqueue(queue, 12)
        await until(lambda: running(handles, 4))
        async with away(kube) as calls:
            kube.script.go.set()  # they end while nobody can see it
            await until(said(events, "executor_unavailable"))
            assert await waiting(redis_url) == 8
            await until(lambda: len(calls) >= 40)
            assert await waiting(redis_url) == 8
            assert await running(handles, 4)
        await ended_well(handles, kube)
    assert not [e for e in events if e["log_level"] == "error"]
    assert said(events, "executor_back")()


@pytest.mark.row(15)
@pytest.mark.usefixtures("quick")
async def test_free_slots_claim_nothing_while_the_api_is_away(
    kube: FakeKube, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "PAUSE_FIRST", 300)  # no claim is due for a try before it is back
    async with consumer_on(kube, redis_url, tmp_path, concurrency=8) as events, aio.connect(redis_url) as queue:
        handles = await enqueue(queue, 2)
        await until(lambda: running(handles, 2))
        async with away(kube) as calls:
            kube.script.go.set()
            handles += await enqueue(queue, 1)  # whose start finds out
            await until(said(events, "executor_unavailable"))
            left, before = await waiting(redis_url), len(calls)
            handles += await enqueue(queue, 4)
            await until(lambda: len(calls) >= before + 20)
            assert await waiting(redis_url) == left + 4
        await ended_well(handles, kube)


@pytest.mark.row(15)
@pytest.mark.usefixtures("quick")
async def test_a_consumer_that_starts_during_an_outage_waits(kube: FakeKube, redis_url: str, tmp_path: Path) -> None:
    kube.script.go.set()
    await kube.stop()
    async with (
        consumer_on(kube, redis_url, tmp_path, started=False) as events,
        aio.connect(redis_url) as queue,
    ):
        handles = await enqueue(queue, 2)
        await until(said(events, "executor_unavailable"))
        await kube.start()
        await ended_well(handles, kube)


@pytest.mark.row(15)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("created", [False, True])
async def test_a_job_cancelled_while_its_start_has_no_answer_leaves_no_pod(
    kube: FakeKube, redis_url: str, tmp_path: Path, created: bool
) -> None:
    async with consumer_on(kube, redis_url, tmp_path) as events, aio.connect(redis_url) as queue:
        if created:
            kube.fault("create pods", drop="after")
        for verb in ("create pods", "get pods", "list pods"):
            kube.fault(verb, drop="before", times=1000)
        (handle,) = await enqueue(queue, 1)
        await until(said(events, "executor_unavailable"))
        await handle.cancel()
        kube.faults.clear()
        async with asyncio.timeout(20):
            assert (await handle.wait()).status is Status.CANCELLED
            await kube.until(lambda kube: not kube.names("pods"))
    assert len(kube.created) in ((1,) if created else (0, 1))  # a create may be sent again before the cancel is heard


@pytest.mark.row(20)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("verb", ["create pods", "list pods", "watch pods"])
async def test_rights_taken_away_bury_no_job_and_are_named(
    kube: FakeKube, redis_url: str, tmp_path: Path, verb: str
) -> None:
    kube.script.go.set()
    async with consumer_on(kube, redis_url, tmp_path, concurrency=3) as events, aio.connect(redis_url) as queue:
        kube.forbidden.add(verb)
        kube.compact()
        kube.cut_watches()
        before, began = len(kube.ledger), time.monotonic()
        handles = await enqueue(queue, 9)
        await until(said(events, "executor_unavailable"))
        await kube.until(lambda kube: len(kube.ledger) - before >= 30)
        assert time.monotonic() - began >= 0.3, kube.verbs(before)  # half a minute, and a request a second
        kube.forbidden.clear()
        await ended_well(handles, kube)
    why = next(e["error"] for e in events if e["event"] == "executor_unavailable")
    assert verb in why


@pytest.mark.row(20)
@pytest.mark.usefixtures("quick")
async def test_without_the_right_to_read_logs_no_more_jobs_are_started(
    kube: FakeKube, redis_url: str, tmp_path: Path
) -> None:
    kube.script.go.set()
    async with consumer_on(kube, redis_url, tmp_path, concurrency=3) as events, aio.connect(redis_url) as queue:
        kube.forbidden.add("get pods/log")
        handles = await enqueue(queue, 9)
        await until(said(events, "executor_unavailable"))
        probed = "get pods/log ls-check"
        await kube.until(lambda kube: [f"{row.verb} {row.name}" for row in kube.ledger].count(probed) >= 5)
        assert len(kube.created) <= 3
        kube.forbidden.clear()
        await ended_well(handles, kube)
    why = next(e["error"] for e in events if e["event"] == "executor_unavailable")
    assert "may not get pods/log in namespace 'jobs': bind the Role" in why


@pytest.mark.row(72)
@pytest.mark.usefixtures("quick")
async def test_a_namespace_that_goes_and_comes_back(kube: FakeKube, redis_url: str, tmp_path: Path) -> None:
    kube.script.go.set()
    async with consumer_on(kube, redis_url, tmp_path, concurrency=3) as events, aio.connect(redis_url) as queue:
        kube.namespaces.clear()
        handles = await enqueue(queue, 6)
        await until(said(events, "executor_unavailable"))
        kube.namespaces.add("jobs")
        await ended_well(handles, kube)
    why = next(e["error"] for e in events if e["event"] == "executor_unavailable")
    assert why.startswith("namespace 'jobs' doesn't exist")
