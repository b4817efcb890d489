"""k8s/: the least Role is exactly what the executor asks for, and the Deployment sets settings that there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.executors.kubernetes.rights import RIGHTS
from consumer.settings import Kubernetes, load_settings
from support.fakekube import FakeKube
from support.kubernetes import plan_of, read

K8S = Path(__file__).parents[4] / "k8s"


def objects(name: str) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all((K8S / name).read_text()) if item]


async def test_the_role_is_what_is_asked_for(kube: FakeKube, open_executor: Callable[..., Any]) -> None:
    [role] = [item for item in objects("rbac.yaml") if item["kind"] == "Role"]
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
    [deployment] = [item for item in objects("consumer.yaml") if item["kind"] == "Deployment"]
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


def test_every_file_is_named_in_the_kustomization() -> None:
    [kustomization] = objects("kustomization.yaml")
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in K8S.glob("*.yaml")}
