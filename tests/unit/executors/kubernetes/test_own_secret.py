"""A pod's Secret is its own: those of former pods of its name are there until the collector has taken them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumer.executors import names
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.manifest import build
from consumer.model import Plan
from consumer.settings import Kubernetes
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import plan_of

Open = Callable[..., Any]


def plan_with(value: str, created: str = "", **fields: Any) -> Plan:
    """A job with one sensitive variable."""
    return replace(plan_of(variables=[{"name": "T", "value": value, "sensitive": True}], **fields), created=created)


async def within(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, 20)


class Kubelet:
    """Starts pods once their Secrets are there; notes what those hold."""

    def __init__(self) -> None:
        self.saw: list[bytes] = []
        self.ends = True

    async def __call__(self, pod: FakePod) -> None:
        pod.schedule()
        secret = await pod.secret()
        assert secret is not None
        self.saw.append(base64.b64decode(secret["data"]["variable-0"]))
        pod.run()
        if self.ends:
            pod.end(1)


@pytest.fixture
def kubelet(kube: FakeKube) -> Kubelet:
    kube.script = kubelet = Kubelet()
    return kubelet


def owned(kube: FakeKube, pod: str) -> list[str]:
    """The Secrets of the pod that has this name now."""
    found = kube.stored("pods", "jobs", pod)
    assert found is not None
    secrets = [kube.stored("secrets", "jobs", name) for name in kube.names("secrets")]
    metas = [secret["metadata"] for secret in secrets if secret is not None]
    return [meta["name"] for meta in metas if meta["ownerReferences"][0]["uid"] == found["metadata"]["uid"]]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("created", [("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"), ("", "")])
async def test_an_id_that_is_used_again_runs_with_its_own_secret(
    kube: FakeKube, open_executor: Open, kubelet: Kubelet, kept: bool, created: tuple[str, str]
) -> None:
    kept = kept and created[0] != ""  # what tells no time of its making is the same job while its pod is there
    kube.collects = False
    executor = await open_executor(keep_failed=3600)
    first = await executor.start(plan_with("old", created[0]))
    await within(first.wait())
    await first.remove(failed=kept)
    assert bool(kube.names("pods")) == kept
    kubelet.ends = False
    second = await executor.start(plan_with("new", created[1]))
    await within(second.started())
    assert second.where.pod == first.where.pod
    assert kubelet.saw == [b"old", b"new"]
    [own] = owned(kube, second.where.pod)
    assert len(kube.names("secrets")) == 2
    kube.collect()
    assert kube.names("secrets") == [own]


async def test_whoever_adopts_a_pod_without_its_secret_makes_the_one_that_it_waits_for(
    kube: FakeKube, open_executor: Open, kubelet: Kubelet
) -> None:
    kube.collects = kubelet.ends = False
    first, second = await open_executor("one"), await open_executor("two")
    before = await first.start(plan_with("old"))
    await within(before.started())
    await before.remove()
    await kube.until(lambda kube: not kube.names("pods"))
    kube.fault("create secrets", delay=3600)
    asked = kube.verbs().count("create secrets")
    starting = asyncio.create_task(first.start(plan_with("new")))
    await kube.until(lambda kube: kube.verbs().count("create secrets") > asked)
    starting.cancel()  # it died between pod and Secret
    await asyncio.gather(starting, return_exceptions=True)
    adopted = await second.start(plan_with("new"))
    await within(adopted.started())
    assert kubelet.saw == [b"old", b"new"]
    assert len(kube.created) == 2
    kube.collect()
    assert kube.names("secrets") == owned(kube, adopted.where.pod)


async def test_those_who_race_for_a_pod_make_one_secret(kube: FakeKube, open_executor: Open, kubelet: Kubelet) -> None:
    executors = [await open_executor(f"c{i}") for i in range(4)]
    executions = await asyncio.gather(*(executor.start(plan_with("x")) for executor in executors))
    assert {(await within(execution.wait())).code for execution in executions} == {1}
    assert len(kube.created) == len(kube.names("secrets")) == 1
    assert kubelet.saw == [b"x"]


async def test_a_pod_of_an_older_release_gets_the_secret_of_its_own_name(
    kube: FakeKube, api: Api, open_executor: Open, kubelet: Kubelet
) -> None:
    body = build(plan_with("x"), Kubernetes()).pod
    del body["metadata"]["annotations"][names.SECRET]
    await api.request("POST", path_of("jobs", "pods"), body=body)
    executor = await open_executor()
    adopted = await executor.start(plan_with("x"))
    assert (await within(adopted.wait())).code == 1
    assert kube.names("secrets") == [adopted.where.pod]
    assert len(kube.created) == 1
