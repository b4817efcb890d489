"""An API server that fails at one pod and takes others: the job ends in time, and holds up nobody meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from consumer.errors import ExecutorFault
from consumer.executors import circuit
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.model import Plan
from consumer.ports import Execution
from consumer.settings import Kubernetes
from consumer.start import start
from consumer.switch import Switch
from enqueue import Status, aio
from enqueue.record import Reason
from support.consuming import until
from support.fake_cluster import consumer_on, ended_well, enqueue
from support.fakekube import FakeKube
from support.fakekube_http import Request, status
from support.kubernetes import kubeconfig_of, plan_of

HOOK = 'failed calling webhook "verify.example": context deadline exceeded'
BAD = "bad.example/x:1"


class Fails(FakeKube):
    """Answers 500 to creates that `fails` picks, by a webhook or once it is to store them."""

    message = HOOK
    stores = False
    """It has stored the pod all the same."""

    def __init__(self) -> None:
        super().__init__("jobs")
        self.fails: Callable[[str, bool], bool] = lambda image, dry: False
        """By the pod's image, and whether it is a dry run."""
        self.denies: frozenset[str] = frozenset()

    def _create(self, row: Request, namespace: str, item: dict[str, Any]) -> web.StreamResponse:
        if row.resource == "pods":
            image = item["spec"]["containers"][0]["image"]
            if self.fails(image, "dryRun" in row.query):
                if self.stores:
                    super()._create(row, namespace, item)
                return status(500, "InternalError", self.message)
            if image in self.denies:
                return status(403, "Forbidden", 'admission webhook "verify.example" denied the request: who is that?')
        return super()._create(row, namespace, item)


@pytest.fixture
async def kube() -> AsyncIterator[Fails]:
    async with Fails() as kube:
        yield kube


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE_FIRST", "PAUSE_CAP"):
        monkeypatch.setattr(circuit, name, getattr(circuit, name) / 100)
    monkeypatch.setattr("consumer.start.DOWN_PAUSE_CAP", 0.1)
    monkeypatch.setattr("consumer.start.START_PAUSE", 0.02)
    monkeypatch.setattr("consumer.worker.LOOK_INTERVAL", 0.02)


@pytest.mark.row(72)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("dry", [True, False], ids=["also in dry runs", "not in dry runs"])
async def test_pods_that_a_webhook_fails_at_end_in_time_and_hold_up_no_other(
    kube: Fails, redis_url: str, tmp_path: Path, dry: bool
) -> None:
    kube.fails = lambda image, tried: image == BAD and (dry or not tried)
    async with (
        consumer_on(kube, redis_url, tmp_path, concurrency=2, kubernetes={"patience": 0}) as events,
        aio.connect(redis_url) as queue,
    ):
        bad = await enqueue(queue, 2, image=BAD, start_timeout=0.5)
        await until(lambda: kube.creates >= 2)
        good = await enqueue(queue, 3)
        for handle in bad:
            outcome = await handle.wait(20)
            assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.START_TIMEOUT)
            assert HOOK in (outcome.message or "")
            assert (await handle.record()).attempt == 1  # nor is it tried again for nothing
        assert [(await handle.wait(20)).status for handle in good] == [Status.SUCCEEDED] * 3
    assert not [e for e in events if e["event"] == "executor_unavailable"]
    assert len(kube.created) == 3


@pytest.mark.row(72)
@pytest.mark.usefixtures("quick")
async def test_a_free_slot_is_used_while_another_jobs_pod_is_failed_at(
    kube: Fails, redis_url: str, tmp_path: Path
) -> None:
    kube.fails = lambda image, dry: image == BAD
    async with (
        consumer_on(kube, redis_url, tmp_path, concurrency=2, kubernetes={"patience": 0}) as events,
        aio.connect(redis_url) as queue,
    ):
        (bad,) = await enqueue(queue, 1, image=BAD)  # for five minutes
        await until(lambda: kube.creates >= 3)
        for handle in await enqueue(queue, 3):
            assert (await handle.wait(20)).status is Status.SUCCEEDED
        assert await bad.status() is Status.STARTING
        kube.fails = lambda image, dry: False
        assert (await bad.wait(20)).status is Status.SUCCEEDED
    assert not [e for e in events if e["event"] == "executor_unavailable"]


@pytest.mark.row(72)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("message", "dry"),
    [(HOOK, True), ("etcdserver: mvcc: database space exceeded", False)],
    ids=["a webhook that is away", "a store without room, which no dry run notices"],
)
async def test_what_fails_at_all_pods_is_waited_for_beyond_the_start_timeout(
    kube: Fails, redis_url: str, tmp_path: Path, message: str, dry: bool
) -> None:
    kube.message = message
    async with (
        consumer_on(kube, redis_url, tmp_path, concurrency=2, kubernetes={"patience": 0}) as events,
        aio.connect(redis_url) as queue,
    ):
        kube.fails = lambda image, tried: dry or not tried
        handles = await enqueue(queue, 3, start_timeout=0.1)
        await until(lambda: kube.creates >= 20)
        assert [e for e in events if e["event"] == "executor_unavailable"]
        assert not [handle for handle in handles if (await handle.status()).final]
        kube.fails = lambda image, tried: False
        await ended_well(handles, kube)


async def opened(kube: Fails, directory: Path) -> KubernetesExecutor:
    config = kubeconfig_of(kube.url, directory)
    executor = KubernetesExecutor(Kubernetes(kubeconfig=config, namespace="jobs", patience=0), "consumer-1")
    await executor.open()
    return executor


async def refused(executor: KubernetesExecutor, job: str = "bad") -> ExecutorFault:
    with pytest.raises(ExecutorFault) as caught:
        await executor.start(plan_of(job, image=BAD))
    return caught.value


@pytest.mark.row(2)
async def test_a_pod_that_was_stored_in_spite_of_its_refusal_is_waited_for_and_found(
    kube: Fails, tmp_path: Path
) -> None:
    kube.fails = lambda image, dry: image == BAD and not dry
    kube.stores = True
    executor = await opened(kube, tmp_path)
    fault = await refused(executor)
    assert (fault.down, fault.reason) == (True, Reason.EXECUTOR_ERROR)  # else it might be told as never started
    execution = await executor.start(plan_of("bad", image=BAD))
    assert (await execution.wait()).code == 0
    assert len(kube.created) == 1
    await execution.remove()
    await executor.close()


@pytest.mark.row(72)
async def test_images_that_were_taken_before_bear_witness_where_unknown_ones_are_denied(
    kube: Fails, tmp_path: Path
) -> None:
    kube.denies = frozenset({"longshore"})
    executor = await opened(kube, tmp_path)
    kube.fails = lambda image, dry: image == BAD
    assert (await refused(executor)).down  # nobody knows
    for job, image in (("one", "busybox"), ("two", "alpine")):
        await (await executor.start(plan_of(job, image=image))).remove()
    kube.fails = lambda image, dry: image in (BAD, "alpine")
    fault = await refused(executor)
    assert (fault.down, fault.reason, executor.trouble) == (False, Reason.START_TIMEOUT, None)
    kube.fails = lambda image, dry: True
    assert (await refused(executor)).down
    assert executor.trouble is not None
    await executor.close()


class Refusing:
    """An executor that refuses a start as it is told, each a minute after the last."""

    name, detachable, portable, silent = "refusing", True, True, False
    trouble: str | None = "of others"

    def __init__(self, faults: str) -> None:
        self.faults, self.now, self.tries = faults, 1.0, 0

    def monotonic(self) -> float:
        return self.now

    async def start(self, plan: Plan) -> Execution:
        down = self.faults[self.tries] == "d"
        self.now, self.tries = self.now + 60, self.tries + 1
        raise ExecutorFault("no", Reason.EXECUTOR_ERROR if down else Reason.START_TIMEOUT, down=down)


@pytest.mark.parametrize(("faults", "tries"), [("a" * 9, 6), ("dddddddda" + "a" * 9, 14), ("aaaada" + "a" * 9, 11)])
async def test_only_the_time_for_which_it_alone_is_refused_counts(
    monkeypatch: pytest.MonkeyPatch, faults: str, tries: int
) -> None:
    executor: Any = Refusing(faults)

    async def at_once(*_: Any) -> None:
        pass

    monkeypatch.setattr("consumer.start._pause", at_once)
    monkeypatch.setattr("consumer.start.time", executor)
    with pytest.raises(ExecutorFault) as caught:
        await start(plan_of(start_timeout=300), executor, Switch())
    assert (caught.value.reason, executor.tries) == (Reason.START_TIMEOUT, tries)
