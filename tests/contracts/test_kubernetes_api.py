"""What the executor relies on in a Kubernetes API server: the same tests on the fake and on a real one.

The real one needs KUBECONFIG (marker `cluster`); its pods carry the scheduler's name `none` where nothing may run.
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


def pod_named(name: str, *, idle: bool = True, image: str = "busybox", labels: dict[str, str] | None = None) -> Any:
    container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}
    container["command"] = ["/bin/sh", "-c", "echo one; printf two"]  # type: ignore[assignment]
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


async def test_create_and_the_second_create(server: Server) -> None:
    made = await create(server, "a")
    meta = made["metadata"]
    assert meta["uid"]
    assert meta["creationTimestamp"].endswith("Z")
    assert int(meta["resourceVersion"]) > 0
    assert made["status"]["phase"] == "Pending"
    error = await refused(server, "POST", "pods", body=pod_named("a"))
    assert (error.status, error.code, error.message) == (409, "AlreadyExists", 'pods "a" already exists')
    dry = await server.api.request(
        "POST", path_of(server.namespace, "pods"), query={"dryRun": "All"}, body=pod_named("b")
    )
    assert dry["metadata"]["name"] == "b"
    assert (await refused(server, "GET", "pods", "b")).status == 404


async def test_what_isnt_there(server: Server) -> None:
    for parts in (("pods", "none"), ("pods", "none", "log")):
        error = await refused(server, "GET", *parts)
        assert (error.status, error.code, error.message) == (404, "NotFound", 'pods "none" not found')
    assert (await refused(server, "DELETE", "pods", "none")).status == 404
    with pytest.raises(ApiError) as caught:
        await server.api.request("POST", path_of("longshore-none", "pods"), body=pod_named("a"))
    assert (caught.value.status, caught.value.message) == (404, 'namespaces "longshore-none" not found')
    assert (await server.api.request("GET", path_of("longshore-none", "pods")))["items"] == []


async def test_an_invalid_pod(server: Server) -> None:
    body = pod_named("a")
    body["spec"]["containers"] = []
    error = await refused(server, "POST", "pods", body=body)
    assert (error.status, error.code) == (422, "Invalid")
    assert 'Pod "a" is invalid: spec.containers: Required value' in error.message


async def test_delete_with_a_uid(server: Server) -> None:
    made = await create(server, "a")
    error = await refused(server, "DELETE", "pods", "a", body={"preconditions": {"uid": "other"}})
    assert (error.status, error.code) == (409, "Conflict")
    assert "the UID in the precondition (other) does not match the UID in record" in error.message
    options = {"gracePeriodSeconds": 5, "preconditions": {"uid": made["metadata"]["uid"]}}
    await server.api.request("DELETE", path_of(server.namespace, "pods", "a"), body=options)
    assert (await refused(server, "GET", "pods", "a")).status == 404  # it had no node: gone at once


async def test_lists_come_in_pages(server: Server) -> None:
    for name in ("a", "b", "c", "d", "e"):
        await create(server, name)
    await create(server, "foreign", labels={"x": "y"})
    path, query = path_of(server.namespace, "pods"), {"labelSelector": "app.kubernetes.io/managed-by=longshore"}
    names, pages, query = [], 0, query | {"limit": "2"}
    while True:
        page = await server.api.request("GET", path, query=query)
        names += [item["metadata"]["name"] for item in page["items"]]
        pages += 1
        if not page["metadata"].get("continue"):
            break
        query["continue"] = page["metadata"]["continue"]
    assert (names, pages) == (["a", "b", "c", "d", "e"], 3)
    assert int(page["metadata"]["resourceVersion"]) > 0


async def test_a_watch_goes_on_from_a_version_and_ends_in_time(server: Server) -> None:
    path = path_of(server.namespace, "pods")
    selector = {"labelSelector": "app.kubernetes.io/managed-by=longshore"}
    await create(server, "before")
    version = (await server.api.request("GET", path, query=selector))["metadata"]["resourceVersion"]
    await create(server, "after")
    await create(server, "foreign", labels={"x": "y"})
    await server.api.request("DELETE", path_of(server.namespace, "pods", "before"))
    query = selector | {"watch": "true", "resourceVersion": version, "timeoutSeconds": "1"}
    async with asyncio.timeout(20), server.api.stream(path, query) as response:
        events = [json.loads(line) async for line in lines_of(response)]
    seen = [(event["type"], event["object"]["metadata"]["name"]) for event in events]
    assert seen == [("ADDED", "after"), ("MODIFIED", "before"), ("DELETED", "before")]


async def test_a_version_that_is_too_old_is_410(server: Server) -> None:
    if isinstance(server, Fake):
        await create(server, "a")
        server.kube.compact()
    query = {"watch": "true", "resourceVersion": "1", "timeoutSeconds": "5"}
    async with asyncio.timeout(20), server.api.stream(path_of(server.namespace, "pods"), query) as response:
        event = json.loads(await anext(lines_of(response)))
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


async def test_logs_before_and_after_the_start(server: Server) -> None:
    query = {"container": "main", "follow": "true", "timestamps": "true"}
    await create(server, "idle")
    async with server.api.stream(path_of(server.namespace, "pods", "idle", "log"), query) as response:
        assert (response.status, await response.read()) == (204, b"")
    await create(server, "no-image", idle=False, image="127.0.0.1:1/none:1")
    await until(server, "no-image", "waiting/ErrImagePull")
    error = await refused(server, "GET", "pods", "no-image", "log", query=query)
    assert (error.status, error.code) == (400, "BadRequest")
    assert 'container "main" in pod "no-image" is waiting to start' in error.message
    await create(server, "done", idle=False)
    await until(server, "done", "terminated")
    async with server.api.stream(path_of(server.namespace, "pods", "done", "log"), query) as response:
        first, second = (await response.read()).split(b"\n")
    stamp, _, text = first.partition(b" ")
    assert (text, second.partition(b" ")[2]) == (b"one", b"two")
    assert len(stamp.partition(b".")[2].rstrip(b"Z")) == 9 or b"+" in stamp
    since = stamp[:19].decode() + stamp[29:].decode()
    async with server.api.stream(
        path_of(server.namespace, "pods", "done", "log"), query | {"sinceTime": since}
    ) as response:
        assert (await response.read()).startswith(first)  # whole seconds: what was read comes again


async def test_a_secret_goes_with_the_pod_that_owns_it(server: Server) -> None:
    uid = (await create(server, "a"))["metadata"]["uid"]
    for name, owner in (("owned", uid), ("orphan", "00000000-0000-0000-0000-000000000000")):
        reference = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": owner}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "ownerReferences": [reference]}}
        await server.api.request("POST", path_of(server.namespace, "secrets"), body=body)
    await gone(server, "secrets", "orphan")
    assert (await server.api.request("GET", path_of(server.namespace, "secrets", "owned")))["metadata"]["uid"]
    await server.api.request("DELETE", path_of(server.namespace, "pods", "a"))
    await gone(server, "secrets", "owned")


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
