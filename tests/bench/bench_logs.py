"""A real pod's log: what longshore stores of it beside what `kubectl logs -f` gets of a pod like it; its memory.

    KUBECONFIG=... LAB_CONSUMER_KUBECONFIG=... python tests/bench/bench_logs.py [megabytes] [pods] [plain]

Each job writes so many megabytes in lines of 100 bytes as fast as it can and counts its output (not if `plain`); the
sinks are `record` and `file`. kubectl reads the log of a bare pod before, in the same run: at the same time each would
take the node's time from the other. KUBECONFIG may make namespaces and Roles.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench_kubernetes import fresh_namespace, settings_of
from consumer_process import ConsumerProcess
from ending import in_thread, run, spawn

from enqueue import Job, connect
from support.redis_server import RedisServer

LINE = 100
WRITE = "awk 'BEGIN { for (i = 0; i < %d; i++) printf \"%%07d %%091d\\n\", i, 0 }'"


def by_kubectl(namespace: str, script: str) -> tuple[int, float]:
    """What `kubectl logs -f` gets of a pod that runs this, and in how many seconds from its first to its last byte."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise SystemExit("kubectl is needed")
    name = f"bare-{secrets.token_hex(4)}"
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": "busybox",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-ec", script],
    }
    container |= {"securityContext": own, "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}
    pod["spec"] = {"restartPolicy": "Never", "containers": [container], "securityContext": security}
    subprocess.run([kubectl, "create", "-n", namespace, "-f", "-"], input=json.dumps(pod).encode(), check=True)
    size, first, last = 0, 0.0, 0.0
    while not size:  # until its container has begun
        command = [kubectl, "logs", "-f", "-n", namespace, name]
        process = spawn(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 1 << 20):
            last = time.monotonic()
            first = first or last
            size += len(data)
        process.wait()
        process.stdout.close()
    subprocess.run([kubectl, "delete", "pod", "-n", namespace, name, "--grace-period=0", "--force"], check=True)
    return size, last - first


class Grown(threading.Thread):
    """Watches the consumer's memory and the first job's file."""

    def __init__(self, consumer: ConsumerProcess, file: Path) -> None:
        super().__init__(daemon=True)
        self._consumer, self._file = consumer, file
        self.over = threading.Event()
        self.before = self.peak = consumer.resident
        self.first = self.last = 0.0
        self.size = 0

    def run(self) -> None:
        """Until told that it is over."""
        while not self.over.wait(0.05):
            self.peak = max(self.peak, self._consumer.resident)
            size = self._file.stat().st_size if self._file.exists() else 0
            if size != self.size:
                self.last = time.monotonic()
                self.first = self.first or self.last
                self.size = size


def measure(server: RedisServer, namespace: str, megabytes: int, pods: int, *, count: bool) -> None:
    """One run."""
    kubeconfig = Path(os.environ.get("LAB_CONSUMER_KUBECONFIG") or os.environ["KUBECONFIG"])
    queue, url = f"bench-{secrets.token_hex(4)}", server.fresh_url()
    lines = megabytes * 1_000_000 // LINE
    bare = by_kubectl(namespace, WRITE % lines)
    with tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = settings_of(kubeconfig, namespace, pods)
        settings |= {"log_level": "info", "logs": {"sinks": ["record", "file"]}, "files": {"directory": directory}}
        with ConsumerProcess(url, queue, settings) as consumer, connect(url, queue=queue) as producer:
            producer.enqueue(Job(commands=[WRITE % 20_000])).wait(120)  # what is loaded once
            handles = [producer.enqueue(Job(commands=[WRITE % lines], count_output=count)) for _ in range(pods)]
            watch = Grown(consumer, Path(directory) / queue / handles[0].id / "1.log")
            watch.start()
            cpu = consumer.cpu
            outcomes = [handle.wait(900) for handle in handles]
            watch.over.set()
            watch.join()
            cpu, grown = consumer.cpu - cpu, watch.peak - watch.before
            print(f"{pods} x {megabytes} MB; the consumer took {cpu:.1f} s of CPU time")
            print(f"memory: {watch.before:.0f} MB before, at most {watch.peak:.0f}: +{grown:.1f} MB")
            stored = watch.size, watch.last - watch.first
            for name, (size, took) in (("longshore", stored), ("kubectl", bare)):
                rate = size / 1e6 / max(took, 0.001)
                print(f"{name:9} {size / 1e6:7.1f} MB in {took:6.2f} s: {rate:6.2f} MB a second")
            for handle, outcome in zip(handles, outcomes, strict=True):
                log = outcome.log
                assert log is not None
                size = (Path(directory) / queue / handle.id / "1.log").stat().st_size
                others = [gap for gap in log.gaps if gap["reason"] != "cap"]
                true = size == lines * LINE or bool(others)
                print(f"job: file {size / 1e6:.1f} MB, {log.complete}, gaps but the stream's cap: {others}", end="")
                print("" if true else "  <- AN UNREPORTED GAP")


async def main() -> None:
    """One run in a namespace of its own."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    megabytes = numbers[0] if numbers else 100
    pods = numbers[1] if len(numbers) > 1 else 1
    server = RedisServer()
    server.start()
    try:
        async with fresh_namespace() as namespace:
            await in_thread(lambda: measure(server, namespace, megabytes, pods, count="plain" not in sys.argv))
    finally:
        server.stop()


if __name__ == "__main__":
    run(main())
