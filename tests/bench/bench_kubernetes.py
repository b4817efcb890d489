"""What a job as a pod costs beside a bare pod, in the same run: ratios, never a verdict by the clock.

    python tests/bench/bench_kubernetes.py node [JOBS]        real pods, 20 x `echo hi`, concurrency 3 and 10
    python tests/bench/bench_kubernetes.py simulated [JOBS]   pods on KWOK nodes that end at once
    python tests/bench/bench_kubernetes.py fake [JOBS]        the fake API server of the tests

`node` and `simulated` need KUBECONFIG (an admin's) and use LAB_CONSUMER_KUBECONFIG, if set, with the Role of
k8s/rbac.yaml. `simulated` needs a namespace `kwok` whose pods run on simulated nodes and end when the annotation
`lab/run-for` says.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from consumer_process import ConsumerProcess

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError
from consumer.settings import Kubernetes
from enqueue import Job
from support.cluster import RIGHTS, drop_namespace, make_namespace, role_and_binding, user_of
from support.kubernetes import kubeconfig_of
from support.redis_server import RedisServer

HERE = Path(__file__).parent
ROUNDS = 3


def consumer_kubeconfig() -> Path:
    return Path(os.environ.get("LAB_CONSUMER_KUBECONFIG") or os.environ["KUBECONFIG"])


@contextlib.asynccontextmanager
async def admin() -> AsyncIterator[Api]:
    api = Api(await Access.load(Kubernetes(kubeconfig=Path(os.environ["KUBECONFIG"]))), rate=1000, patience=20)
    try:
        yield api
    finally:
        await api.close()


@contextlib.asynccontextmanager
async def fresh_namespace() -> AsyncIterator[str]:
    async with admin() as api:
        name = await make_namespace(api, user_of(consumer_kubeconfig()))
        try:
            yield name
        finally:
            await drop_namespace(api, name)


async def simulated_namespace(name: str = "kwok") -> str:
    async with admin() as api:
        for item in role_and_binding(name, user_of(consumer_kubeconfig())):
            with contextlib.suppress(ApiError):  # another run has bound it already
                await api.request("POST", f"{RIGHTS}/{name}/{item['kind'].lower()}s", body=item)
    return name


@contextlib.contextmanager
def fake_server() -> Iterator[Path]:
    command = [sys.executable, str(HERE / "fake_server.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with tempfile.TemporaryDirectory() as directory:
        try:
            assert process.stdout is not None
            yield kubeconfig_of(process.stdout.readline().strip(), Path(directory))
        finally:
            process.kill()
            process.wait()


def settings_of(kubeconfig: Path, namespace: str, concurrency: int, **kubernetes: Any) -> dict[str, Any]:
    own = {"namespace": namespace, "kubeconfig": str(kubeconfig), "rate": 10_000, "image": "busybox", **kubernetes}
    own.setdefault("requests", {"cpu": "10m", "memory": "16Mi"})
    return {"executor": "kubernetes", "concurrency": concurrency, "kubernetes": own, "log_level": "warning"}


class Comparison:
    """Rounds of the same work by the consumer and by the bare loop."""

    def __init__(self, server: RedisServer, kubeconfig: Path, namespace: str, annotations: dict[str, str]) -> None:
        self.server, self.kubeconfig, self.namespace, self.annotations = server, kubeconfig, namespace, annotations
        self.log_streams = 0 if annotations else 500  # a log of a simulated pod that is followed never begins

    def ours(self, job: Job, count: int, concurrency: int, profile: str | None = None) -> dict[str, float]:
        more = {"annotations": self.annotations, "create_rate": 10_000, "log_streams": self.log_streams}
        settings = settings_of(self.kubeconfig, self.namespace, concurrency, **more)
        settings["log_level"] = "info"
        queue = f"bench-{secrets.token_hex(4)}"
        with ConsumerProcess(self.server.fresh_url(), queue, settings, profile=profile) as consumer:
            return consumer.timed(job, count)

    def bare(self, job: Job, count: int, concurrency: int) -> dict[str, float]:
        container = {
            "name": "main",
            "image": "busybox",
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-ec", *job.commands],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        }
        security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {"restartPolicy": "Never", "containers": [container], "securityContext": security}
        spec |= {"automountServiceAccountToken": False, "enableServiceLinks": False}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": self.annotations}, "spec": spec}
        whole = {"kubeconfig": str(self.kubeconfig), "namespace": self.namespace, "pod": pod}
        whole |= {"count": count, "concurrency": concurrency}
        command = [sys.executable, str(HERE / "bare_pods.py"), json.dumps(whole)]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return found

    def show(self, name: str, job: Job, count: int, concurrency: int) -> None:
        """Alternating rounds; prints a row of the table with the medians."""
        rounds = [(self.ours(job, count, concurrency), self.bare(job, count, concurrency)) for _ in range(ROUNDS)]
        times = sorted(ours["seconds"] / bare["seconds"] for ours, bare in rounds)
        time = statistics.median(times)
        rates = [statistics.median(count / side[i]["seconds"] for side in rounds) for i in (0, 1)]
        cpu = [statistics.median(1000 * side[i]["cpu"] / count for side in rounds) for i in (0, 1)]
        print(
            f"| {name}, concurrency {concurrency} | {rates[0]:.1f} | {rates[1]:.1f} | {1 / time:.2f} "
            f"| {time:.2f} ({times[0]:.2f} to {times[-1]:.2f}) | {cpu[0]:.2f} | {cpu[1]:.2f} |",
            flush=True,
        )


HEAD = """| | jobs/s | bare pods/s | share | time beside bare (median of three) | our CPU, ms a job | bare |
|---|---|---|---|---|---|---|"""


async def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("node", "simulated", "fake"))
    parser.add_argument("jobs", nargs="?", type=int)
    parser.add_argument("--concurrency", type=int, default=200, help="for simulated and fake")
    parser.add_argument("--profile", help="one round of ours alone, profiled into this file")
    chosen = parser.parse_args()
    with RedisServer() as server, contextlib.ExitStack() as stack:
        if not chosen.profile:
            print(HEAD)
        if chosen.part == "node":
            async with fresh_namespace() as namespace:
                compare = Comparison(server, consumer_kubeconfig(), namespace, {})
                for concurrency in (3, 10):
                    job = Job(image="busybox", commands=["echo hi"])
                    await asyncio.to_thread(compare.show, "`echo hi`", job, chosen.jobs or 20, concurrency)
            return
        if chosen.part == "simulated":
            namespace = await simulated_namespace()
            kubeconfig = consumer_kubeconfig()
        else:
            namespace, kubeconfig = "jobs", stack.enter_context(fake_server())
        compare = Comparison(server, kubeconfig, namespace, {"lab/run-for": "0s"})
        job, count = Job(image="busybox", commands=["true"]), chosen.jobs or 2000
        if chosen.profile:
            print(compare.ours(job, count, chosen.concurrency, chosen.profile))
            return
        await asyncio.to_thread(compare.show, f"{count} jobs, {chosen.part}", job, count, chosen.concurrency)


if __name__ == "__main__":
    asyncio.run(main())
