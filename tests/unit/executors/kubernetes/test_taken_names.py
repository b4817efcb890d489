"""The name of an attempt's pod is taken: by another job's, by somebody's own, by one that is on its way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from consumer.errors import ExecutorFault, Unrunnable
from consumer.executors.kubernetes import executor as executor_module
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.manifest import build
from consumer.settings import Kubernetes
from enqueue.record import Reason
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import plan_of

Open = Callable[..., Any]


async def runs_until_told(pod: FakePod) -> None:
    pod.schedule()
    pod.run()


async def never_starts(pod: FakePod) -> None:
    pod.schedule()
    pod.obstinate = True


async def test_another_job_under_the_same_id_is_refused(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    executor = await open_executor()
    await executor.start(plan_of(commands=["one"]))
    with pytest.raises(Unrunnable, match="another job under the same id") as caught:
        await executor.start(plan_of(commands=["two"]))
    assert caught.value.reason is Reason.REFUSED


@pytest.mark.row(13)
@pytest.mark.parametrize("labelled", [False, True])
async def test_a_pod_made_by_hand_under_our_name_is_left_alone(
    kube: FakeKube, api: Api, open_executor: Open, labelled: bool
) -> None:
    """It ended well, which says nothing of the job."""
    executor = await open_executor()
    body = build(plan_of(), Kubernetes()).pod
    body["metadata"] = {"name": body["metadata"]["name"], "labels": body["metadata"]["labels"] if labelled else {}}
    theirs = await api.request("POST", path_of("jobs", "pods"), body=body)
    await kube.until(lambda kube: kube.pods[theirs["metadata"]["name"]].state() == "terminated")
    before = len(kube.ledger)
    with pytest.raises(Unrunnable, match="another job under the same id") as caught:
        await executor.start(plan_of())
    assert caught.value.reason is Reason.REFUSED
    assert kube.names("pods") == [theirs["metadata"]["name"]]
    assert "delete pods" not in kube.verbs(before)
    assert kube.created == [theirs["metadata"]["uid"]]


@pytest.mark.row(14)
async def test_a_pod_that_never_goes_away_is_waited_for_within_bounds(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "TERMINATING_SECONDS", 0.0)
    kube.script = never_starts
    executor = await open_executor()
    await (await executor.start(plan_of())).stop(1)
    before = len(kube.ledger)
    with pytest.raises(ExecutorFault, match="doesn't go away"):
        await asyncio.wait_for(executor.start(plan_of(grace=0)), 20)
    assert kube.verbs(before).count("create pods") <= 3
    assert len(kube.created) == 1


async def test_a_pod_that_is_going_away_is_waited_for(kube: FakeKube, open_executor: Open) -> None:
    kube.script = never_starts
    executor = await open_executor()
    first = await executor.start(plan_of())
    await first.stop(1)
    kube.script = runs_until_told
    second = asyncio.create_task(executor.start(plan_of()))
    await kube.until(lambda kube: kube.creates == 2)
    kube.pods[first.where.pod].vanish()
    execution = await asyncio.wait_for(second, 20)
    await asyncio.wait_for(execution.started(), 20)
    assert len(kube.created) == 2
    assert (await asyncio.wait_for(first.wait(), 20)).reason is Reason.POD_DELETED
