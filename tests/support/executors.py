"""The executors for the contract suite. To add one: a harness in the table at the end."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.docker.executor import DockerExecutor
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.null import NullExecutor
from consumer.executors.process.executor import ProcessExecutor
from consumer.model import Exit, Plan
from consumer.ports import Execution, Executor
from consumer.settings import Kubernetes, Process
from enqueue.job import Job
from support.cluster import drop_namespace, make_namespace, user_of
from support.docker import IMAGE, engine_settings, remove_all

_numbers = itertools.count(1)

FOREVER = "while :; do sleep 0.1; done"
"""A command that runs until it is stopped, in steps that let a shell hear of a signal soon."""


@dataclass
class Harness:
    """An open executor and what a test must know of it."""

    name: str
    executor: Executor
    leftovers: Callable[[], Awaitable[list[str]]]
    """What is left of jobs: empty after `remove`."""
    image: str | None = None
    runs: bool = True
    """It runs commands; null doesn't."""
    one_stream: bool = True
    """stdout and stderr are one pipe; a container runtime has two and mixes them as it reads."""
    last: str = "true"
    """The last command of a job that writes much: a busy node's containerd may lose what comes just before the end."""
    another: Callable[[], Executor] | None = None
    """The executor of another consumer in the same place, not open yet; None if it could find nothing of ours."""
    executions: list[Execution] = field(default_factory=list)

    def plan(self, **fields: Any) -> Plan:
        """A plan for a Job with these fields."""
        if self.image is not None:
            fields.setdefault("image", self.image)
        job = Job.load(fields)
        name = f"{self.name}-job-{os.getpid()}-{next(_numbers)}"  # several processes may test on one engine
        return Plan(name, "contract", 1, "tester", job, timeout=600, start_timeout=60, grace=10)

    async def start(self, *commands: str, **fields: Any) -> Execution:
        """Start a Job; it is removed after the test."""
        plan = self.plan(commands=list(commands), **fields) if commands else self.plan(**fields)
        execution = await self.executor.start(plan)
        self.executions.append(execution)
        return execution

    async def run(self, *commands: str, **fields: Any) -> tuple[Exit, bytes]:
        """A Job from start to end: its Exit and its log."""
        execution = await self.start(*commands, **fields)
        log, exit = await asyncio.wait_for(asyncio.gather(read(execution), execution.wait()), 120)
        return exit, log


async def read(execution: Execution) -> bytes:
    """The whole log."""
    return b"".join([part async for part in execution.logs() if isinstance(part, bytes)])


@asynccontextmanager
async def process(directory: Path) -> AsyncIterator[Harness]:
    """Processes of this host."""
    base = directory / "jobs"

    def another() -> Executor:
        return ProcessExecutor(Process(directory=base), "another")

    executor = ProcessExecutor(Process(directory=base), "tester")

    async def leftovers() -> list[str]:
        return [path.name for path in base.iterdir()]

    await executor.open()
    try:
        yield Harness("process", executor, leftovers, another=another)
    finally:
        await executor.close()


@asynccontextmanager
async def null(directory: Path) -> AsyncIterator[Harness]:
    """No processes at all."""

    async def leftovers() -> list[str]:
        return []

    executor = NullExecutor()
    await executor.open()
    yield Harness("null", executor, leftovers, runs=False)
    await executor.close()


@asynccontextmanager
async def kubernetes(directory: Path) -> AsyncIterator[Harness]:
    """Real pods in a namespace of their own, as tests/cluster has them. Needs KUBECONFIG."""
    if not (named := os.environ.get("KUBECONFIG")):
        pytest.skip("KUBECONFIG isn't set: no cluster")
    kubeconfig = Path(os.environ.get("LAB_CONSUMER_KUBECONFIG") or named)
    image = os.environ.get("LONGSHORE_TEST_IMAGE", "busybox")
    admin = Api(await Access.load(Kubernetes(kubeconfig=Path(named))), rate=1000, patience=20)
    namespace = await make_namespace(admin, user_of(kubeconfig))
    requests = {"cpu": "10m", "memory": "16Mi"}
    settings = Kubernetes(namespace=namespace, kubeconfig=kubeconfig, requests=requests)
    executor = KubernetesExecutor(settings, "tester")

    def another() -> Executor:
        return KubernetesExecutor(settings, "another")

    async def leftovers() -> list[str]:
        """Pods that aren't on their way out: `remove` doesn't wait for the node."""
        pods = (await admin.request("GET", path_of(namespace, "pods")))["items"]
        return [pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    try:
        await executor.open()
        try:
            yield Harness(
                "kubernetes", executor, leftovers, image=image, one_stream=False, last="sleep 2", another=another
            )
        finally:
            await executor.close()
    finally:
        await drop_namespace(admin, namespace)
        await admin.close()


@asynccontextmanager
async def docker(directory: Path) -> AsyncIterator[Harness]:
    """Containers of a real engine. Needs DOCKER_HOST."""
    if not os.environ.get("DOCKER_HOST"):
        pytest.skip("DOCKER_HOST isn't set: no engine")
    settings = engine_settings()

    def another() -> Executor:
        return DockerExecutor(settings, "another")

    executor = DockerExecutor(settings, "tester")
    label = settings.labels["longshore-test"]

    async def leftovers() -> list[str]:
        return [str(item["Names"][0]) for item in await executor.engine.list(f"longshore-test={label}")]

    await executor.open()
    try:
        yield Harness("docker", executor, leftovers, image=IMAGE, one_stream=True, another=another)
    finally:
        await remove_all(executor.engine, label)
        await executor.close()


HARNESSES: dict[str, Callable[[Path], AbstractAsyncContextManager[Harness]]] = {
    "process": process,
    "null": null,
    "docker": docker,
    "kubernetes": kubernetes,
}
"""Name -> what makes its harness, given a directory of the test's own."""
MARKS = {"kubernetes": pytest.mark.cluster, "docker": pytest.mark.docker}
"""Those that need a real server."""


@asynccontextmanager
async def opened(name: str, directory: Path) -> AsyncIterator[Harness]:
    """The harness of that name; what it started is removed in the end."""
    async with HARNESSES[name](directory) as harness:
        yield harness
        for execution in harness.executions:
            await execution.remove()


def named(*without: str) -> list[Any]:
    """All harnesses but these, as parameters."""
    return [pytest.param(name, marks=MARKS.get(name, ())) for name in HARNESSES if name not in without]
