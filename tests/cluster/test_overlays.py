"""The overlays of k8s/ as they are: applied, and used by a consumer with nothing but its ServiceAccount's token.

Not tried here, since the cluster may lack it: an image of ours in the pod, network policies (they need a plugin), the
Prometheus operator and KEDA.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from consumer.executors.kubernetes.check_scaling import check_scaling
from consumer.findings import Finding, Level
from consumer.settings import Kubernetes, Scaling
from enqueue import Job, Status, aio
from enqueue.record import Record
from support.consuming import until
from support.overlays import Installed, install, remove

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")]


@pytest.fixture(params=["single", "high-availability", "keda"])
async def installed(request: pytest.FixtureRequest, admin_kubeconfig: Path) -> AsyncIterator[Installed]:
    found = await install(admin_kubeconfig, request.param)
    yield found
    await remove(found)


async def test_it_stays_as_it_was_applied_its_pods_are_restricted_and_it_may_nothing_else(installed: Installed) -> None:
    everything = {"kind": "List", "apiVersion": "v1", "items": installed.objects}
    await installed.kubectl("diff", "-f", "-", given=json.dumps(everything))  # fails if there is any
    template = installed.find("Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = template["metadata"] | {"name": "try", "namespace": installed.own}
    await installed.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod))
    pod["spec"] = pod["spec"] | {"hostNetwork": True}
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        await installed.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod))
    account = f"system:serviceaccount:{installed.own}:longshore"
    listed = await installed.kubectl("auth", "can-i", "--list", "-n", installed.jobs, "--as", account)
    rows = [line for line in listed.splitlines()[1:] if "[" in line and not line.startswith(("selfsubject", " "))]
    mine = {row.split()[0]: row[row.rindex("[") :] for row in rows}
    assert mine.pop("leases.coordination.k8s.io") in ("[create]", "[get update]")  # a line for each rule
    assert mine == {
        "pods": "[create get list watch delete]",
        "pods/log": "[get]",
        "secrets": "[create]",
        "events": "[list]",
    }


class Consumer:
    """`longshore run` with a Deployment's own environment, as the ServiceAccount."""

    def __init__(self, process: asyncio.subprocess.Process, port: str) -> None:
        self.process, self.port = process, port

    async def page(self, path: str) -> tuple[int, str]:
        """Status and text; (0, "") while nobody listens, or while it isn't ready."""

        def get() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except (urllib.error.URLError, OSError):
                return 0, ""

        return await asyncio.to_thread(get)

    async def shows(self, line: str) -> bool:
        """Whether its metrics have it."""
        return line in (await self.page("/metrics"))[1]

    async def leave(self) -> None:
        """As the kubelet ends it."""
        self.process.terminate()
        assert await asyncio.wait_for(self.process.wait(), 60) == 0


Start = Callable[..., Awaitable[Consumer]]


@pytest.fixture
async def start(installed: Installed, redis_url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts consumers by their names, and waits until they are ready; what is left of them is ended after the test."""
    started: list[Consumer] = []
    kubeconfig = await installed.token_kubeconfig(tmp_path)

    async def start(name: str, **other: str) -> Consumer:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        env = installed.env(LONGSHORE_QUEUE_URL=redis_url, LONGSHORE_NAME=name) | other
        env |= {"LONGSHORE_METRICS_PORT": port, "LONGSHORE_METRICS_ADDRESS": "127.0.0.1", "KUBECONFIG": str(kubeconfig)}
        env |= {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LONGSHORE_STATE_DIRECTORY": str(tmp_path)}
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "enqueue.cli", "run", env=env, stdout=log, stderr=log, cwd=tmp_path
            )
        consumer = Consumer(process, port)
        started.append(consumer)
        assert await until(lambda: _ready(consumer), 60) == (200, "ready\n")
        return consumer

    yield start
    for consumer in started:
        if consumer.process.returncode is None:
            consumer.process.kill()
            await consumer.process.wait()
    _show_logs(tmp_path)


def _show_logs(directory: Path) -> None:
    for log in directory.glob("*.log"):
        print(log.name, log.read_text(), sep="\n")


async def _ready(consumer: Consumer) -> tuple[int, str] | None:
    assert consumer.process.returncode is None
    found = await consumer.page("/readyz")
    return found if found[0] else None


@pytest.mark.parametrize("installed", ["single"], indirect=True)
async def test_a_consumer_with_the_service_accounts_token(
    installed: Installed, start: Start, redis_url: str, image: str, tmp_path: Path
) -> None:
    consumer = await start("longshore-0")
    async with aio.connect(redis_url) as queue:
        refused = await queue.enqueue(Job(image=image, commands=["true"], resources={"limits": {"memory": "65Gi"}}))
        handle = await queue.enqueue(Job(image=image, commands=["id -u; echo ::set-outcome-var a=b"]))
        outcome = await handle.wait(60)
        assert (outcome.status, outcome.variables) == (Status.SUCCEEDED, {"a": "b"}), outcome
        assert b"65532" in b"".join([part async for part in handle.logs(follow=True)])
        over = await refused.wait(60)  # the namespace's LimitRange
    assert over.reason == "refused"
    assert "64Gi" in (over.message or "")
    assert await consumer.page("/healthz") == (200, "alive\n")
    assert await consumer.shows('longshore_jobs_ended_total{queue="default",reason="",status="succeeded"} 1.0')
    assert await consumer.shows('longshore_api_requests_total{code="201",resource="pods",verb="create"}')
    assert await consumer.shows("longshore_watch_up 1.0")
    await consumer.leave()
    found = await scaling_found(installed, tmp_path)
    assert [(each.level, "may not" in each.text) for each in found] == [(Level.PROBLEM, True)] * 5  # it needn't


async def scaling_found(installed: Installed, directory: Path) -> list[Finding]:
    """What `longshore check` says of scaling, as the ServiceAccount."""
    kubernetes = Kubernetes(kubeconfig=directory / "kubeconfig.serviceaccount", namespace=installed.jobs)
    return await check_scaling(Scaling(deployment="longshore", namespace=installed.own), kubernetes)


@pytest.mark.parametrize("installed", ["high-availability"], indirect=True)
async def test_the_autoscaler_follows_the_load_and_a_consumer_that_goes_stops_no_job(
    installed: Installed, start: Start, redis_url: str, image: str, tmp_path: Path
) -> None:
    assert [found.level for found in await scaling_found(installed, tmp_path)] == [Level.GOOD]
    settings = {"MIN": "1", "MAX": "4", "INTERVAL": "0.3", "DOWN_WINDOW": "2", "LEASE_SECONDS": "6"}
    scaling = {f"LONGSHORE_SCALING_{name}": value for name, value in settings.items()}
    scaling |= {"LONGSHORE_SCALING_NAMESPACE": installed.own, "LONGSHORE_CONCURRENCY": "2"}
    consumers = {name: await start(name, **scaling) for name in ("one", "two")}
    assert await _replicas(installed) == 0  # switched off by somebody: that stands
    await installed.kubectl("-n", installed.own, "scale", "deployment/longshore", "--replicas=2")
    await until(lambda: _has(installed, 1), 30)  # idle: as few as there may be
    async with aio.connect(redis_url) as queue:
        waits = Job(image=image, commands=["echo begun; until test -e /tmp/go; do sleep 0.1; done"], timeout=300)
        handles = [await queue.enqueue(waits) for _ in range(6)]
        await until(lambda: _has(installed, 4), 60)  # 6 jobs: 3.75 times 2 slots, at 80 %
        held = await until(lambda: _running(handles[0]), 60)  # it runs on
        for handle in handles[1:]:
            await _release(installed, (await until(lambda handle=handle: _running(handle), 60)).where.pod)
            assert (await handle.wait(60)).succeeded
        await until(lambda: _has(installed, 1), 60)
        await consumers.pop(held.where.consumer).leave()
        ((other, left),) = consumers.items()
        taken = await until(lambda: _with(handles[0], other), 60)
        assert taken.where.pod == held.where.pod
        await until(lambda: left.shows('longshore_leader{lease="autoscaler"} 1.0'), 60)
        await until(lambda: left.shows("longshore_replicas_wanted 1.0"), 60)
        assert await left.shows('longshore_takeovers_total{queue="default"} 1.0')
        await _release(installed, held.where.pod)
        assert (await handles[0].wait(60)).succeeded
        assert [attempt.attempt for attempt in (await handles[0].record()).attempts] == [1]


async def _replicas(installed: Installed) -> int:
    said = await installed.kubectl(
        "-n", installed.own, "get", "deployment/longshore", "-o", "jsonpath={.spec.replicas}"
    )
    return int(said)


async def _has(installed: Installed, count: int) -> bool:
    return await _replicas(installed) == count


async def _release(installed: Installed, pod: str | None) -> None:
    await installed.kubectl("-n", installed.jobs, "exec", str(pod), "--", "touch", "/tmp/go")


async def _running(handle: aio.AsyncHandle) -> Record | None:
    record = await handle.record()
    assert not record.status.final, record.message
    return record if record.status is Status.RUNNING else None


async def _with(handle: aio.AsyncHandle, consumer: str) -> Record | None:
    record = await handle.record()
    return record if record.where.consumer == consumer else None


def test_the_kustomization_of_the_docs_renders(tmp_path: Path) -> None:
    docs = (ROOT / "docs/operating.md").read_text()
    [text] = [part for part in re.findall(r"```yaml\n(.*?)```", docs, re.S) if "kind: Kustomization" in part]
    (tmp_path / "longshore").symlink_to(ROOT)
    (tmp_path / "kustomization.yaml").write_text(text)
    command = ["kubectl", "kustomize", "--load-restrictor=LoadRestrictionsNone", str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    objects = list(yaml.safe_load_all(made.stdout))
    assert {"ServiceMonitor", "PrometheusRule", "ConfigMap"} < {item["kind"] for item in objects}
    [deployment] = [item for item in objects if item["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/longshore:0.1.0"
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env["LONGSHORE_QUEUES"] == "critical,default"
    assert env["LONGSHORE_SCALING_DEPLOYMENT"] == "longshore"
    assert env["LONGSHORE_AUDIT_INTERVAL"] == "600"
