"""What the executor relies on in a Kubernetes API server: the same tests on the fake and on a real one."""

from __future__ import annotations

import asyncio
import json

import pytest

from consumer.executors.kubernetes.api import ApiError, path_of
from consumer.executors.kubernetes.watch import lines_of
from support.api_servers import Fake, Server, create, gone, pod_named, refused, until


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
