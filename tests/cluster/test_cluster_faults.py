"""Faults of a real cluster under running jobs: none is lost, none runs twice, each log is whole.

`LONGSHORE_TEST_RESTART` is a command that restarts a part of the cluster, `{}` standing for its name: kube-apiserver,
etcd, kubelet, containerd. Without it, what needs a restart is skipped.
"""

from __future__ import annotations

import asyncio
import collections
import os
import shlex
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from consumer.executors.kubernetes.api import Api, path_of
from enqueue import Job, Status, aio
from support.cluster import RIGHTS, role_and_binding, user_of
from support.consuming import consuming, until

pytestmark = pytest.mark.cluster

SECONDS = 6
SCRIPT = ["i=0", f"while [ $i -lt {SECONDS} ]; do i=$((i+1)); echo line $i; sleep 1; done", "sleep 2", "echo end"]
LOG = b"".join(b"line %d\n" % i for i in range(1, SECONDS + 1)) + b"end\n"

Events = list[Any]


@pytest.fixture
async def consumer(redis_url: str, namespace: str, consumer_kubeconfig: Path) -> AsyncIterator[Events]:
    """A consumer in the test's namespace; what it logs."""
    kubernetes = {
        "namespace": namespace,
        "kubeconfig": str(consumer_kubeconfig),
        "requests": {"cpu": "10m", "memory": "16Mi"},
    }
    with structlog.testing.capture_logs() as events:
        async with consuming(redis_url, executor="kubernetes", concurrency=12, kubernetes=kubernetes):
            await until(lambda: said(events, "consumer_started"))
            yield events


def said(events: Events, event: str) -> bool:
    return any(found["event"] == event for found in events)


async def enqueue(queue: aio.AsyncProducer, image: str, count: int) -> list[aio.AsyncHandle]:
    job = Job(image=image, commands=SCRIPT, timeout=300)
    return [await queue.enqueue(job) for _ in range(count)]


async def running(handles: Sequence[aio.AsyncHandle], count: int) -> bool:
    return [await handle.status() for handle in handles].count(Status.RUNNING) >= count


async def ended_well(handles: Sequence[aio.AsyncHandle], admin: Api, namespace: str, seconds: float = 120) -> None:
    """All succeed at their first attempt, with one pod and the whole log, and no pod is left."""
    async with asyncio.timeout(seconds):
        outcomes = [await handle.wait() for handle in handles]
    told = collections.Counter((outcome.status, outcome.reason) for outcome in outcomes)
    assert told == {(Status.SUCCEEDED, None): len(handles)}
    for handle in handles:
        record = await handle.record()
        assert (record.attempt, len(record.attempts), record.log.gaps) == (1, 1, ())
        assert b"".join([part async for part in handle.logs()]) == LOG
    await until(lambda: nothing_left(admin, namespace))
    uids: dict[str, set[str]] = {}
    for event in (await admin.request("GET", path_of(namespace, "events")))["items"]:
        if event["involvedObject"]["kind"] == "Pod":
            uids.setdefault(event["involvedObject"]["name"], set()).add(event["involvedObject"]["uid"])
    assert {name: found for name, found in uids.items() if len(found) > 1} == {}


async def nothing_left(admin: Api, namespace: str) -> bool:
    return not (await admin.request("GET", path_of(namespace, "pods")))["items"]


async def restart(part: str) -> None:
    template = os.environ.get("LONGSHORE_TEST_RESTART")
    if not template:
        pytest.skip("LONGSHORE_TEST_RESTART isn't set: nothing here restarts a part of the cluster")
    process = await asyncio.create_subprocess_exec(
        *shlex.split(template.format(part)), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 120) == 0


@pytest.mark.row(15, 34)
@pytest.mark.parametrize("part", ["kube-apiserver", "kubelet", "etcd", "containerd"])
async def test_a_part_of_the_cluster_restarts_under_running_jobs(
    part: str, consumer: Events, redis_url: str, admin: Api, namespace: str, image: str
) -> None:
    if not os.environ.get("LONGSHORE_TEST_RESTART"):
        pytest.skip("LONGSHORE_TEST_RESTART isn't set: nothing here restarts a part of the cluster")
    count = 20 if part == "kube-apiserver" else 6
    async with aio.connect(redis_url) as queue:
        handles = await enqueue(queue, image, count)
        await until(lambda: running(handles, 4), 60)
        await restart(part)
        await ended_well(handles, admin, namespace)


@pytest.mark.row(20)
async def test_rights_taken_away_and_given_back(
    consumer: Events, redis_url: str, admin: Api, namespace: str, image: str, consumer_kubeconfig: Path
) -> None:
    user = user_of(consumer_kubeconfig)
    if user is None:
        pytest.skip("LAB_CONSUMER_KUBECONFIG isn't set: the consumer has all rights")
    (binding,) = [item for item in role_and_binding(namespace, user) if item["kind"] == "RoleBinding"]
    path = f"{RIGHTS}/{namespace}/rolebindings"
    async with aio.connect(redis_url) as queue:
        handles = await enqueue(queue, image, 4)
        await until(lambda: running(handles, 4), 60)
        await admin.request("DELETE", f"{path}/{binding['metadata']['name']}")
        handles += await enqueue(queue, image, 4)
        await until(lambda: said(consumer, "executor_unavailable"), 60)
        await admin.request("POST", path, body=binding)
        await ended_well(handles, admin, namespace, 180)
    why = next(event["error"] for event in consumer if event["event"] == "executor_unavailable")
    assert "the user 'consumer' may not " in why


@pytest.mark.row(41, 72)
async def test_a_full_quota_makes_jobs_wait(
    consumer: Events, redis_url: str, admin: Api, namespace: str, image: str
) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "2"}}}
    await admin.request("POST", path_of(namespace, "resourcequotas"), body=quota)
    await until(lambda: counted(admin, namespace))
    async with aio.connect(redis_url) as queue:
        handles = await enqueue(queue, image, 5)
        await ended_well(handles, admin, namespace, 180)


async def counted(admin: Api, namespace: str) -> bool:
    found = await admin.request("GET", path_of(namespace, "resourcequotas", "few"))
    return "pods" in (found.get("status", {}).get("used") or {})
