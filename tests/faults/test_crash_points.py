"""A consumer is killed before and after each step of a job; another one goes on, and every invariant holds."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from enqueue import Job, Variable, aio
from support.crashing import Nursery, nursery
from support.fakekubelet import FakePod
from support.history import History, What, violations
from support.kubernetes import kubeconfig_of
from support.witnesses import WitnessedKube, keep_all, monitored

SECRET = "hunter2-hunter2"
LINES = [b"line %d\n" % number for number in range(1, 41)]
pytestmark = pytest.mark.asyncio(loop_scope="module")
EARLY = ("S1", "S2", "S3", "S4", "S5")
STEPS = [
    ("S1 rq", "after"),
    *((step, when) for step in ("S2 plan", "S2 record", "S3 create", "S4 secret") for when in ("before", "after")),
    *((step, when) for step in ("S5 running", "S5 log", "S6 log end") for when in ("before", "after")),
    ("S6 ended", "after"),
    ("S8 rq", "before"),
    ("S9 delete", "after"),
]
JOB = Job(
    image="busybox",
    commands=["run"],
    variables=[Variable(name="TOKEN", value=SECRET, sensitive=True)],
    timeout=60,
    retries=0,
)


class Pods:
    """What the pods of a test do: half of their lines, then they wait for `go_on`."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, pod: FakePod) -> None:
        pod.schedule()
        await pod.secret()
        pod.run()
        pod.write(b"the token is " + SECRET.encode() + b"\n")
        pod.write(b"".join(LINES[:20]))
        await self.go_on.wait()
        pod.write(b"".join(LINES[20:]) + b"::set-outcome-var answer=42\n")
        pod.end(3)


def settings_for(kube: WitnessedKube, url: str, directory: Path, name: str, **more: Any) -> dict[str, Any]:
    return {
        "queue_url": url,
        "executor": "kubernetes",
        "name": name,
        "concurrency": 5,
        "state_directory": directory / "state",
        "kubernetes": {"kubeconfig": kubeconfig_of(kube.url, directory), "namespace": "jobs"},
        "logs": {"interval": 0.05},
        **more,
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def consumers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    async with nursery(tmp_path_factory.mktemp("consumers")) as found:
        yield found


async def finish(history: History, handle: Any, kube: WitnessedKube, url: str) -> None:
    """Everything that the checker wants to know at the end."""
    with contextlib.suppress(TimeoutError):
        await kube.until(lambda kube: not kube.names("pods") and not kube.names("secrets"), 10)
    history.left = kube.names("pods") + kube.names("secrets")
    history.accepted.add(handle.id)
    history.stored[handle.id] = b"".join([part async for part in handle.logs()])
    history.written[handle.id] = [b"the token is ***\n", *LINES]
    history.secrets = [SECRET.encode()]
    keep_all(url, history)


@pytest.mark.parametrize(("step", "when"), STEPS, ids=lambda value: value)
async def test_rq(step: str, when: str, consumers: Nursery, redis_url: str, tmp_path: Path) -> None:
    history, pods = History(slots=5), Pods()
    if not step.startswith(EARLY):
        pods.go_on.set()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        aio.connect(redis_url) as queue,
    ):
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, redis_url, tmp_path, "first"), (step, when))
        assert await first.ended() == -signal.SIGKILL
        pods.go_on.set()
        second = await consumers.start(settings_for(kube, redis_url, tmp_path, "second"))
        outcome = await handle.wait(20)
        await second.started()
        await finish(history, handle, kube, redis_url)
        second.send(signal.SIGTERM)
        assert await second.ended() == 0
    assert violations(history) == []
    assert (outcome.status.value, outcome.reason, outcome.exit_code) == ("failed", "exit_code", 3)
    assert outcome.variables == {"answer": "42"}
    assert len(kube.created) == 1
    assert history.stored[handle.id].count(b"\n") == 41
    assert history.last(handle.id)["attempt"] == 1
    assert len(history.of(What.TOLD)) == 1
