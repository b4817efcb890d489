"""`longshore check` against real namespaces: each right that is taken away is named, and what a policy refuses too."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from consumer.executors.kubernetes import rights
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.check import check_cluster
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.rights import RIGHTS, Right, missing
from consumer.findings import Finding, Level
from consumer.settings import Kubernetes
from support.cluster import RIGHTS as RBAC
from support.cluster import drop_namespace, make_namespace, role_and_binding, user_of
from support.consuming import until

pytestmark = pytest.mark.cluster


def texts(found: Sequence[Finding], *levels: Level) -> list[str]:
    return [finding.text for finding in found if finding.level in levels]


async def test_the_shipped_role_and_namespace_are_sound(kubernetes_settings: Kubernetes) -> None:
    found = await check_cluster(kubernetes_settings, "c")
    assert texts(found, Level.PROBLEM, Level.WARNING, Level.UNKNOWN) == []
    said = texts(found, Level.GOOD)
    assert "it takes our pods (tried with a dry run)" in said
    assert "it enforces Pod Security 'restricted'" in said


def without(role: dict[str, Any], right: Right) -> dict[str, Any]:
    """The Role without one verb on one resource."""
    cut = copy.deepcopy(role)
    for rule in cut["rules"]:
        if right.resource in rule["resources"] and right.verb in rule["verbs"]:
            rule["verbs"].remove(right.verb)
    cut["rules"] = [rule for rule in cut["rules"] if rule["verbs"]]
    return cut


async def lacking(api: Api, namespace: str, settings: Kubernetes, wanted: Sequence[Right]) -> None:
    """Waits until exactly these rights are found missing: the API server's own view of Roles lags a little behind."""

    async def so() -> bool:
        return await missing(api, namespace, settings, "c") == list(wanted)

    await until(so)


@pytest.mark.parametrize("tells", [True, False], ids=["asked", "tried"])
async def test_each_right_that_is_taken_away_is_named(
    admin: Api, namespace: str, kubernetes_settings: Kubernetes, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if user_of(kubernetes_settings.kubeconfig or __file__) is None:  # type: ignore[arg-type]
        pytest.skip("an admin has all rights")
    if not tells:

        async def refused(*_: object) -> bool:
            raise ApiError(403, "Forbidden", "no reviews for you")

        monkeypatch.setattr(rights, "allowed", refused)
    [role] = [item for item in role_and_binding(namespace, None) if item["kind"] == "Role"]
    path = f"{RBAC}/{namespace}/roles/{role['metadata']['name']}"
    api = Api(await Access.load(kubernetes_settings), patience=5)
    try:
        for right in RIGHTS:
            await admin.request("PUT", path, body=without(role, right))
            await lacking(api, namespace, kubernetes_settings, [right])
    finally:
        await api.close()


async def test_a_start_without_the_lease_rights_works_and_without_the_others_doesnt(
    admin: Api, namespace: str, kubernetes_settings: Kubernetes
) -> None:
    if user_of(kubernetes_settings.kubeconfig or __file__) is None:  # type: ignore[arg-type]
        pytest.skip("an admin has all rights")
    [role] = [item for item in role_and_binding(namespace, None) if item["kind"] == "Role"]
    role["rules"] = [rule for rule in role["rules"] if not {"leases", "events"} & set(rule["resources"])]
    await admin.request("PUT", f"{RBAC}/{namespace}/roles/{role['metadata']['name']}", body=role)
    api = Api(await Access.load(kubernetes_settings), patience=5)
    await lacking(api, namespace, kubernetes_settings, [right for right in RIGHTS if not right.needed])
    await api.close()
    executor = KubernetesExecutor(kubernetes_settings, "c")
    await executor.open()
    await executor.close()


@pytest.mark.parametrize("enforce", ["baseline", "privileged"])
async def test_a_namespace_that_enforces_less(admin: Api, kubernetes_settings: Kubernetes, enforce: str) -> None:
    name = await make_namespace(admin, user_of(kubernetes_settings.kubeconfig), enforce=enforce)  # type: ignore[arg-type]
    try:
        found = await check_cluster(kubernetes_settings.model_copy(update={"namespace": name}), "c")
        [warning] = [finding for finding in found if finding.level is Level.WARNING]
        assert (
            warning.fix == f"kubectl label --overwrite namespace {name} pod-security.kubernetes.io/enforce=restricted"
        )
        assert texts(found, Level.PROBLEM, Level.UNKNOWN) == []
    finally:
        await drop_namespace(admin, name)


async def test_quota_limits_and_accounts(admin: Api, namespace: str, kubernetes_settings: Kubernetes) -> None:
    async def make(kind: str, plural: str, spec: dict[str, Any]) -> None:
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
        await admin.request("POST", path_of(namespace, plural), body=body)

    async def found(needle: str, level: Level, settings: Kubernetes = kubernetes_settings) -> Finding:
        async def look() -> Finding | None:  # admission has a view of its own, too
            seen = await check_cluster(settings, "c")
            return next((f for f in seen if f.level is level and needle in f.text), None)

        finding = await until(look)
        assert isinstance(finding, Finding)
        return finding

    others = kubernetes_settings.model_copy(update={"allowed_service_accounts": ("default", "robot")})
    assert "robot" in (await found("'robot' can't be used", Level.PROBLEM, others)).fix  # type: ignore[operator]
    await make("LimitRange", "limitranges", {"limits": [{"type": "Container", "default": {"cpu": "500m"}}]})
    await found("limits.cpu=500m", Level.GOOD)
    await admin.request("DELETE", path_of(namespace, "limitranges", "x"))
    await make("LimitRange", "limitranges", {"limits": [{"type": "Container", "max": {"memory": "8Mi"}}]})
    assert "LimitRange" in ((await found("maximum memory usage", Level.PROBLEM)).fix or "")
    await admin.request("DELETE", path_of(namespace, "limitranges", "x"))
    await make("ResourceQuota", "resourcequotas", {"hard": {"pods": "0"}})
    assert "ResourceQuota" in ((await found("exceeded quota", Level.PROBLEM)).fix or "")
    assert (await admin.request("GET", path_of(namespace, "pods")))["items"] == []
