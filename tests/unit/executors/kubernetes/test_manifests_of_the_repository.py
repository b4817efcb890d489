"""k8s/: the least Role is exactly what the executor asks for, and the Deployment sets settings that there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.executors.kubernetes.rights import RIGHTS
from consumer.settings import Kubernetes, Scaling, load_settings
from support.fakekube import FakeKube
from support.kubernetes import plan_of, read

K8S = Path(__file__).parents[4] / "k8s"


def objects(name: str) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all((K8S / name).read_text()) if item]


async def test_the_role_is_what_is_asked_for(kube: FakeKube, open_executor: Callable[..., Any]) -> None:
    [role] = [item for item in objects("base/rbac.yaml") if item["kind"] == "Role"]
    granted = {f"{verb} {what}" for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    assert granted == {str(right) for right in RIGHTS}
    executor = await open_executor()
    plan = plan_of(variables=[{"name": "T", "value": "x", "sensitive": True}])
    execution = await executor.start(plan)
    await read(execution.logs())
    await execution.wait()
    await execution.remove()
    assert set(kube.verbs()) == granted
    groups = {right.resource: right.group for right in RIGHTS}
    assert all(rule["apiGroups"] == [groups[what]] for rule in role["rules"] for what in rule["resources"])
    [named] = [rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule]
    assert named == [Kubernetes().lease]


def test_the_deployment_sets_settings_that_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    [deployment] = [item for item in objects("base/deployment.yaml") if item["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    monkeypatch.chdir(tmp_path)
    for entry in spec["containers"][0]["env"]:
        monkeypatch.setenv(
            entry["name"], entry.get("value", "redis://localhost:6379/0" if "URL" in entry["name"] else "x")
        )
    settings = load_settings()
    assert settings.executor == "kubernetes"
    assert settings.kubernetes.namespace == "longshore-jobs"
    assert spec["terminationGracePeriodSeconds"] > settings.shutdown_grace


def test_every_file_is_named_in_its_kustomization() -> None:
    folders = [path.parent for path in K8S.glob("**/kustomization.yaml")]
    assert {path.name for path in folders} == {"base", "monitoring", "single", "high-availability", "keda"}
    for folder in folders:
        [kustomization] = objects(f"{folder.relative_to(K8S)}/kustomization.yaml")
        resources = kustomization.get("resources", []) + kustomization.get("components", [])
        named = {name for name in resources if not name.startswith("..")}
        named |= {patch["path"] for patch in kustomization.get("patches", []) if "path" in patch}
        assert all((folder / name).exists() for name in resources)
        plain = {"kustomization.yaml", "alerts.yaml"}
        assert named | plain >= {path.name for path in folder.glob("*.yaml")} >= named


def test_the_service_the_policy_and_the_monitor_find_the_consumers_port() -> None:
    [deployment] = objects("base/deployment.yaml")
    service, budget = objects("base/service.yaml")
    [monitor] = objects("monitoring/servicemonitor.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [port] = container["ports"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert str(port["containerPort"]) == env["LONGSHORE_METRICS_PORT"]
    assert service["spec"]["ports"] == [{"name": "metrics", "port": port["containerPort"], "targetPort": port["name"]}]
    assert service["spec"]["selector"] == budget["spec"]["selector"]["matchLabels"] == labels
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert monitor["spec"]["endpoints"][0]["port"] == "metrics"
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
    [ingress] = [item for item in objects("base/network.yaml") if item["metadata"]["namespace"] == "longshore"]
    assert ingress["spec"]["ingress"][0]["ports"][0]["port"] == port["name"]


def test_the_operator_gets_the_same_alerts() -> None:
    [rule], [alerts] = objects("monitoring/rule.yaml"), objects("monitoring/alerts.yaml")
    assert rule["spec"] == alerts


def test_keda_counts_by_the_slots_that_there_are() -> None:
    [deployment], [scaled] = objects("base/deployment.yaml"), objects("overlays/keda/scaledobject.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    slots = next(int(entry["value"]) for entry in container["env"] if entry["name"] == "LONGSHORE_CONCURRENCY")
    assert int(scaled["spec"]["triggers"][0]["metadata"]["threshold"]) < slots
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_the_autoscaler_has_the_rights_that_its_settings_need() -> None:
    [patch], [deployment] = objects("overlays/high-availability/deployment.yaml"), objects("base/deployment.yaml")
    [container] = patch["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    role, binding = objects("overlays/high-availability/autoscaler.yaml")
    scale, create, lease = role["rules"]
    assert env["LONGSHORE_SCALING_DEPLOYMENT"] == deployment["metadata"]["name"]
    assert (scale["resources"], scale["verbs"]) == (["deployments/scale"], ["get", "update"])
    assert scale["resourceNames"] == [deployment["metadata"]["name"]]
    assert (create["verbs"], lease["verbs"]) == (["create"], ["get", "update"])
    assert lease["resourceNames"] == [Scaling().lease]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    assert binding["subjects"] == objects("base/rbac.yaml")[2]["subjects"]
