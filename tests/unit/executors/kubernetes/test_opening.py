"""What the executor needs when it is opened: rights, a namespace, a server that is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from consumer.errors import ExecutorFault, SetupError
from consumer.executors.kubernetes.executor import KubernetesExecutor
from support.fakekube import FakeKube


@pytest.mark.parametrize(
    "verb", ["list pods", "watch pods", "create pods", "delete pods", "get pods/log", "create secrets"]
)
async def test_a_missing_right_is_named(kube: FakeKube, settings: Callable[..., Any], verb: str) -> None:
    kube.forbidden.add(verb)
    with pytest.raises(SetupError) as caught:
        await KubernetesExecutor(settings(), "c").open()
    action, _, resource = verb.partition(" ")
    assert f"the user 'consumer' may not {action} {resource} in namespace 'jobs': bind the Role" in str(caught.value)


@pytest.mark.parametrize(("refused", "slow"), [("create pods", "list pods"), ("list pods", "create pods")])
async def test_a_start_that_fails_leaves_nothing_running(
    kube: FakeKube, settings: Callable[..., Any], refused: str, slow: str
) -> None:
    kube.forbidden.add(refused)
    kube.fault(slow, hang=True)
    ours = {"Informer.open", "check", "probe"}
    with pytest.raises(SetupError, match="may not"):
        await asyncio.wait_for(KubernetesExecutor(settings(), "c").open(), 60)
    assert not [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") in ours]


async def test_a_right_that_is_missing_just_after_an_outage_is_waited_for(
    kube: FakeKube, settings: Callable[..., Any]
) -> None:
    """A server that has just started may know no Roles yet: a consumer that starts meanwhile must not end for that."""
    executor = KubernetesExecutor(settings(patience=0.1), "c")
    await kube.stop()
    with pytest.raises(ExecutorFault):
        await executor.open()
    await kube.start()
    kube.forbidden.add("list pods")
    with pytest.raises(ExecutorFault, match="may not list pods"):
        await executor.open()
    kube.forbidden.clear()
    await executor.open()
    await executor.close()


async def test_a_right_that_a_server_refuses_before_it_is_ready_is_waited_for_within_bounds(
    kube: FakeKube, settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.forbidden.add("list pods")
    kube.ready = False
    executor = KubernetesExecutor(settings(), "c")
    with pytest.raises(ExecutorFault, match="may not list pods"):
        await executor.open()
    monkeypatch.setattr("consumer.executors.kubernetes.rights.RIGHTS_LATE", 0.0)
    with pytest.raises(SetupError, match="may not list pods"):
        await executor.open()


async def test_a_missing_namespace_and_a_missing_cluster_are_named(
    kube: FakeKube, settings: Callable[..., Any]
) -> None:
    with pytest.raises(SetupError, match="namespace 'nowhere' doesn't exist"):
        await KubernetesExecutor(settings(namespace="nowhere"), "c").open()
    lost = settings()
    await kube.stop()
    with pytest.raises(ExecutorFault, match=r"no Kubernetes API at http://127\.0\.0\.1:[0-9]+: connection refused"):
        await KubernetesExecutor(lost, "c").open()
    with pytest.raises(SetupError, match="kubeconfig /none doesn't exist"):
        await KubernetesExecutor(lost.model_copy(update={"kubeconfig": type(lost.kubeconfig)("/none")}), "c").open()
