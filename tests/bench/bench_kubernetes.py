"""What a job as a pod costs beside a bare pod, in the same run: ratios, never a verdict by the clock.

    python tests/bench/bench_kubernetes.py node [JOBS]        real pods, 20 x `echo hi`, concurrency 3 and 10
    python tests/bench/bench_kubernetes.py simulated [JOBS]   pods on KWOK nodes that end at once
    python tests/bench/bench_kubernetes.py fake [JOBS]        the fake API server of the tests

`node` and `simulated` need KUBECONFIG (an admin's) and use LAB_CONSUMER_KUBECONFIG, if set, with the Role of
k8s/base. `simulated` needs a namespace `kwok` whose pods run on simulated nodes and end when the annotation
`lab/run-for` says.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import ending
from consumer_process import ConsumerProcess
from ending import in_thread, spawn
from simulated import NAMESPACE, admin, consumer_kubeconfig, simulated

from consumer.executors import names
from consumer.executors.kubernetes.manifest import sample
from consumer.settings import Kubernetes
from enqueue import Job
from support.cluster import drop_namespace, make_namespace, user_of
from support.kubernetes import kubeconfig_of
from support.redis_server import RedisServer

HERE = Path(__file__).parent
ROUNDS = 3
BARE = {
    "plain": "plain bare pods",
    "same": "bare pods that ask for all that a job's pod asks for",
    "empty": "bare pods without any volume",
}
"""The bare pods. Plain: no more than a restricted namespace asks for; the cluster gives each a volume with a token."""


@contextlib.asynccontextmanager
async def fresh_namespace() -> AsyncIterator[str]:
    async with admin() as api:
        name = await make_namespace(api, user_of(consumer_kubeconfig()))
        try:
            yield name
        finally:
            await drop_namespace(api, name)


@contextlib.contextmanager
def fake_server(*options: str) -> Iterator[Path]:
    """Its kubeconfig."""
    command = [sys.executable, str(HERE / "fake_server.py"), *options]
    process = spawn(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
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

    def __init__(self, server: RedisServer, kubeconfig: Path, namespace: str, mark: str = "") -> None:
        self.server, self.kubeconfig, self.namespace = server, kubeconfig, namespace
        self.labels = {"bench": mark} if mark else {}
        self.annotations = {"lab/run-for": "0s"} if mark else {}
        self.log_streams = 0 if mark else 500  # a log of a simulated pod that is followed never begins

    def ours(self, job: Job, count: int, concurrency: int, profile: str | None = None) -> dict[str, float]:
        more = {"annotations": self.annotations, "labels": self.labels, "log_streams": self.log_streams}
        settings = settings_of(self.kubeconfig, self.namespace, concurrency, create_rate=10_000, **more)
        settings["log_level"] = "info"
        queue = f"bench-{secrets.token_hex(4)}"
        with ConsumerProcess(self.server.fresh_url(), queue, settings, profile=profile) as consumer:
            return consumer.timed(job, count)

    def bare(self, job: Job, count: int, concurrency: int, kind: str) -> dict[str, float]:
        """`kind`: see BARE."""
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
        spec |= {"automountServiceAccountToken": False} if kind == "empty" else {}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": self.annotations, "labels": self.labels}}
        pod["spec"] = spec
        if kind == "same":
            given = settings_of(self.kubeconfig, self.namespace, 1, annotations=self.annotations, labels=self.labels)
            pod = sample(Kubernetes(**given["kubernetes"]), "bench", **job.model_dump(exclude_unset=True), init=None)
            pod["metadata"]["labels"][names.MANAGED_BY] = "bench-bare"  # no consumer is to take it for its own
        whole = {"kubeconfig": str(self.kubeconfig), "namespace": self.namespace, "pod": pod}
        whole |= {"count": count, "concurrency": concurrency}
        command = [sys.executable, str(HERE / "bare_pods.py"), json.dumps(whole)]
        process = spawn(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, error = process.communicate()
        if process.returncode:
            raise RuntimeError(error[-2000:])
        found: dict[str, float] = json.loads(out)
        return found

    def show(self, name: str, job: Job, count: int, concurrency: int, kinds: Sequence[str]) -> None:
        """Alternating rounds; prints a row of the table for each kind of bare pods, with the medians."""
        rounds = [
            {
                "ours": self.ours(job, count, concurrency),
                **{kind: self.bare(job, count, concurrency, kind) for kind in kinds},
            }
            for _ in range(ROUNDS)
        ]
        for kind in kinds:
            times = sorted(of["ours"]["seconds"] / of[kind]["seconds"] for of in rounds)
            time = statistics.median(times)
            rates = [statistics.median(count / of[side]["seconds"] for of in rounds) for side in ("ours", kind)]
            cpu = [statistics.median(1000 * of[side]["cpu"] / count for of in rounds) for side in ("ours", kind)]
            print(
                f"| {name}, concurrency {concurrency}, {BARE[kind]} | {rates[0]:.1f} | {rates[1]:.1f} | {1 / time:.2f} "
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
    parser.add_argument("--concurrency", type=int, help="3 and then 10 for node, else 200")
    parser.add_argument("--profile", help="one round of ours alone, profiled into this file")
    chosen = parser.parse_args()
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer())
        if not chosen.profile:
            print(HEAD)
        if chosen.part == "node":
            namespace = await stack.enter_async_context(fresh_namespace())
            compare = Comparison(server, consumer_kubeconfig(), namespace)
            for concurrency in (chosen.concurrency,) if chosen.concurrency else (3, 10):
                job = Job(image="busybox", commands=["echo hi"])
                await in_thread(compare.show, "`echo hi`", job, chosen.jobs or 20, concurrency, tuple(BARE))
            return
        if chosen.part == "simulated":
            compare = Comparison(server, consumer_kubeconfig(), NAMESPACE, await stack.enter_async_context(simulated()))
        else:
            compare = Comparison(server, stack.enter_context(fake_server()), "jobs", "fake")
        job, count, concurrency = (
            Job(image="busybox", commands=["true"]),
            chosen.jobs or 2000,
            chosen.concurrency or 200,
        )
        if chosen.profile:
            print(compare.ours(job, count, concurrency, chosen.profile))
            return
        await in_thread(compare.show, f"{count} jobs, {chosen.part}", job, count, concurrency, ("plain", "same"))


if __name__ == "__main__":
    ending.run(main())
