"""What containers are made of and what jobs may ask for may change while the executor works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from consumer.errors import SetupError
from consumer.executors.docker.container import build
from consumer.executors.docker.executor import DockerExecutor
from consumer.model import Plan
from consumer.reload import stuck
from consumer.settings import Settings
from enqueue import Job

PLAN = Plan("j", "q", 1, "c", Job(image="registry.example.com/app", commands=["true"]), None, 1, 1)


def settings(**docker: Any) -> Settings:
    return Settings(executor="docker", docker=docker)


def test_the_policy_and_the_container_are_those_of_the_new_settings() -> None:
    before, after = settings(), settings(labels={"team": "b"}, pids_limit=7, allowed_images=["registry.example.com/**"])
    executor = DockerExecutor(before.docker, "c")
    executor.reload(settings(allowed_images=["other.example.com/**"]))
    [(_, text)] = executor.refuse(PLAN)
    assert "image: registry.example.com/app" in text
    assert stuck(before, after) == ()
    executor.reload(after)
    assert list(executor.refuse(PLAN)) == []
    body = build(PLAN, executor._settings).main.body
    assert (body["Labels"]["team"], body["HostConfig"]["PidsLimit"]) == ("b", 7)


def test_what_cannot_work_changes_nothing(tmp_path: Path) -> None:
    executor = DockerExecutor((before := settings()).docker, "c")
    with pytest.raises(SetupError, match=r"docker\.registry_config: .*none"):
        executor.reload(settings(registry_config=tmp_path / "none"))
    assert executor._settings is before.docker


def test_the_engine_and_what_running_containers_rest_on_need_a_restart() -> None:
    after = settings(host="tcp://other:2376", profile="baseline", secrets="environment", sweep_interval=5)
    assert set(stuck(settings(), after)) == {
        "docker.host",
        "docker.profile",
        "docker.secrets",
        "docker.sweep_interval",
    }
