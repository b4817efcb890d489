"""What the tests of dying consumers share: a job with a secret and a log, its pod, settings, and the last look."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from enqueue import Job, Variable, aio
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.history import History
from support.kubernetes import kubeconfig_of
from support.witnesses import keep_all

SECRET = "hunter2-hunter2"
LINES = [b"line %d\n" % number for number in range(1, 41)]
EARLY = ("S1", "S2", "S3", "S4", "S5")
"""Steps before the end of the pod."""
JOB = Job(
    image="busybox",
    commands=["run"],
    variables=[Variable(name="TOKEN", value=SECRET, sensitive=True)],
    timeout=60,
    retries=0,
)

SWEEPS = {"sweep_interval": 0.2, "lease_seconds": 0.5}
"""For what a consumer leaves that dies last of all."""


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


def settings_for(kube: FakeKube, url: str, directory: Path, name: str, **more: Any) -> dict[str, Any]:
    """Settings of a consumer process."""
    return {
        "queue_url": url,
        "executor": "kubernetes",
        "name": name,
        "concurrency": 5,
        "state_directory": directory / "state",
        "kubernetes": {"kubeconfig": kubeconfig_of(kube.url, directory), "namespace": "jobs", **SWEEPS},
        "logs": {"interval": 0.05},
        **more,
    }


async def finish(history: History, handles: list[aio.AsyncHandle], kube: FakeKube, records: str) -> None:
    """Everything that the checker wants to know at the end."""
    with contextlib.suppress(TimeoutError):
        await kube.until(lambda kube: not kube.names("pods") and not kube.names("secrets"), 10)
    history.left = kube.names("pods") + kube.names("secrets")
    history.secrets = [SECRET.encode()]
    for handle in handles:
        history.accepted.add(handle.id)
        history.stored[handle.id] = b"".join([part async for part in handle.logs()])
        history.written[handle.id] = [b"the token is ***\n", *LINES]
    keep_all(records, history)
