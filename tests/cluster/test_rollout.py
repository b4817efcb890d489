"""The Deployment of k8s/ as real pods: replaced by a rollout, and one evicted, while jobs run that notice nothing.

There is no image of ours to pull here, so its pods run this very environment from the node's own disk. That needs a
node that shares this machine's files, and a namespace that allows it; all else is as in the overlay: environment,
ServiceAccount and its token as the kubelet mounts it, strategy, disruption budget, autoscaler.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from enqueue import Job, Status, aio
from enqueue.record import Record
from support.consuming import until
from support.overlays import Installed, install, remove

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")]
ROOT = Path(__file__).parents[2]
LIBRARIES = {"/lib": "/usr/lib", "/lib64": "/usr/lib64", "/usr/lib": "/usr/lib"}
"""Of this machine, which the image's own stand aside for."""
PORT = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"


def volumes(redis_url: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(mounts, volumes) of all that our Python needs, and the folder of the server's socket."""
    places = LIBRARIES | {path: path for path in (sys.base_prefix, sys.prefix, str(ROOT))}
    if redis_url.startswith("unix:"):
        places |= {(folder := str(Path(urlsplit(redis_url).path).parent)): folder}
    named = {f"host-{i}": place for i, place in enumerate(places.items())}
    mounts = [{"name": name, "mountPath": inside, "readOnly": True} for name, (inside, _) in named.items()]
    return mounts, [{"name": name, "hostPath": {"path": outside}} for name, (_, outside) in named.items()]


def deployment_of(installed: Installed, node: str, redis_url: str, image: str) -> dict[str, Any]:
    """The overlay's own, with our environment instead of an image, beside others on one machine's network."""
    server = yaml.safe_load(installed.admin.read_text())["clusters"][0]["cluster"]["server"]
    host, _, port = server.removeprefix("https://").partition(":")
    deployment: dict[str, Any] = json.loads(json.dumps(installed.find("Deployment")))
    deployment["spec"] |= {"replicas": 2, "minReadySeconds": 1}
    spec = deployment["spec"]["template"]["spec"]
    [container] = spec["containers"]
    mounts, hosts = volumes(redis_url)
    python = f"{sys.prefix}/bin/python"
    run = f'LONGSHORE_METRICS_PORT="$({python} -c "{PORT}")"; echo $LONGSHORE_METRICS_PORT > /tmp/port; '
    run += f"export LONGSHORE_METRICS_PORT; exec {python} -m enqueue.cli run"
    ready = {"exec": {"command": ["/bin/sh", "-c", "wget -qO- http://127.0.0.1:$(cat /tmp/port)/readyz"]}}
    for name in ("args", "ports", "livenessProbe", "securityContext"):
        del container[name]
    env = [entry for entry in container["env"] if entry["name"] != "LONGSHORE_QUEUE_URL"]
    more = {"LONGSHORE_QUEUE_URL": redis_url, "LONGSHORE_METRICS_ADDRESS": "127.0.0.1"}
    more |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port or "443"}
    container |= {
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", run],
        "env": [*env, *({"name": name, "value": value} for name, value in more.items())],
        "volumeMounts": [*container["volumeMounts"], *mounts],
        "readinessProbe": {**ready, "periodSeconds": 1},
        "workingDir": "/tmp",
    }
    del spec["securityContext"]
    spec |= {"hostNetwork": True, "nodeSelector": {"kubernetes.io/hostname": node}}
    spec["volumes"] = [*spec["volumes"], *hosts]
    return deployment


@pytest.fixture
async def installed(admin_kubeconfig: Path, image: str) -> AsyncIterator[tuple[Installed, str]]:
    """The overlay without consumers, and a node that shares our files."""
    found = await install(admin_kubeconfig, "high-availability")
    try:
        await found.kubectl("label", "ns", found.own, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
        look = {"name": "look", "image": image, "imagePullPolicy": "IfNotPresent"}
        look |= {"command": ["test", "-x", f"/host{sys.base_prefix}/bin/python3"]}
        look["volumeMounts"] = [{"name": "host", "mountPath": "/host", "readOnly": True}]
        spec = {"containers": [look], "restartPolicy": "Never"}
        spec |= {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "look", "namespace": found.own}, "spec": spec}
        await found.kubectl("create", "-f", "-", given=json.dumps(pod))
        status, node = await until(lambda: _looked(found), 60)
        if status != "Succeeded":
            pytest.skip("no node shares this machine's files")
        yield found, node
    finally:
        await remove(found)


async def _looked(installed: Installed) -> tuple[str, str] | None:
    pod = json.loads(await installed.kubectl("-n", installed.own, "get", "pod", "look", "-o", "json"))
    phase = pod["status"].get("phase")
    return (phase, pod["spec"]["nodeName"]) if phase in ("Succeeded", "Failed") else None


async def _consumers(installed: Installed) -> set[str]:
    """Names of the consumers' pods that aren't going."""
    query = ("get", "pods", "-l", "app.kubernetes.io/name=longshore", "-o", "json")
    found = json.loads(await installed.kubectl("-n", installed.own, *query))["items"]
    return {item["metadata"]["name"] for item in found if "deletionTimestamp" not in item["metadata"]}


async def _rolled_out(installed: Installed) -> set[str]:
    try:
        await installed.kubectl("-n", installed.own, "rollout", "status", "deployment/longshore", "--timeout=120s")
    except AssertionError:
        selected = ("-l", "app.kubernetes.io/name=longshore", "--tail=20", "--prefix")
        print(await installed.kubectl("-n", installed.own, "logs", *selected))
        raise
    return await _consumers(installed)


async def test_a_rollout_and_an_eviction_of_real_consumers_hand_running_jobs_over(
    installed: tuple[Installed, str], redis_url: str, image: str
) -> None:
    at, node = installed
    deployment = deployment_of(at, node, redis_url, image)
    await at.kubectl("apply", "-f", "-", given=json.dumps(deployment))
    first = await _rolled_out(at)
    assert len(first) == 2
    short = Job(image=image, commands=["echo done"])
    waits = Job(image=image, commands=["until test -e /tmp/go; do sleep 0.1; done"], timeout=600)
    async with aio.connect(redis_url) as queue:
        held = [await queue.enqueue(waits) for _ in range(4)]
        began = [await until(lambda handle=handle: _running(handle), 60) for handle in held]
        assert {record.where.consumer for record in began} <= first
        passing = [await queue.enqueue(short)]
        await at.kubectl("-n", at.own, "rollout", "restart", "deployment/longshore")
        passing.append(await queue.enqueue(short))
        second = await _rolled_out(at)
        assert not first & second
        evicted = min(second)
        await until(lambda: _evicted(at, evicted), 30)
        passing.append(await queue.enqueue(short))
        await until(lambda: _all_held_by(held, second - {evicted}, at), 60)
        assert [(await handle.record()).where.pod for handle in held] == [record.where.pod for record in began]
        for record in began:
            await at.kubectl("-n", at.jobs, "exec", str(record.where.pod), "--", "touch", "/tmp/go")
        for handle in (*held, *passing):
            assert (await handle.wait(60)).status is Status.SUCCEEDED
            record = await handle.record()
            assert [attempt.attempt for attempt in record.attempts] == [1], record
    await asyncio.gather(*(_gone(at, record.where.pod) for record in began))


async def _evicted(at: Installed, pod: str) -> bool:
    """The API takes the eviction; not before the disruption budget knows of the new pods."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": at.own}}
    path = f"/api/v1/namespaces/{at.own}/pods/{pod}/eviction"
    try:
        await at.kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))
    except AssertionError as error:
        if "disruption budget" not in str(error):
            raise
        return False
    return True


async def _running(handle: aio.AsyncHandle) -> Record | None:
    record = await handle.record()
    assert not record.status.final, record.message
    return record if record.status is Status.RUNNING else None


async def _all_held_by(handles: list[aio.AsyncHandle], known: set[str], at: Installed) -> bool:
    """By a consumer that lives: one of those, or the one that has come for the evicted one."""
    living = known | await _consumers(at)
    return {(await handle.record()).where.consumer for handle in handles} <= living


async def _gone(at: Installed, pod: str | None) -> None:
    async def gone() -> bool:
        return not await at.kubectl("-n", at.jobs, "get", "pod", str(pod), "--ignore-not-found", "-o", "name")

    await until(gone, 60)
