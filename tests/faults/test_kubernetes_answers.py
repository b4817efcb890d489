"""Answers that are late, lost, cut, or no answers at all: each attempt has one pod, and nobody is hammered."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes import api as api_module
from consumer.executors.kubernetes import watch
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.watch import Informer
from consumer.executors.names import OURS
from consumer.settings import Kubernetes
from enqueue import aio
from support.consuming import until
from support.fake_cluster import consumer_on, ended_well, enqueue
from support.fakekube import FakeKube
from support.kubernetes import kubeconfig_of, plan_of, read
from support.tcp_proxy import TcpProxy

PODS = path_of("jobs", "pods")


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with FakeKube("jobs") as kube:
        yield kube


@pytest.fixture
async def api(kube: FakeKube) -> AsyncIterator[Api]:
    api = Api(Access(kube.url, "jobs"), rate=10_000, patience=20)
    yield api
    await api.close()


async def executor_at(url: str, directory: Path, **fields: Any) -> KubernetesExecutor:
    settings = {"kubeconfig": kubeconfig_of(url, directory), "namespace": "jobs", "rate": 10_000, "patience": 5}
    executor = KubernetesExecutor(Kubernetes(**(settings | fields)), "consumer-1")
    await executor.open()
    return executor


@pytest.mark.row(16)
async def test_a_create_that_is_answered_too_late_is_resolved_by_looking(
    kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "CALL_SECONDS", 0.5)
    executor = await executor_at(kube.url, tmp_path)
    kube.fault("create pods", hang=True)
    execution = await executor.start(plan_of())
    assert (await asyncio.wait_for(execution.wait(), 20)).code == 0
    await execution.remove()
    await executor.close()
    assert len(kube.created) == 1
    assert kube.creates == 2  # the one without an answer, the one with 409


@pytest.mark.row(16, 18)
async def test_jobs_through_a_bad_network_run_once(kube: FakeKube, redis_url: str, tmp_path: Path) -> None:
    async with TcpProxy(kube.url) as proxy:
        url, kube.url = kube.url, proxy.url
        async with consumer_on(kube, redis_url, tmp_path, concurrency=4), aio.connect(redis_url) as queue:
            kube.url = url
            proxy.latency, proxy.piece, proxy.cut_after = 0.002, 300, 12_000
            handles = await enqueue(queue, 12)
            await ended_well(handles, kube, 60)
        assert proxy.connections > 12


@pytest.mark.row(17)
async def test_too_many_requests_are_answered_by_fewer(kube: FakeKube, redis_url: str, tmp_path: Path) -> None:
    async with consumer_on(kube, redis_url, tmp_path, concurrency=10), aio.connect(redis_url) as queue:
        kube.fault("create pods", status=429, headers={"Retry-After": "1"}, times=20)
        before, began = len(kube.ledger), time.monotonic()
        handles = await enqueue(queue, 10)
        await ended_well(handles, kube)
        creates = kube.verbs(before).count("create pods")
    assert creates == 30  # each of the ten was told twice, and asked no more often
    assert time.monotonic() - began >= 2


NO_ANSWERS = [
    (500, b"<html><body><h1>Internal Server Error</h1></body></html>"),
    (502, b"<html><h1>502 Bad Gateway</h1></html>"),
    (503, b""),
    (504, b'{"kind":"Status","mess'),
    (200, b"<html>maintenance</html>"),
    (200, b"[]"),
    (201, b'{"half'),
    (200, b"null"),
]


@pytest.mark.row(18)
@pytest.mark.parametrize("verb", ["create pods", "delete pods", "get pods/log"])
async def test_a_proxy_that_talks_html_costs_no_job(
    kube: FakeKube, redis_url: str, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "RETRY_CAP", 0.2)
    async with consumer_on(kube, redis_url, tmp_path), aio.connect(redis_url) as queue:
        for code, body in NO_ANSWERS:
            if code >= 500 or verb == "create pods":
                kube.fault(verb, status=code, body=body)
        handles = await enqueue(queue, 1)
        await ended_well(handles, kube)


def labelled(name: str) -> dict[str, Any]:
    meta = {"name": name, "labels": dict([OURS.split("=")]) | {"longshore.dev/job": "j"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [{"name": "main"}]}}


@pytest.mark.row(18)
@pytest.mark.parametrize("verb", ["watch pods", "list pods"])
async def test_a_proxy_that_talks_html_blinds_no_informer(
    kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(watch, "PAUSE_CAP", 0.1)
    gone: list[str] = []
    informer = Informer(api, "jobs")
    informer.listen("before", lambda pod, lost: gone.append(pod.uid) if lost else None)
    await api.request("POST", PODS, body=labelled("before"))
    await informer.open()
    for code, body in [*NO_ANSWERS, (200, b'{"type":"MODIFIED","object":{"metadata":{"name":"bef')]:
        kube.fault(verb, status=code, body=body)
    if verb == "list pods":
        kube.compact()
    kube.cut_watches()
    async with asyncio.timeout(20):
        await kube.until(lambda kube: not any(fault.times for fault in kube.faults))
        await api.request("POST", PODS, body=labelled("after"))
        await until(lambda: informer.get("after") is not None)
    assert sorted(pod.name for pod in informer.pods()) == ["after", "before"]
    assert gone == []
    await informer.close()


@pytest.mark.row(19)
async def test_a_rotated_token_is_no_event(kube: FakeKube, redis_url: str, tmp_path: Path) -> None:
    kubeconfig_of(kube.url, tmp_path, token="one")
    kube.token = "Bearer one"
    config = {"kubernetes": {"kubeconfig": str(tmp_path / "kubeconfig")}}
    async with consumer_on(kube, redis_url, tmp_path, token="one", **config) as events, aio.connect(redis_url) as queue:
        for token in ("two", "three"):
            kubeconfig_of(kube.url, tmp_path, token=token)
            kube.token = f"Bearer {token}"
            before = len(kube.ledger)
            handles = await enqueue(queue, 5)
            for handle in handles:
                assert (await handle.wait(20)).succeeded
            refused = [row for row in kube.ledger[before:] if row.status == 401]
            assert len(refused) <= 10
    assert not [e for e in events if e["log_level"] in ("warning", "error")]


@pytest.mark.row(19)
async def test_a_token_that_is_never_good_again_reads_its_source_seldom(
    kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.token = "Bearer good"
    access = await Access.load(Kubernetes(kubeconfig=kubeconfig_of(kube.url, tmp_path, token="bad")))
    reads = 0
    real = access._read

    async def counted() -> None:
        nonlocal reads
        reads += 1
        await real()

    monkeypatch.setattr(access, "_read", counted)
    api = Api(access, rate=10_000, patience=5)
    for _ in range(30):
        with pytest.raises(ApiError) as caught:
            await api.request("GET", PODS)
        assert caught.value.status == 401
    await api.close()
    assert reads <= 3  # an exec plugin would be a process each time


@pytest.mark.row(54)
@pytest.mark.parametrize("skew", [-600, 600])
async def test_a_node_with_a_wrong_clock_changes_no_deadline(
    kube: FakeKube, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    from support import fakekubelet

    real = fakekubelet.rfc3339
    monkeypatch.setattr(fakekubelet, "rfc3339", lambda moment: real(moment + skew))

    async with consumer_on(kube, redis_url, tmp_path), aio.connect(redis_url) as queue:
        handles = await enqueue(queue, 3, timeout=60)
        await ended_well(handles, kube)
        duration = (await handles[0].record()).times
        assert duration.ended >= duration.started


FEW_FILES = """
import asyncio, resource, sys
from pathlib import Path
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of

async def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    api = Api(Access(sys.argv[1], "jobs"), rate=1000, patience=20)
    held = []
    try:
        while True:
            held.append(open("/dev/null"))
    except OSError:
        pass
    asyncio.get_running_loop().call_later(0.5, lambda: [file.close() for file in held])
    answers = await asyncio.gather(*(api.request("GET", path_of("jobs", "pods")) for _ in range(5)))
    print([len(answer["items"]) for answer in answers])
    await api.close()

asyncio.run(main())
"""


@pytest.mark.row(71)
async def test_without_file_descriptors_a_call_waits_for_one(kube: FakeKube) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FEW_FILES, kube.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert (out, process.returncode) == (b"[0, 0, 0, 0, 0]\n", 0), err.decode()


@pytest.mark.row(71)
async def test_a_thousand_open_logs_hold_up_no_create(kube: FakeKube, tmp_path: Path) -> None:
    count, (soft, hard) = 1000, resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * count  # both ends of each log's connection are in this process
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"a process may have {hard} files here, and this needs {needed}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))

    async def writes_for_ever(pod: Any) -> None:
        pod.schedule()
        pod.run()
        pod.write(b"x\n")

    kube.script = writes_for_ever
    executor = await executor_at(kube.url, tmp_path, log_streams=count)
    executions = [await executor.start(plan_of(f"job-{i}")) for i in range(count)]
    logs = [asyncio.create_task(read(execution.logs(), 60)) for execution in executions]
    await kube.until(lambda kube: len(kube.ledger) >= 2 * count and kube.verbs().count("get pods/log") >= count, 60)
    async with asyncio.timeout(30):
        await executor.start(plan_of("one-more"))
    for log in logs:
        log.cancel()
    await asyncio.gather(*logs, return_exceptions=True)
    await executor.close()


@pytest.mark.row(72)
@pytest.mark.parametrize(
    ("said", "status", "waits"),
    [
        ('admission webhook "policy.example" denied the request: no', 403, False),
        ('failed calling webhook "policy.example": context deadline exceeded', 500, True),
        ("namespace jobs is forbidden: because it is being terminated", 403, True),
    ],
)
async def test_what_a_webhook_or_a_dying_namespace_says(
    kube: FakeKube, tmp_path: Path, said: str, status: int, waits: bool
) -> None:
    executor = await executor_at(kube.url, tmp_path, patience=0)
    kube.fault("create pods", status=status, message=said, times=1000)  # for whatever pod
    with pytest.raises(Exception, match=said.split(":")[0].split('"')[0]) as caught:
        await executor.start(plan_of())
    assert isinstance(caught.value, ExecutorFault) is waits
    assert (executor.trouble is not None) is waits
    await executor.close()
    assert kube.creates == 1
