"""Two stores of Records whose consumers share a namespace, with jobs of the same id, queue and content."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumer.errors import ExecutorFault
from consumer.model import Plan
from enqueue.record import Reason
from support.consuming import until
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import plan_of

Open = Callable[..., Any]
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


async def runs_until_told(pod: FakePod) -> None:
    pod.schedule()
    pod.run()


def of_store(source: str, created: str = "", **fields: Any) -> Plan:
    return replace(plan_of(**fields), source=source, created=created)


async def within(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, 20)


async def refused(executor: Any, plan: Plan) -> ExecutorFault:
    """The start is to be tried again: nothing has begun."""
    with pytest.raises(ExecutorFault, match=r"another store|other store") as caught:
        await within(executor.start(plan))
    assert (caught.value.started, caught.value.down) == (False, False)
    assert caught.value.reason is Reason.UNSCHEDULABLE  # waited for as long as a start may take
    assert "kubernetes.namespace" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("source", ["b", ""])
@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("created", [("", ""), (EARLY, EARLY), (EARLY, LATE)])
@pytest.mark.parametrize("over", [False, True])
async def test_another_stores_pod_is_neither_adopted_nor_deleted(
    kube: FakeKube, open_executor: Open, source: str, connected: bool, created: tuple[str, str], over: bool
) -> None:
    kube.script = runs_until_told
    theirs, ours = await open_executor("theirs"), await open_executor("ours")
    execution = await theirs.start(of_store("a", created[0]))
    await within(execution.started())
    await execution.detach()  # its consumer is started again: nothing is recorded yet
    name = execution.where.pod
    if over:
        kube.pods[name].end(1)
    before = len(kube.ledger)
    informer = ours._parts()[1]
    if not connected:
        informer.connected.clear()
    fault = await refused(ours, of_store(source, created[1]))
    assert name in str(fault)
    assert "delete pods" not in kube.verbs(before)
    assert kube.names("pods") == [name]
    again = await theirs.start(of_store("a", created[0], begun=True))
    if not over:
        kube.pods[name].end(1)
    assert (await within(again.wait())).code == 1
    await again.remove()
    await kube.until(lambda kube: not kube.names("pods"))
    kube.script = runs_until_told
    started = await within(ours.start(of_store(source, created[1])))
    await within(started.started())
    assert len(kube.created) == 2


async def test_another_stores_pod_of_another_attempt_is_not_ours(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    theirs, ours = await open_executor("theirs"), await open_executor("ours")
    one = await theirs.start(of_store("a", EARLY))
    await within(one.started())
    two = await ours.start(of_store("b", LATE, attempt=2))
    assert two.where.pod != one.where.pod
    assert len(kube.created) == 2


async def test_a_job_that_another_store_runs_already_is_not_started_beside_it(
    kube: FakeKube, open_executor: Open
) -> None:
    """Made at the very same moment: the store was emptied, or moved, while the job ran."""
    kube.script = runs_until_told
    theirs, ours = await open_executor("theirs"), await open_executor("ours")
    one = await theirs.start(of_store("a", EARLY))
    await within(one.started())
    fault = await refused(ours, of_store("b", EARLY, attempt=2))
    assert "runs this very job for another store" in str(fault)
    assert len(kube.created) == 1
    kube.pods[one.where.pod].end(0)
    await kube.until(lambda kube: kube.pods[one.where.pod].state() == "terminated")
    await one.remove()
    informer = ours._parts()[1]
    await until(lambda: informer.get(one.where.pod) is None)
    await within(ours.start(of_store("b", EARLY, attempt=2)))
    assert len(kube.created) == 2


async def test_a_begun_job_is_not_found_in_another_stores_pod(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    theirs, ours = await open_executor("theirs"), await open_executor("ours")
    one = await theirs.start(of_store("a"))
    await within(one.started())
    with pytest.raises(ExecutorFault, match="its end was seen by nobody") as caught:
        await within(ours.start(of_store("b", begun=True)))
    assert (caught.value.started, caught.value.reason) == (True, Reason.POD_DELETED)
    assert len(kube.created) == 1


async def test_a_pod_that_names_no_store_is_ours(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    theirs, ours = await open_executor("theirs"), await open_executor("ours")
    one = await theirs.start(of_store(""))
    await within(one.started())
    two = await ours.start(of_store("b"))
    assert two.where.pod == one.where.pod
    assert len(kube.created) == 1
