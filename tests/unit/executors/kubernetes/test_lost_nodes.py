"""A node that goes silent under a pod: nothing is decided until the cluster gives it up, and then it is told so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes.api import Api, path_of
from enqueue.record import Reason
from support.fakekube import FakeKube
from support.fakekubelet import FakePod, succeeds
from support.kubernetes import plan_of

Open = Callable[..., Any]


def given_up(pod: dict[str, Any]) -> None:
    """What the taint manager does to a pod of a node that doesn't answer: deleted, and nobody there to end it."""
    pod["metadata"] |= {"deletionTimestamp": "2026-11-21T08:00:00Z", "deletionGracePeriodSeconds": 0}
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "m"}
    pod["status"]["conditions"] = [condition]


async def test_a_pod_of_a_silent_node_is_lost_after_its_time(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.executors.kubernetes.judging.STUCK_SECONDS", 0.1)
    running: list[Any] = []

    async def script(pod: Any) -> None:
        pod.schedule()
        pod.run()
        running.append(pod)

    kube.script = script
    executor = await open_executor()
    execution = await executor.start(plan_of())
    await execution.started()
    running[0].change(given_up)
    async with asyncio.timeout(20):
        end = await execution.wait()
    assert (end.reason, end.started, end.code) == (Reason.NODE_LOST, True, None)
    assert "node node-1 doesn't say that it has ended" in (end.message or "")
    await execution.detach()


@pytest.mark.parametrize(("avoid", "pods"), [((), 1), (("node-1",), 2)])
async def test_an_attempt_that_is_allowed_after_a_lost_node_is_a_new_pod(
    kube: FakeKube, open_executor: Open, avoid: tuple[str, ...], pods: int
) -> None:
    """Without the Record's word that the node failed the job, what runs there is adopted."""
    running: list[Any] = []

    async def script(pod: Any) -> None:
        pod.schedule("node-1" if not running else "node-2")
        pod.run()
        running.append(pod)

    kube.script = script
    executor = await open_executor()
    first = await executor.start(plan_of())
    await first.started()
    running[0].change(given_up)
    async with asyncio.timeout(20):
        second = await executor.start(replace(plan_of(attempt=2), avoid=avoid))
        await second.started()
    assert len(kube.created) == pods
    assert (second.where.pod == first.where.pod) == (pods == 1)
    await first.detach()
    await second.detach()


async def test_a_node_that_comes_back_in_time_tells_the_end(kube: FakeKube, open_executor: Open) -> None:
    running: list[Any] = []

    async def script(pod: Any) -> None:
        pod.schedule()
        pod.run()
        running.append(pod)

    kube.script = script
    executor = await open_executor()
    execution = await executor.start(plan_of())
    await execution.started()
    running[0].change(given_up)
    running[0].end(143)
    async with asyncio.timeout(20):
        end = await execution.wait()
    assert (end.reason, end.started, end.code) == (Reason.EVICTED, True, 143)
    await execution.detach()


async def dead(pod: Any) -> None:
    pod.obstinate = True
    pod.schedule()
    pod.run()


async def stopped_on_a_dead_node(kube: FakeKube, open_executor: Open) -> tuple[Any, Any]:
    kube.script = dead
    executor = await open_executor()
    first = await executor.start(plan_of())
    await first.started()
    await first.stop(1)
    await first.remove()
    return executor, first


async def test_an_attempt_waits_for_the_pod_of_a_stopped_one(kube: FakeKube, open_executor: Open) -> None:
    executor, first = await stopped_on_a_dead_node(kube, open_executor)
    told: asyncio.Queue[str] = asyncio.Queue()
    plan = replace(plan_of(attempt=2), ended=(1,), waits=told.put)
    starting = asyncio.create_task(executor.start(plan))
    async with asyncio.timeout(20):
        assert "node node-1 doesn't say that it has ended" in await told.get()
        assert len(kube.created) == 1
        kube.pods[first.where.pod].vanish()
        second = await starting
        await second.started()
    assert (len(kube.created), second.where.pod == first.where.pod) == (2, False)
    await second.detach()


async def test_an_attempt_after_a_stopped_one_that_never_goes_has_lost_its_node(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.executors.kubernetes.judging.STUCK_SECONDS", -5.0)
    executor, _ = await stopped_on_a_dead_node(kube, open_executor)
    with pytest.raises(ExecutorFault) as caught:
        await executor.start(replace(plan_of(attempt=2), ended=(1,)))
    assert (caught.value.reason, caught.value.started) == (Reason.NODE_LOST, True)
    assert caught.value.where is not None
    assert (caught.value.where.node, len(kube.created)) == ("node-1", 1)
    third = await executor.start(replace(plan_of(attempt=3), ended=(1, 2), avoid=("node-1",)))  # with leave
    assert len(kube.created) == 2
    await third.detach()


async def runs_on(pod: FakePod) -> None:
    """Takes all of its grace when it is deleted, and more if nobody ends it."""
    pod.schedule()
    pod.run()
    pod.obstinate = True


async def evicted(kube: FakeKube, executor: Any, api: Api) -> Any:
    """The execution of a pod whose node is being drained, once that is known of it."""
    kube.script, kube.counts = runs_on, False  # to evict pods is no right that the consumer needs
    execution = await executor.start(plan_of())
    await execution.started()
    name = execution.where.pod
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "jobs"}}
    await api.request("POST", f"{path_of('jobs', 'pods', name)}/eviction", body=body)
    while not (execution._pod.deleting and execution._pod.disruption):
        await execution.news.wait()
    return execution


@pytest.mark.row(36)
@pytest.mark.parametrize(("code", "reason"), [(143, Reason.EVICTED), (0, None)])
async def test_a_pod_that_is_drained_has_all_its_grace_to_end_by_itself(
    kube: FakeKube, open_executor: Open, api: Api, code: int, reason: Reason | None
) -> None:
    executor = await open_executor()
    async with asyncio.timeout(20):
        execution = await evicted(kube, executor, api)
        kube.script = succeeds
        other = await executor.start(plan_of("job-2"))
        assert (await other.wait()).code == 0  # whatever is told at once has been told by now
        assert not execution._end.done()
        kube.pods[execution.where.pod].end(code)
        end = await execution.wait()
    assert (end.reason, end.code, end.started) == (reason, code, True)


@pytest.mark.row(36, 38)
async def test_a_drained_pod_whose_end_nobody_tells_is_lost_after_its_grace_and_not_before(
    kube: FakeKube, open_executor: Open, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.executors.kubernetes.judging.STUCK_SECONDS", 0.3)
    executor = await open_executor()
    began = time.monotonic()
    async with asyncio.timeout(20):
        execution = await evicted(kube, executor, api)
        end = await execution.wait()
    grace = kube.pods[execution.where.pod].spec["terminationGracePeriodSeconds"]
    assert time.monotonic() - began >= grace + 0.3
    assert (end.reason, end.code, end.started) == (Reason.NODE_LOST, None, True)
    await execution.detach()
