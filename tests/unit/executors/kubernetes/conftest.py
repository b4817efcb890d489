"""The executor on the fake API server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.settings import Kubernetes
from support.fakekube import FakeKube
from support.kubernetes import kubeconfig_of


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    """A fake API server with the namespace `jobs`."""
    async with FakeKube("jobs") as kube:
        yield kube


@pytest.fixture
async def api(kube: FakeKube) -> AsyncIterator[Api]:
    """A client of the fake that gives up quickly."""
    api = Api(Access(kube.url, "jobs"), rate=10_000, patience=5)
    yield api
    await api.close()


@pytest.fixture
def settings(kube: FakeKube, tmp_path: Path) -> Callable[..., Kubernetes]:
    """Settings for the fake."""

    def make(**fields: Any) -> Kubernetes:
        defaults = {"kubeconfig": kubeconfig_of(kube.url, tmp_path), "namespace": "jobs", "rate": 10_000, "patience": 5}
        return Kubernetes(**(defaults | fields))

    return make


@pytest.fixture
async def open_executor(settings: Callable[..., Kubernetes]) -> AsyncIterator[Callable[..., Any]]:
    """Opens executors on the fake; they are closed at the end."""
    opened: list[KubernetesExecutor] = []

    async def open_one(consumer: str = "consumer-1", **fields: Any) -> KubernetesExecutor:
        executor = KubernetesExecutor(settings(**fields), consumer)
        await executor.open()
        opened.append(executor)
        return executor

    yield open_one
    for executor in opened:
        await executor.close()
