"""A consumer that is told to stop claims nothing from that moment on, however long it waits for what it runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from consumer.app import run_consumer
from consumer.settings import load_settings
from enqueue import Status, aio
from support.consuming import until
from support.fake_cluster import Held, consumer_on, ended_well, enqueue
from support.fakekube import FakeKube
from support.kubernetes import kubeconfig_of


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with FakeKube("jobs", script=Held()) as kube:
        yield kube


class Stoppable:
    """A consumer in this process, what it logged so far, and the means to tell it to stop."""

    def __init__(self, task: asyncio.Task[None], stop: asyncio.Event, events: list[Any]) -> None:
        self.task, self._stop, self.events = task, stop, events

    async def hears(self, number: signal.Signals) -> None:
        """It has begun to stop when this returns. Only for one that runs: it has handlers for these signals."""
        signal.raise_signal(number)
        await self._stop.wait()

    def said(self, event: str) -> bool:
        return any(e["event"] == event for e in self.events)


@contextlib.asynccontextmanager
async def stoppable(kube: FakeKube, redis_url: str, directory: Path, **fields: Any) -> AsyncIterator[Stoppable]:
    cluster = {"kubeconfig": str(kubeconfig_of(kube.url, directory)), "namespace": "jobs", "rate": 500}
    settings = load_settings(queue_url=redis_url, executor="kubernetes", name="first", kubernetes=cluster, **fields)
    stop = asyncio.Event()
    with structlog.testing.capture_logs() as events:
        task = asyncio.create_task(run_consumer(settings, stop))
        try:
            yield Stoppable(task, stop, events)
        finally:
            stop.set()
            kube.script.go.set()
            async with asyncio.timeout(60):
                await task


async def counted(handles: list[aio.AsyncHandle], status: Status) -> int:
    return [await handle.status() for handle in handles].count(status)


async def run(handles: list[aio.AsyncHandle], count: int) -> bool:
    return await counted(handles, Status.RUNNING) == count


@pytest.mark.row(8)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["drain", "finish"])
async def test_who_waits_for_its_jobs_claims_no_more(
    kube: FakeKube, redis_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    fields = {"concurrency": 8, "shutdown": "drain", "shutdown_grace": 600}
    async with stoppable(kube, redis_url, tmp_path, **fields) as consumer, aio.connect(redis_url) as queue:
        running = await enqueue(queue, 2)
        await until(lambda: run(running, 2))
        await consumer.hears(number)  # while it waits for work
        late = await enqueue(queue, 3)
        await until(lambda: consumer.said("waiting_for_jobs"))
        late += await enqueue(queue, 3)
        kube.script.go.set()
        async with asyncio.timeout(60):
            assert all([(await handle.wait()).succeeded for handle in running])
            await consumer.task
        assert await counted(late, Status.QUEUED) == 6
    assert len(kube.created) == 2


@pytest.mark.row(8)
async def test_slots_that_are_left_at_once_take_no_other_jobs(kube: FakeKube, redis_url: str, tmp_path: Path) -> None:
    fields = {"concurrency": 2, "shutdown": "detach"}
    async with aio.connect(redis_url) as queue:
        async with stoppable(kube, redis_url, tmp_path, **fields) as consumer:
            handles = await enqueue(queue, 5)
            await until(lambda: run(handles, 2))
            await consumer.hears(signal.SIGTERM)
            async with asyncio.timeout(60):
                await consumer.task
            assert await counted(handles, Status.QUEUED) == 3
            assert len(kube.created) == len(kube.names("pods")) == 2
        async with consumer_on(kube, redis_url, tmp_path, concurrency=5):
            await ended_well(handles, kube)
