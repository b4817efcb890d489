"""What an API server says when it refuses, forgets or ends something: the fake one as the real one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from consumer.errors import ExecutorFault, Unrunnable
from consumer.executors.kubernetes.api import ApiError, path_of
from consumer.executors.kubernetes.events import told_by_events
from consumer.executors.kubernetes.refusal import translated
from consumer.executors.kubernetes.watch import lines_of
from support import consuming
from support.api_servers import Fake, Server, create, gone, pod_named, refused, until
from support.fakekube_http import REFUSALS

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = f"{ADMISSION}/validatingadmissionpolicies", f"{ADMISSION}/validatingadmissionpolicybindings"
WEBHOOKS = f"{ADMISSION}/validatingwebhookconfigurations"
PODS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}


async def test_a_version_that_is_gone_is_410_as_a_status_too(server: Server) -> None:
    await create(server, "a")
    if isinstance(server, Fake):
        server.kube.compact()
    error = await refused(server, "GET", "pods", query={"resourceVersion": "1", "resourceVersionMatch": "Exact"})
    assert (error.status, error.code, error.passing) == (410, "Expired", False)


async def test_a_page_that_was_asked_for_too_late_is_410(server: Server) -> None:
    for name in ("a", "b"):
        await create(server, name)
    page = await server.api.request("GET", path_of(server.namespace, "pods"), query={"limit": "1"})
    token = page["metadata"]["continue"]
    if isinstance(server, Fake):
        server.kube.compact()
    else:  # the same page of a list that was begun at version 1, which is long forgotten
        place = json.loads(base64.urlsafe_b64decode(token + "==="))
        token = base64.urlsafe_b64encode(json.dumps(place | {"rv": 1}).encode()).decode().rstrip("=")
    error = await refused(server, "GET", "pods", query={"limit": "1", "continue": token})
    assert (error.status, error.code) == (410, "Expired")
    assert error.message.startswith("The provided continue parameter is too old to display a consistent list result.")


async def test_a_bookmark_has_a_version_and_no_name(server: Server) -> None:
    await create(server, "a")
    version = (await server.api.request("GET", path_of(server.namespace, "pods")))["metadata"]["resourceVersion"]
    query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": "10"}
    async with asyncio.timeout(20), server.api.stream(path_of(server.namespace, "pods"), query) as response:
        if isinstance(server, Fake):  # the real one sends one shortly before the end
            server.kube.bookmark()
        event = json.loads(await anext(lines_of(response)))
    assert event["type"] == "BOOKMARK"
    item = event["object"]
    assert int(item["metadata"].pop("resourceVersion")) >= int(version)
    nothing = {"spec": {"containers": None}, "status": {}}
    assert item == {"kind": "Pod", "apiVersion": "v1", "metadata": {}} | nothing


@contextlib.asynccontextmanager
async def refusing(server: Server, why: str) -> AsyncIterator[None]:
    """No pod can be created in the server's namespace while the block lasts."""
    if isinstance(server, Fake):
        server.kube.refuses = why
        yield
        server.kube.refuses = None
        return
    api, name = server.api, server.namespace
    path, here = f"/api/v1/namespaces/{name}", {"matchLabels": {"kubernetes.io/metadata.name": name}}
    made: list[str] = []

    async def make(where: str, body: dict[str, Any], named: str = name) -> None:
        await api.request("POST", where, body={"metadata": {"name": named}} | body)
        made.append(f"{where}/{named}")

    if why == "quota":
        await make(path_of(name, "resourcequotas"), {"spec": {"hard": {"pods": "0"}}}, "few")
    elif why == "security":
        space = await api.request("GET", path)
        space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "restricted"
        await api.request("PUT", path, body=space)
    elif why == "policy":
        rules = {"resourceRules": [PODS], "namespaceSelector": here}
        never = {"expression": "false", "message": "not here", "reason": "Forbidden"}
        await make(POLICIES, {"spec": {"matchConstraints": rules, "validations": [never]}})
        await make(BINDINGS, {"spec": {"policyName": name, "validationActions": ["Deny"]}})
    elif why == "webhook down":
        hook = {"name": "policy.example.com", "clientConfig": {"url": "https://127.0.0.1:1/none"}, "rules": [PODS]}
        hook |= {"sideEffects": "None", "admissionReviewVersions": ["v1"], "namespaceSelector": here}
        await make(WEBHOOKS, {"webhooks": [hook | {"failurePolicy": "Fail", "timeoutSeconds": 2}]})
    else:
        pod = pod_named("held")
        pod["metadata"]["finalizers"] = ["longshore.test/held"]  # else the namespace is gone before we ask
        await api.request("POST", path_of(name, "pods"), body=pod)
        await api.request("DELETE", path)
    try:
        await consuming.until(lambda: is_refused(server))  # each of these takes a moment to be in force
        yield
    finally:
        for where in reversed(made):
            await api.request("DELETE", where)
        if why == "terminating":
            pod = await api.request("GET", path_of(name, "pods", "held"))
            pod["metadata"]["finalizers"] = []
            await api.request("PUT", path_of(name, "pods", "held"), body=pod)


async def is_refused(server: Server) -> bool:
    query = {"dryRun": "All"}
    try:
        path = path_of(server.namespace, "pods")
        await server.api.request("POST", path, query=query, body=pod_named("a"), patience=0)
    except ApiError:
        return True
    return False


WORDS = {
    "quota": "exceeded quota: few, requested: pods=1, used: pods=0, limited: pods=0",
    "security": 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
    "policy": "denied request: not here",
    "terminating": " because it is being terminated",
    "webhook down": 'failed calling webhook "policy.example.com": failed to call webhook: ',
}


@pytest.mark.row(41, 72)
@pytest.mark.parametrize("why", REFUSALS)
async def test_why_a_pod_is_refused(server: Server, why: str) -> None:
    """The lab has no webhook that answers: what one that denies says is in the tests of faults alone."""
    async with refusing(server, why):
        error = await refused(server, "POST", "pods", body=pod_named("a"), patience=0)
    assert (error.status, error.code) == REFUSALS[why][:2]
    head = 'pods "a" is forbidden: ' if error.status == 403 else "Internal error occurred: "
    assert error.message.startswith(head)
    assert WORDS[why] in error.message
    assert error.passing is (why == "webhook down")
    final = why in ("security", "policy")
    assert isinstance(translated(error, server.namespace), Unrunnable if final else ExecutorFault)


def eviction_of(name: str) -> dict[str, Any]:
    return {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}


async def test_eviction_leaves_its_condition(server: Server) -> None:
    made = await create(server, "a")
    assert (await refused(server, "POST", "pods", "no", "eviction", body=eviction_of("no"))).status == 404
    path = path_of(server.namespace, "pods")
    said = await server.api.request("POST", f"{path}/a/eviction", body=eviction_of("a"))
    assert (said["status"], said["code"]) == ("Success", 201)
    query = {"watch": "true", "resourceVersion": made["metadata"]["resourceVersion"], "timeoutSeconds": "20"}
    async with asyncio.timeout(20), server.api.stream(path, query) as response:
        async for line in lines_of(response):
            event = json.loads(line)
            if event["type"] == "DELETED":
                break
    (condition,) = [found for found in event["object"]["status"]["conditions"] if found["type"] == "DisruptionTarget"]
    assert (condition["status"], condition["reason"]) == ("True", "EvictionByEvictionAPI")
    assert "deletionTimestamp" in event["object"]["metadata"]


async def test_429_may_say_when_to_come_again(server: Server) -> None:
    """Of a disruption budget: the one 429 on demand. The real one names a time only for one that is quite new."""
    await create(server, "a", idle=False, runs=True)
    await until(server, "a", "running")
    if isinstance(server, Fake):
        headers = {"Retry-After": "10"}
        server.kube.fault("create pods/eviction", status=429, code="TooManyRequests", headers=headers)
    else:
        budget = {"metadata": {"name": "a"}, "spec": {"minAvailable": 1, "selector": {}}}
        path = f"/apis/policy/v1/namespaces/{server.namespace}/poddisruptionbudgets"
        await server.api.request("POST", path, body=budget)
    error = await refused(server, "POST", "pods", "a", "eviction", body=eviction_of("a"), patience=0)
    assert (error.status, error.code, error.passing) == (429, "TooManyRequests", True)
    assert error.retry_after == 10 or (error.retry_after is None and not isinstance(server, Fake))


async def test_events_of_a_pod_are_found_by_its_uid(server: Server) -> None:
    path = path_of(server.namespace, "events")
    for name, uid in (("one", "u-1"), ("two", "u-2")):
        about = {"kind": "Pod", "namespace": server.namespace, "name": "a", "uid": uid}
        event = {"metadata": {"name": name}, "involvedObject": about, "type": "Warning", "reason": "FailedMount"}
        await server.api.request("POST", path, body=event | {"message": f"no volume for {name}"})
    assert await told_by_events(server.api, server.namespace, "u-1") == "FailedMount: no volume for one"
    assert await told_by_events(server.api, server.namespace, "u-3") == ""


@pytest.mark.row(35)
async def test_the_log_of_a_deleted_pod_ends_and_is_gone(server: Server) -> None:
    await create(server, "a", idle=False, runs=True)
    await until(server, "a", "running")
    path = path_of(server.namespace, "pods", "a", "log")
    query = {"container": "main", "follow": "true", "timestamps": "true"}
    async with asyncio.timeout(60), server.api.stream(path, query) as response:
        chunks = response.content.iter_any()
        assert (await anext(chunks)).endswith(b"Z one\n")
        await server.api.request("DELETE", path_of(server.namespace, "pods", "a"), body={"gracePeriodSeconds": 1})
        assert [chunk async for chunk in chunks] == []  # a clean end
    await gone(server, "pods", "a")
    assert (await refused(server, "GET", "pods", "a", "log", query=query)).status == 404


async def test_a_log_since_a_later_time_is_empty(server: Server) -> None:
    await create(server, "a", idle=False)
    await until(server, "a", "terminated")
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    query = {"container": "main", "timestamps": "true", "sinceTime": since}
    async with server.api.stream(path_of(server.namespace, "pods", "a", "log"), query) as response:
        assert (response.status, await response.read()) == (200, b"")
