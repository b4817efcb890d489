"""Many pods in one consumer, and how soon a pod's end is in its Record. Pods are simulated (KWOK).

    python tests/bench/bench_scale.py inflight [PODS]    5,000 that go on: memory, event loop lag, heartbeats
    python tests/bench/bench_scale.py inflight --fake    the same on the fake API server of the tests, without TLS
    python tests/bench/bench_scale.py latency [JOBS]     from the end in the API (our own watch) to the terminal Record

Needs KUBECONFIG (an admin's), uses LAB_CONSUMER_KUBECONFIG, if set, with the Role of k8s/base, and a namespace
`kwok` with simulated nodes, whose pods end when the annotation `lab/run-for` says, and go on with the label `lab/stay`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import ending
import redis.asyncio
from bench_kubernetes import fake_server, settings_of
from consumer_process import ConsumerProcess
from simulated import NAMESPACE, admin, consumer_settings, simulated

from consumer.executors.kubernetes.api import path_of
from consumer.executors.kubernetes.watch import lines_of
from consumer.tasks import end
from enqueue import Job
from support.consuming import until
from support.redis_server import RedisServer

JOB = Job(image="busybox", commands=["true"], timeout=3600)
QUIET_SECONDS = 20
"""How long all pods just run, for the lag without any creates."""


def share(values: list[float], part: float) -> float:
    """The value below which this part of all values lies."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


async def inflight(server: RedisServer, count: int, *, fake: bool) -> None:
    """Memory and lag with so many pods."""
    url, lag = server.fresh_url(), server.directory / "lag"
    async with contextlib.AsyncExitStack() as stack:
        if fake:
            mark, kubeconfig = "fake", stack.enter_context(fake_server("stay"))
            settings = settings_of(kubeconfig, "jobs", count, create_rate=10_000, log_streams=0)
        else:
            mark = await stack.enter_async_context(simulated())
            settings = consumer_settings(mark, count, stay=True)
        settings |= {"shutdown_grace": 0, "log_level": "info"}
        with ConsumerProcess(url, mark, settings, lag=lag) as consumer:
            began, idle = time.perf_counter(), consumer.resident
            keys = [f"rq:job:{job_id}" for job_id in consumer.fill(JOB, count)]
            worker = consumer.redis.smembers("rq:workers").pop()
            beats: list[float] = []

            async def running() -> bool:
                await asyncio.sleep(0.5)  # the look isn't cheap, and the machine is ours to share
                beats.append(age_of(consumer, worker))
                with consumer.redis.pipeline(transaction=False) as pipe:
                    for key in keys:
                        pipe.hget(key, "longshore_status")
                    return set(pipe.execute()) == {b"running"}

            await until(running, 1200)
            took, rows = time.perf_counter() - began, lag.read_text().count("\n")
            cpu = consumer.cpu
            for _ in range(QUIET_SECONDS):
                beats.append(age_of(consumer, worker))
                await asyncio.sleep(1)
            quiet = (consumer.cpu - cpu) / QUIET_SECONDS
            samples = [float(row) for row in lag.read_text().splitlines()]
            print("| pods | all running after | MB resident (idle before) | loop lag p99 while they start, ms ", end="")
            print("| while they run | CPU while they run | oldest heartbeat seen |\n|---|---|---|---|---|---|---|")
            print(
                f"| {count} | {took:.0f} s | {consumer.resident:.0f} ({idle:.0f}) | {share(samples[:rows], 0.99):.1f} "
                f"| {share(samples[rows:], 0.99):.1f} | {100 * quiet:.1f} % | {max(beats):.1f} s |"
            )


def age_of(consumer: ConsumerProcess, worker: bytes) -> float:
    """Seconds since the consumer's last heartbeat."""
    from enqueue.wire.rq import from_utc

    return time.time() - (from_utc(consumer.redis.hget(worker, "last_heartbeat")) or time.time())


async def latency(server: RedisServer, count: int) -> None:
    """Both moments are seen by this process."""
    url = server.fresh_url()
    ended: dict[str, float] = {}
    recorded: dict[str, float] = {}

    async def watch(mark: str) -> None:
        path = path_of(NAMESPACE, "pods")
        async with admin() as api:
            version = (await api.request("GET", path, query={"limit": "1"}))["metadata"]["resourceVersion"]
            query = {"watch": "true", "labelSelector": f"bench={mark}", "resourceVersion": version}
            async with api.stream(path, query) as response:
                async for line in lines_of(response):
                    pod = json.loads(line)["object"]
                    if pod["status"].get("phase") in ("Succeeded", "Failed"):
                        ended.setdefault(pod["metadata"]["annotations"]["longshore.dev/job-id"], time.perf_counter())

    async def listen() -> None:
        async with redis.asyncio.Redis.from_url(url) as client, client.pubsub() as pubsub:
            await pubsub.psubscribe("longshore:record:*")
            async for message in pubsub.listen():
                if message["type"] == "pmessage" and message["data"] in (b"succeeded", b"failed"):
                    recorded.setdefault(message["channel"].decode().rpartition(":")[2], time.perf_counter())

    async with simulated() as mark:
        tasks = [asyncio.create_task(watch(mark)), asyncio.create_task(listen())]
        try:
            with ConsumerProcess(url, mark, consumer_settings(mark, 20, stay=False, run_for="1s")) as consumer:
                consumer.fill(JOB, count)
                await until(lambda: len(recorded) >= count or any(task.done() for task in tasks), 600)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await end(*tasks)
    late = [1000 * (recorded[i] - ended[i]) for i in recorded if i in ended]
    print("| jobs | median, ms | p99, ms | longest, ms |\n|---|---|---|---|")
    print(f"| {len(late)} | {share(late, 0.5):.0f} | {share(late, 0.99):.0f} | {max(late):.0f} |")


async def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("inflight", "latency"))
    parser.add_argument("count", nargs="?", type=int)
    parser.add_argument("--fake", action="store_true", help="inflight on the fake API server")
    chosen = parser.parse_args()
    assert chosen.fake or os.environ.get("KUBECONFIG"), "KUBECONFIG isn't set"
    with RedisServer() as server:
        if chosen.part == "inflight":
            await inflight(server, chosen.count or 5000, fake=chosen.fake)
        else:
            await latency(server, chosen.count or 200)


if __name__ == "__main__":
    ending.run(main())
