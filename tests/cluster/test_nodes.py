"""Jobs whose node is lost, drained or wanted by others, end to end, on a simulated node (KWOK) that is the test's own.

KWOK takes care of nodes with the label `type: kwok`; a node that loses it has no kubelet any more.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.kubernetes import judging
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from enqueue import Job, Status, aio
from enqueue.record import Outcome, Record
from support.cluster import pods_in
from support.consuming import consuming, until

pytestmark = pytest.mark.cluster
NODES, CLASSES = "/api/v1/nodes", "/apis/scheduling.k8s.io/v1/priorityclasses"
LABEL = "longshore.test/node"
GONE_SECONDS = 1
"""How long a pod may stay on a node that doesn't answer."""


async def change(admin: Api, path: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Read, edit and write an object, again if somebody else was quicker."""
    while True:
        item = await admin.request("GET", path.removesuffix("/status"))
        edit(item)
        try:
            await admin.request("PUT", path, body=item)
            return
        except ApiError as error:
            if error.status != 409:
                raise


@pytest.fixture
async def node(admin: Api) -> AsyncIterator[str]:
    """A simulated node with one CPU for the pods of this test alone."""
    if "kwok" not in [item["metadata"]["name"] for item in (await admin.request("GET", "/api/v1/namespaces"))["items"]]:
        pytest.skip("the cluster has no simulated nodes (KWOK)")
    name = f"longshore-test-{secrets.token_hex(4)}"
    path, taint = f"{NODES}/{name}", {"key": LABEL, "value": name, "effect": "NoSchedule"}
    meta = {"name": name, "labels": {"type": "kwok", LABEL: name}}
    amounts = {"cpu": "1", "memory": "1Gi", "pods": "10"}
    status = {"capacity": amounts, "allocatable": amounts}
    await admin.request("POST", NODES, body={"metadata": meta, "spec": {"taints": [taint]}, "status": status})
    try:
        await until(lambda: is_ready(admin, path), 90)
        yield name
    finally:
        await admin.request("DELETE", path)


async def is_ready(admin: Api, path: str) -> bool:
    item = await admin.request("GET", path)
    ready = [c["status"] for c in item["status"].get("conditions") or () if c["type"] == "Ready"]
    return ready == ["True"] and [taint["key"] for taint in item["spec"].get("taints") or ()] == [LABEL]


@pytest.fixture
async def queue(redis_url: str, namespace: str, consumer_kubeconfig: Path, node: str) -> AsyncIterator[Any]:
    """A producer, and a consumer whose jobs run on the test's node."""
    unreachable = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    settings = {
        "namespace": namespace,
        "kubeconfig": consumer_kubeconfig,
        "image": "none",
        "requests": {"cpu": "600m", "memory": "16Mi"},
        "labels": {"lab/stay": "true"},
        "node_selector": {LABEL: node},
        "tolerations": [{"key": LABEL, "operator": "Exists"}, unreachable | {"seconds": GONE_SECONDS}],
    }
    flags = {"executor": "kubernetes", "concurrency": 5, "kubernetes": settings, "jobs": {"grace": 1}}
    async with consuming(redis_url, **flags), aio.connect(redis_url) as queue:
        yield queue


async def runs(handle: aio.AsyncHandle) -> Record:
    """The Record once the job runs."""

    async def running() -> Record | None:
        record = await handle.record()
        return record if record.status is Status.RUNNING else None

    found: Record = await until(running, 60)
    return found


async def ended(handle: aio.AsyncHandle) -> tuple[Outcome, Record]:
    async with asyncio.timeout(90):
        return await handle.wait(), await handle.record()


@pytest.mark.row(36)
async def test_a_pod_of_a_higher_priority_takes_the_place(queue: Any, admin: Api, namespace: str, node: str) -> None:
    """The scheduler ends the job's pod; it isn't the job's fault, and it runs again once there is room."""
    important = {"metadata": {"name": node}, "value": 1000, "description": "of a test"}
    await admin.request("POST", CLASSES, body=important)
    try:
        handle = await queue.enqueue(Job(commands=["true"], infrastructure_retries=1))
        before = await runs(handle)
        pod = preemptor(node)
        await admin.request("POST", path_of("default", "pods"), body=pod)
        try:
            await until(lambda: has_ended_once(handle), 60)
            first = (await handle.record()).attempts[0]
            assert (first.reason, first.where.pod, first.where.node) == ("preempted", before.where.pod, node)
            assert "PreemptionByScheduler" in (first.message or "")
        finally:
            await admin.request("DELETE", path_of("default", "pods", node), body={"gracePeriodSeconds": 0})
        again = await runs(handle)
        assert again.where.pod != before.where.pod
        await handle.cancel()
        outcome, record = await ended(handle)
    finally:
        await admin.request("DELETE", f"{CLASSES}/{node}")
    assert outcome.status is Status.CANCELLED
    assert [(a.attempt, a.reason) for a in record.attempts] == [(1, "preempted"), (2, "requested")]
    await until(lambda: nothing_left(admin, namespace), 60)


def preemptor(node: str) -> dict[str, Any]:
    """A pod that has no room beside the job's; its namespace enforces nothing."""
    container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": "600m"}}}
    spec = {"containers": [container], "priorityClassName": node, "nodeSelector": {LABEL: node}}
    spec["tolerations"] = [{"key": LABEL, "operator": "Exists"}]
    return {"metadata": {"name": node, "labels": {"lab/stay": "true"}}, "spec": spec}


async def has_ended_once(handle: aio.AsyncHandle) -> bool:
    return len((await handle.record()).attempts) >= 1


async def nothing_left(admin: Api, namespace: str) -> bool:
    return not await pods_in(admin, namespace)


async def lose(admin: Api, node: str) -> None:
    """The node has no kubelet any more, and the controller finds that it doesn't answer, as it does after 50 s."""

    def forget(item: dict[str, Any]) -> None:
        del item["metadata"]["labels"]["type"]

    def silent(item: dict[str, Any]) -> None:
        (ready,) = [found for found in item["status"]["conditions"] if found["type"] == "Ready"]
        ready |= {"status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}

    await change(admin, f"{NODES}/{node}", forget)
    await change(admin, f"{NODES}/{node}/status", silent)


@pytest.mark.row(38)
async def test_a_node_that_answers_no_more_is_lost_after_its_time(
    queue: Any, admin: Api, namespace: str, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster deletes the pod, and nobody says that it has ended: it may run on, so none is made beside it."""
    monkeypatch.setattr(judging, "STUCK_SECONDS", 5.0)
    handle = await queue.enqueue(Job(commands=["true"]))
    before = await runs(handle)
    await lose(admin, node)

    async def deleted() -> bool:
        return all("deletionTimestamp" in pod["metadata"] for pod in await pods_in(admin, namespace))

    await until(deleted, 60)
    assert await handle.status() is Status.RUNNING  # its time isn't over
    outcome, record = await ended(handle)
    assert (outcome.status, outcome.reason, outcome.exit_code) == (Status.FAILED, "node_lost", None)
    assert node in (outcome.message or "")
    assert [(a.attempt, a.where.pod) for a in record.attempts] == [(1, before.where.pod)]
    assert [pod["metadata"]["name"] for pod in await pods_in(admin, namespace)] == [before.where.pod]
