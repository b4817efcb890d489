"""Whether the consumers may scale their Deployment: each missing right by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.executors.kubernetes.api import ApiError
from consumer.executors.kubernetes.check_scaling import RIGHTS, check_scaling, findings
from consumer.findings import Level
from consumer.settings import Kubernetes, Scaling
from support.kubernetes import kubeconfig_of

SCALING = Scaling(deployment="d", lease="l")
ROLE = Path(__file__).parents[4] / "k8s/overlays/high-availability/autoscaler.yaml"


class Cluster:
    """Answers about rights as `lacks` says, and has a Deployment or not."""

    def __init__(self, lacks: str = "", there: bool = True, tells: bool = True) -> None:
        self.lacks, self.there, self.tells = lacks, there, tells
        self.asked: list[dict[str, Any]] = []

    async def request(self, method: str, path: str, *, body: Any = None, patience: float = 1) -> dict[str, Any]:
        if method == "GET":
            assert path == "/apis/apps/v1/namespaces/n/deployments/d/scale"
            if not self.there:
                raise ApiError(404, "NotFound", "there is none")
            return {}
        if not self.tells:
            raise ApiError(403, "Forbidden", "no")
        asked = body["spec"]["resourceAttributes"]
        self.asked.append(asked)
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        return {"status": {"allowed": f"{asked['verb']} {resource}" != self.lacks}}


async def levels(cluster: Cluster) -> list[tuple[Level, str]]:
    return [(found.level, found.text) for found in await findings(cluster, "n", SCALING)]  # type: ignore[arg-type]


async def test_all_is_there() -> None:
    cluster = Cluster()
    assert await levels(cluster) == [(Level.GOOD, "the Deployment 'd' in namespace 'n' can be scaled")]
    assert [asked.get("name") for asked in cluster.asked] == ["d", "d", "l", None, "l"]  # a create has no name
    assert all(asked["namespace"] == "n" for asked in cluster.asked)


@pytest.mark.parametrize("right", RIGHTS, ids=str)
async def test_a_missing_right_is_named_with_its_setting(right: Any) -> None:
    [(level, text)] = await levels(Cluster(lacks=str(right)))
    setting = "scaling.lease: may not" if right.resource == "leases" else "scaling.deployment: may not"
    assert level is Level.PROBLEM
    assert text.startswith(f"{setting} {right} ")


async def test_a_deployment_that_isnt_there_and_an_api_that_doesnt_tell(tmp_path: Path) -> None:
    [(level, text)] = await levels(Cluster(there=False))
    assert (level, text) == (Level.PROBLEM, "scaling.deployment: there is no Deployment 'd' in namespace 'n'")
    [(level, _)] = await levels(Cluster(tells=False))
    assert level is Level.UNKNOWN
    away = Kubernetes(kubeconfig=kubeconfig_of("http://127.0.0.1:1", tmp_path))
    [found] = await check_scaling(SCALING.model_copy(update={"namespace": "n"}), away)
    assert found.level is Level.PROBLEM


def test_the_rights_are_those_of_the_role() -> None:
    role = next(item for item in yaml.safe_load_all(ROLE.read_text()) if item["kind"] == "Role")
    given = [f"{verb} {what}" for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]]
    assert sorted(given) == sorted(str(right) for right in RIGHTS)
