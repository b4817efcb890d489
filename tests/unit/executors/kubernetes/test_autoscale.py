"""One look of the autoscaler: what it asks, what it changes, and what it leaves alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from consumer.executors.kubernetes.api import ApiError
from consumer.executors.kubernetes.autoscale import Autoscaler
from consumer.model import Backlog
from consumer.scaling import Stabilizer
from consumer.settings import Scaling, Settings
from enqueue.errors import QueueUnavailable

PATH = "/apis/apps/v1/namespaces/n/deployments/d/scale"


class Cluster:
    """A Deployment's scale, and a queue."""

    def __init__(self, replicas: int, waiting: int) -> None:
        self.replicas, self.waiting = replicas, waiting
        self.refusals: list[Exception] = []
        self.asked: list[str] = []

    async def request(self, method: str, path: str, *, body: Any = None, patience: float = 1) -> dict[str, Any]:
        assert path == PATH
        self.asked.append(method)
        if self.refusals:
            raise self.refusals.pop(0)
        if method == "PUT":
            assert body["metadata"] == {"resourceVersion": "7"}  # whoever was quicker wins
            self.replicas = body["spec"]["replicas"]
        return {"metadata": {"resourceVersion": "7"}, "spec": {"replicas": self.replicas}}

    async def backlog(self) -> Mapping[str, Backlog]:
        if self.waiting < 0:
            raise QueueUnavailable("no Redis")
        return {"q": Backlog(self.waiting, 0, 0)}


async def look(cluster: Cluster, *, held: bool = True, times: int = 1) -> Autoscaler:
    settings = Settings(scaling=Scaling(deployment="d", down_window=0, max=5))
    scaler = Autoscaler(settings, cluster, lambda: 10, lambda: 0)  # type: ignore[arg-type]
    lease: Any = SimpleNamespace(held=held)
    scaler._opened = (cluster, lease, PATH)  # type: ignore[assignment]
    for _ in range(times):
        await scaler._look(cluster, PATH, Stabilizer(settings.scaling, -1), lease)  # type: ignore[arg-type]
    return scaler


@pytest.mark.parametrize(
    ("replicas", "waiting", "after", "asked"),
    [
        (1, 20, 3, ["GET", "PUT"]),
        (4, 0, 1, ["GET", "PUT"]),
        (3, 20, 3, ["GET"]),
        (0, 20, 0, ["GET"]),  # switched off by somebody
        (2, -1, 2, ["GET"]),  # nobody knows what waits
    ],
)
async def test_a_look(replicas: int, waiting: int, after: int, asked: list[str]) -> None:
    cluster = Cluster(replicas, waiting)
    await look(cluster)
    assert (cluster.replicas, cluster.asked) == (after, asked)


async def test_who_has_lost_the_lease_changes_nothing() -> None:
    cluster = Cluster(1, 20)
    scaler = await look(cluster, held=False)
    assert cluster.asked == ["GET"]
    assert [measure[:2] for measure in scaler.measures()] == [("leader", False)]


async def test_what_the_holder_shows() -> None:
    shown = {measure.name: measure.value for measure in (await look(Cluster(1, 20))).measures()}
    assert shown == {"leader": True, "replicas_wanted": 3, "replicas": 1}


async def test_a_refusal_is_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(1, 20)
    cluster.refusals = [ApiError(403, "Forbidden", "deployments.apps is forbidden") for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        await look(cluster, times=3)
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is scaled now: deployments.apps is forbidden"
    ]
    assert cluster.replicas == 3
