"""The sweeper with real pods, a real Lease, real Records on RQ, and the Role of k8s/base/rbac.yaml only."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.lease import Lease, leases_path
from consumer.model import Claim, LogPosition, Settlement
from consumer.outcome import outcome_of, verdict_of
from consumer.plan import plan_of
from consumer.queues.rq import RqQueue
from consumer.recording import log_of, record_claimed, record_ended, record_running
from consumer.settings import Jobs, Kubernetes, Retention
from enqueue import Job, aio
from support.consuming import until

pytestmark = pytest.mark.cluster


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[RqQueue]:
    opened = RqQueue(redis_url, ("q",), consumer="c", max_bytes=100_000, retention=Retention(), patience=0.1)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def settings(kubernetes_settings: Kubernetes) -> Kubernetes:
    return kubernetes_settings.model_copy(update={"sweep_interval": 1.0, "lease_seconds": 6.0})


@contextlib.asynccontextmanager
async def opened(settings: Kubernetes, name: str) -> AsyncIterator[KubernetesExecutor]:
    executor = KubernetesExecutor(settings, name)
    await executor.open()
    try:
        yield executor
    finally:
        await executor.close()


@contextlib.asynccontextmanager
async def sweeping(settings: Kubernetes, name: str, queue: RqQueue) -> AsyncIterator[asyncio.Task[None]]:
    async with opened(settings, name) as executor:
        task = asyncio.create_task(executor.sweep(queue.records))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Bench:
    """Takes jobs as a consumer does that dies before it deletes the pod."""

    def __init__(self, queue: RqQueue, settings: Kubernetes, redis_url: str, image: str) -> None:
        self.queue, self.settings, self.url, self.image = queue, settings, redis_url, image

    async def claim(self, *commands: str) -> Claim:
        async with aio.connect(self.url) as producer:
            await producer.enqueue(Job(image=self.image, commands=commands), queue="q")
        [claim] = await self.queue.claim(1)
        return claim

    async def start(self, claim: Claim, *, end: bool = True, settle: bool = True) -> str:
        """The name of the pod that is left."""
        async with opened(self.settings, "dead") as executor:
            plan = plan_of(claim, Jobs(grace=1), "dead", source=self.queue.records.source)
            execution = await executor.start(plan)
            async with asyncio.timeout(60):
                await execution.started()
                if end:
                    exit = await execution.wait()
            if settle:
                outcome = outcome_of(exit, None, None, {})
                verdict, _ = verdict_of(outcome, claim, started=True, requeues=True)
                record = record_running(record_claimed(claim, "dead", "kubernetes", ""), execution.where, None)
                log = log_of("", LogPosition())
                record = record_ended(record, outcome, verdict, execution.where, exit, log, time.time())
                assert await self.queue.settle([Settlement(claim, verdict, outcome, record)]) == {}
        return execution.where.pod or ""


@pytest.fixture
def bench(queue: RqQueue, settings: Kubernetes, redis_url: str, image: str) -> Bench:
    return Bench(queue, settings, redis_url, image)


@pytest.fixture
def pods(admin: Api, namespace: str) -> Callable[[], Any]:
    async def names() -> set[str]:
        listed = await admin.request("GET", path_of(namespace, "pods"))
        return {item["metadata"]["name"] for item in listed["items"]}

    return names


async def left(pods: Callable[[], Any], *wanted: str) -> None:
    async def so() -> bool:
        return bool(await pods() == set(wanted))

    await until(so, 60)


async def test_what_a_dead_consumer_left_goes_and_nothing_else(
    bench: Bench, queue: RqQueue, settings: Kubernetes, admin: Api, namespace: str, pods: Callable[[], Any], image: str
) -> None:
    running, settled = await bench.claim("sleep 600"), await bench.claim("echo done")
    held, swept = await asyncio.gather(bench.start(running, end=False, settle=False), bench.start(settled))
    model = await admin.request("GET", path_of(namespace, "pods", swept))
    foreign = []
    for name, labels in (
        ("by-hand", {}),
        ("of-another-store", model["metadata"]["labels"] | {"longshore.dev/source": "another"}),
        ("a-copy-of-ours", model["metadata"]["labels"]),
    ):
        meta = {"name": name, "labels": labels, "annotations": model["metadata"]["annotations"]}
        spec = copy.deepcopy(model["spec"]) | {"schedulerName": "none"}
        spec = {key: value for key, value in spec.items() if key in ("containers", "securityContext", "schedulerName")}
        spec["containers"] = [{**spec["containers"][0], "volumeMounts": []}]
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        await admin.request("POST", path_of(namespace, "pods"), body=body)
        foreign.append(name)
    async with sweeping(settings, "alive", queue):
        await left(pods, held, *foreign)
        await queue.redis.delete(f"rq:job:{running.id}")  # nobody knows the job any more: its running pod is an orphan
        await left(pods, *foreign)
    lease = await admin.request("GET", leases_path(namespace, settings.lease))
    assert lease["spec"]["holderIdentity"] == ""


async def test_failed_pods_are_kept_as_many_as_may_be(
    bench: Bench, queue: RqQueue, settings: Kubernetes, pods: Callable[[], Any]
) -> None:
    settings = settings.model_copy(update={"keep_failed": 3600.0, "keep_failed_pods": 1})
    failed = {await bench.start(await bench.claim(f"exit {code}")) for code in (3, 4)}
    good = await bench.start(await bench.claim("exit 0"))
    assert await pods() == {*failed, good}

    async def one_is_left() -> bool:
        now = await pods()
        return len(now) == 1 and now < failed

    async with sweeping(settings, "alive", queue):
        await until(one_is_left, 60)


async def test_leadership_passes_on(
    bench: Bench,
    queue: RqQueue,
    settings: Kubernetes,
    admin: Api,
    namespace: str,
    pods: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def holder() -> str:
        found = await admin.request("GET", leases_path(namespace, settings.lease))
        return str(found["spec"]["holderIdentity"]).partition("_")[0]

    async def held_by(name: str) -> bool:
        return await holder() == name

    async with sweeping(settings, "one", queue) as one:
        await left(pods)
        await until(lambda: _seen(admin, namespace, settings), 60)
        assert await holder() == "one"
        async with sweeping(settings, "two", queue) as two, sweeping(settings, "three", queue) as three:
            one.cancel()  # it says that it goes
            await asyncio.gather(one, return_exceptions=True)
            await until(lambda: _not(held_by("one")), 60)
            former = await until(holder, 60)
            monkeypatch.setattr(Lease, "_release", _nothing)  # the next one dies without a word
            leader, heir = (two, "three") if former == "two" else (three, "two")
            leader.cancel()
            await asyncio.gather(leader, return_exceptions=True)
            await until(lambda: held_by(heir), 60)
            await bench.start(await bench.claim("true"))
            await left(pods)


async def _seen(admin: Api, namespace: str, settings: Kubernetes) -> bool:
    listed = await admin.request("GET", leases_path(namespace))
    return any(item["metadata"]["name"] == settings.lease for item in listed["items"])


async def _not(condition: Any) -> bool:
    return not await condition


async def _nothing(self: Lease) -> None:
    """As kill -9."""
