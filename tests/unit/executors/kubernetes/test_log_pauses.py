"""A log that can't be read now is asked for again after a pause that grows: a kubelet in trouble is spared."""

from __future__ import annotations

import asyncio

import pytest

from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.logs import Streams, follow
from consumer.executors.kubernetes.news import News
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import read

FAILURES = 12


class Hurried:
    """A container that somebody watches. No pause passes: each is noted; it ends with the last of them."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._never = News()

    def readable(self) -> bool:
        return True

    def ended(self) -> bool:
        return len(self.pauses) >= FAILURES

    def ended_at(self) -> float | None:
        return None

    def watched(self) -> bool:
        return True

    async def changed(self, timeout: float | None = None) -> None:
        if timeout is None:
            await self._never.wait()
        else:
            self.pauses.append(timeout)
            await asyncio.sleep(0)

    def news(self) -> asyncio.Future[None]:
        return self._never.next()


async def ends(pod: FakePod) -> None:
    pod.schedule()
    pod.run()
    pod.write(b"all of it\n")
    pod.end(0)


@pytest.mark.row(34)
async def test_a_log_that_cant_be_read_is_asked_for_ever_more_seldom(kube: FakeKube, api: Api) -> None:
    kube.script = ends
    kube.fault("get pods/log", status=500, message="dial tcp: connection refused", times=FAILURES)
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "main"}]}}
    await api.request("POST", path_of("jobs", "pods"), body=body)
    await kube.until(lambda kube: kube.pods["p"].state() == "terminated")
    container = Hurried()
    assert await read(follow(api, "jobs", "p", "main", container, Streams(0))) == b"all of it\n"
    assert kube.verbs().count("get pods/log") == FAILURES + 1
    pauses = container.pauses
    assert len(pauses) == FAILURES
    assert min(pauses) >= 0.1
    assert pauses[:7] == sorted(pauses[:7])
    assert all(6 <= pause <= 15 for pause in pauses[7:])
