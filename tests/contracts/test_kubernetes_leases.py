"""What the sweeper relies on in a Kubernetes API server: the same tests on the fake and on a real one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.lease import leases_path
from consumer.executors.kubernetes.rights import RIGHTS, probe
from consumer.settings import Kubernetes
from support.cluster import drop_namespace, make_namespace
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import kubeconfig_of

Server = tuple[Api, str, Kubernetes]
DRY = {"dryRun": "All"}


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.cluster)])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    if request.param == "fake":

        async def waits(pod: FakePod) -> None:
            """No scheduler sees it."""

        async with FakeKube("jobs", script=waits) as kube:
            kube.counts = False
            settings = Kubernetes(kubeconfig=kubeconfig_of(kube.url, tmp_path), namespace="jobs")
            api = Api(Access(kube.url, "jobs"), patience=5)
            yield api, "jobs", settings
            await api.close()
        return
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG isn't set: no cluster")
    settings = Kubernetes(kubeconfig=Path(os.environ["KUBECONFIG"]))
    api = Api(await Access.load(settings), patience=20)
    name = await make_namespace(api, None)
    yield api, name, settings.model_copy(update={"namespace": name})
    await drop_namespace(api, name)
    await api.close()


def lease(name: str = "x", version: str | None = None, **spec: Any) -> dict[str, Any]:
    meta = {"name": name} | ({"resourceVersion": version} if version else {})
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


async def refused(call: Any) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value.status, caught.value.code


async def test_a_lease_is_made_once_and_changed_from_what_it_was(server: Server) -> None:
    api, namespace, _ = server
    path, one = leases_path(namespace), leases_path(namespace, "x")
    assert await refused(api.request("GET", one)) == (404, "NotFound")
    made = await api.request("POST", path, body=lease(holderIdentity="a", leaseDurationSeconds=15))
    assert await refused(api.request("POST", path, body=lease(holderIdentity="b"))) == (409, "AlreadyExists")
    version = made["metadata"]["resourceVersion"]
    renewed = await api.request("PUT", one, body=made | {"spec": made["spec"] | {"leaseTransitions": 1}})
    assert renewed["metadata"]["resourceVersion"] != version
    assert renewed["metadata"]["uid"] == made["metadata"]["uid"]
    stale = lease("x", version, holderIdentity="b")
    assert await refused(api.request("PUT", one, body=stale)) == (409, "Conflict")
    dry = await api.request("PUT", one, query=DRY, body=renewed | {"spec": {"holderIdentity": "c"}})
    assert dry["spec"]["holderIdentity"] == "c"
    assert (await api.request("GET", one))["spec"] == renewed["spec"]
    assert renewed["spec"]["holderIdentity"] == "a"


async def test_a_pod_is_deleted_only_as_it_was_looked_at(server: Server) -> None:
    api, namespace, _ = server
    spec = {
        "schedulerName": "none",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "main",
                "image": "x",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    pod = await api.request("POST", path_of(namespace, "pods"), body=body)
    uid, version, path = pod["metadata"]["uid"], pod["metadata"]["resourceVersion"], path_of(namespace, "pods", "p")
    for conditions in ({"uid": "another"}, {"uid": uid, "resourceVersion": "1"}):
        options = {"preconditions": conditions, "gracePeriodSeconds": 0}
        assert await refused(api.request("DELETE", path, body=options)) == (409, "Conflict")
    options = {"preconditions": {"uid": uid, "resourceVersion": version}, "gracePeriodSeconds": 0}
    await api.request("DELETE", path, body=options)
    assert await refused(api.request("GET", path)) == (404, "NotFound")


async def test_the_probes_leave_no_trace(server: Server) -> None:
    """Whoever has all rights is told nothing worse than that there is no such thing."""
    api, namespace, settings = server
    for right in RIGHTS:
        error = await probe(api, namespace, right, settings, "c")
        assert error is None or error.status in (404, 409), right
    for path in (leases_path(namespace), path_of(namespace, "pods")):
        assert (await api.request("GET", path))["items"] == []
