"""The fake API server and a real one, as fixture `server` of the contract suites, and what these ask of both.

The real one needs KUBECONFIG (marker `cluster`); pods that carry the scheduler's name `none` run nowhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.watch import lines_of
from consumer.settings import Kubernetes
from support.fakekube import FakeKube
from support.fakekubelet import FakePod

OURS = {"app.kubernetes.io/managed-by": "longshore"}


class Server(Protocol):
    """An API server with an empty namespace."""

    api: Api
    namespace: str


class Fake:
    def __init__(self, kube: FakeKube) -> None:
        self.kube, self.namespace = kube, "jobs"
        self.api = Api(Access(kube.url, "jobs"), rate=1000, patience=5)


class Real:
    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.cluster)])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    if request.param == "fake":

        async def life(pod: FakePod) -> None:
            if pod.spec.get("schedulerName") == "none":
                return
            pod.schedule()
            if pod.spec["containers"][0]["image"].startswith("127.0.0.1:1/"):
                pod.wait("ErrImagePull", "connection refused")
                return
            pod.run()
            pod.write(b"one\n")
            if "sleep" in pod.spec["containers"][0]["command"][-1]:
                return
            pod.write(b"two")
            pod.end(0)

        async with FakeKube("jobs", script=life) as kube:
            kube.counts = False
            fake = Fake(kube)
            yield fake
            await fake.api.close()
        return
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG isn't set: no cluster")
    api = Api(await Access.load(Kubernetes(kubeconfig=Path(os.environ["KUBECONFIG"]))), rate=1000, patience=20)
    name = f"longshore-test-{secrets.token_hex(4)}"
    await api.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
    await service_account(api, name)
    yield Real(api, name)
    for item in (await api.request("GET", path_of(name, "pods")))["items"]:
        await api.request("DELETE", path_of(name, "pods", item["metadata"]["name"]), body={"gracePeriodSeconds": 0})
    await api.request("DELETE", f"/api/v1/namespaces/{name}")
    await api.close()


async def service_account(api: Api, namespace: str) -> None:
    """Pods are refused until the new namespace has its default account."""
    async with asyncio.timeout(20):
        while True:
            try:
                await api.request("GET", path_of(namespace, "serviceaccounts", "default"))
                return
            except ApiError as error:
                if error.status != 404:
                    raise
                await asyncio.sleep(0.05)


def pod_named(
    name: str,
    *,
    idle: bool = True,
    runs: bool = False,
    image: str = "busybox",
    labels: dict[str, str] | None = None,
) -> Any:
    """A pod's manifest: `idle` never gets a node, `runs` writes a line and goes on, else it writes two and ends."""
    container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}
    container["command"] = ["/bin/sh", "-c", "echo one; sleep 600" if runs else "echo one; printf two"]  # type: ignore[assignment]
    spec: dict[str, Any] = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
    if idle:
        spec["schedulerName"] = "none"
    meta = {"name": name, "labels": labels or OURS}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


async def create(server: Server, name: str, **fields: Any) -> dict[str, Any]:
    path = path_of(server.namespace, "pods")
    return await server.api.request("POST", path, body=pod_named(name, **fields))


async def refused(server: Server, method: str, *parts: str, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await server.api.request(method, path_of(server.namespace, *parts), **fields)
    return caught.value


async def until(server: Server, name: str, state: str) -> None:
    """Waits, by a watch, until the main container is in a state, and its reason says so if given with a slash."""
    wanted, _, reason = state.partition("/")
    query = {"watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": "60"}
    async with asyncio.timeout(60), server.api.stream(path_of(server.namespace, "pods"), query) as response:
        async for line in lines_of(response):
            item = json.loads(line)["object"]
            if item["metadata"]["name"] != name:
                continue
            for found in item.get("status", {}).get("containerStatuses") or ():
                if wanted in found["state"] and (not reason or found["state"][wanted].get("reason") == reason):
                    return


async def gone(server: Server, *parts: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await server.api.request("GET", path_of(server.namespace, *parts))
            except ApiError as error:
                if error.status == 404:
                    return
                raise
            await asyncio.sleep(0.05)
