"""Requests are counted by verb and resource, never by name."""

from __future__ import annotations

import pytest

from consumer.executors.kubernetes.api import Api
from consumer.executors.kubernetes.tally import Tally
from support.fakekube import FakeKube

NS, LEASES = "/api/v1/namespaces/jobs", "/apis/coordination.k8s.io/v1/namespaces/jobs/leases"


@pytest.fixture(autouse=True)
def _own_calls(kube: FakeKube) -> None:
    kube.counts = False  # what is asked here is no consumer's


@pytest.mark.parametrize(
    ("method", "path", "watch", "verb", "resource"),
    [
        ("GET", f"{NS}/pods", False, "list", "pods"),
        ("GET", f"{NS}/pods", True, "watch", "pods"),
        ("POST", f"{NS}/pods", False, "create", "pods"),
        ("GET", f"{NS}/pods/ls-1", False, "get", "pods"),
        ("GET", f"{NS}/pods/ls-1/log", False, "get", "pods/log"),
        ("DELETE", f"{NS}/pods/ls-1", False, "delete", "pods"),
        ("PUT", f"{LEASES}/l", False, "update", "leases"),
        ("PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale", False, "patch", "deployments/scale"),
        (
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            False,
            "create",
            "selfsubjectaccessreviews",
        ),
        ("GET", "/version", False, "list", "other"),
    ],
)
def test_words(method: str, path: str, watch: bool, verb: str, resource: str) -> None:
    tally = Tally()
    tally.count(method, path, 200, 1.5, 0.25, watch=watch)
    requests, seconds, throttled = tally.measures()
    assert requests.labels == (("verb", verb), ("resource", resource), ("code", "200"))
    assert (requests.value, seconds.value, throttled.value) == (1, 1.5, 0.25)


async def test_a_client_counts(kube: FakeKube, api: Api) -> None:
    await api.request("GET", f"{NS}/pods")
    with pytest.raises(Exception, match="not found"):
        await api.request("GET", f"{NS}/pods/none")
    async with api.stream(f"{NS}/pods", {"watch": "true", "timeoutSeconds": "1"}):
        pass
    counted = {tuple(dict(m.labels).values()): m.value for m in api.tally.measures() if m.name == "api_requests"}
    assert counted == {("list", "pods", "200"): 1, ("get", "pods", "404"): 1, ("watch", "pods", "200"): 1}
