"""A start that hangs at the API server, and a cancel or a shutdown that doesn't wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.logs.follow import Follower
from consumer.model import Claim, Settlement, Stop
from consumer.queues.none import NoRecords
from consumer.run import Tools, run_job
from consumer.settings import Kubernetes, Settings
from consumer.switch import Switch
from enqueue.job import Job
from enqueue.record import Status
from support.fakekube import FakeKube
from support.kubernetes import kubeconfig_of


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with FakeKube("jobs") as kube:
        yield kube


@pytest.fixture
async def executor(kube: FakeKube, tmp_path: Path) -> AsyncIterator[KubernetesExecutor]:
    settings = Kubernetes(kubeconfig=kubeconfig_of(kube.url, tmp_path), namespace="jobs", rate=10_000, patience=60)
    executor = KubernetesExecutor(settings, "consumer-1")
    await executor.open()
    yield executor
    await executor.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.start.INTERRUPT_SECONDS", 0.05)
    monkeypatch.setattr("consumer.start.START_PAUSE", 0.02)


async def job(executor: KubernetesExecutor, switch: Switch) -> tuple[Any, list[Settlement]]:
    settled: list[Settlement] = []

    async def settle(settlement: Settlement) -> None:
        settled.append(settlement)

    whole = Settings()
    claim = Claim("j", "q", 1, "t", Job(image="busybox", commands=["true"]), claimed_at=time.time())
    tools = Tools(executor, NoRecords(), whole, lambda c: Follower(c, lambda *_: (), whole.logs), settle, requeues=True)
    async with asyncio.timeout(30):
        return await run_job(claim, tools, switch), settled


async def test_a_cancel_finds_the_pod_that_an_unanswered_create_made(
    kube: FakeKube, executor: KubernetesExecutor
) -> None:
    async def waits(pod: Any) -> None:
        pod.schedule()

    kube.script = waits
    kube.fault("create pods", drop="after")  # it was made, and nobody was told
    kube.fault("create pods", delay=3600)  # so it is tried again, and that hangs
    switch = Switch()
    task = asyncio.create_task(job(executor, switch))
    await kube.until(lambda kube: kube.creates >= 2)
    switch.set(Stop.CANCEL)
    outcome, settled = await task
    assert (outcome.status, outcome.message) == (Status.CANCELLED, "cancelled while it was starting")
    assert len(settled) == len(kube.created) == 1
    assert kube.names("pods") == []


async def test_a_cancel_does_not_wait_for_a_create_that_hangs(kube: FakeKube, executor: KubernetesExecutor) -> None:
    kube.fault("create pods", delay=3600)
    switch = Switch()
    task = asyncio.create_task(job(executor, switch))
    await kube.until(lambda kube: kube.creates >= 1)
    switch.set(Stop.CANCEL)
    outcome, _ = await task
    assert (outcome.status, outcome.message) == (Status.CANCELLED, "cancelled before it started")
    assert kube.names("pods") == []


async def test_a_shutdown_does_not_wait_either_and_settles_nothing(
    kube: FakeKube, executor: KubernetesExecutor
) -> None:
    kube.fault("create pods", drop="before", times=1000)  # the API server is away
    switch = Switch()
    task = asyncio.create_task(job(executor, switch))
    await kube.until(lambda kube: kube.creates >= 2)
    switch.set(Stop.SHUTDOWN)
    assert await task == (None, [])
