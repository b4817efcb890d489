"""What pods are made of and what jobs may ask for may change while the executor works."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.errors import SetupError
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.manifest import build
from consumer.model import Plan
from consumer.settings import Settings
from enqueue import Job

PLAN = Plan("j", "q", 1, "c", Job(image="registry.example.com/app", commands=["true"]), None, 1, 1)


def settings(types: dict[str, Any] | None = None, **kubernetes: Any) -> Settings:
    return Settings(kubernetes=kubernetes, job_types=types or {})


def test_the_policy_and_the_pod_are_those_of_the_new_settings() -> None:
    executor = KubernetesExecutor(settings().kubernetes, "c")
    assert list(executor.refuse(PLAN)) == []
    executor.reload(settings(allowed_images=["other.example.com/**"]))
    [(_, text)] = executor.refuse(PLAN)
    assert "image: registry.example.com/app" in text
    executor.reload(settings(labels={"team": "b"}, requests={"cpu": "1"}))
    assert list(executor.refuse(PLAN)) == []
    pod = build(PLAN, executor._settings).pod
    assert pod["metadata"]["labels"]["team"] == "b"
    assert pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "1"


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (settings({"build": {"image": "x", "commands": ["true"], "profile": "privileged"}}), "job_types"),
        (settings(template={"spec": {"nodeName": "n"}}), "template"),
    ],
)
def test_what_cannot_work_changes_nothing(new: Settings, says: str) -> None:
    before = settings(labels={"team": "a"}).kubernetes
    executor = KubernetesExecutor(before, "c")
    with pytest.raises(SetupError, match=says):
        executor.reload(new)
    assert executor._settings is before
