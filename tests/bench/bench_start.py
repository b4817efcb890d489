"""How soon a consumer works after its start, and how soon it holds what a dead one held.

    python tests/bench/bench_start.py start [ROUNDS]      from the process's start to its first claim, by executor
    python tests/bench/bench_start.py takeover [PODS]     kill -9 with 500 pods in flight: until all are held again

Without a cluster `start` measures the executor `process` alone. With one: KUBECONFIG (an admin's),
LAB_CONSUMER_KUBECONFIG, if set, with the Role of k8s/base, and a namespace `kwok` with simulated nodes (KWOK).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import ending
import redis.asyncio
from consumer_process import ConsumerProcess, compiling, fill
from ending import spawn
from simulated import admin, consumer_settings, pods_with, simulated

from enqueue import Job
from enqueue.wire import rq as wire
from support.consuming import until
from support.redis_server import RedisServer

JOB = Job(image="busybox", commands=["true"], timeout=3600)
LIBRARIES = """
import gc, sys
gc.set_threshold(500_000, 20, 20)
sys.modules["rich"] = sys.modules["opentelemetry"] = None
import typer, structlog, pydantic_settings, redis.asyncio
class Model(pydantic_settings.BaseSettings):
    field: int = 1
Model()
"""
"""What no consumer can do without, imported as `longshore` does, and nothing more."""


async def first_claim(server: RedisServer, settings: dict[str, Any]) -> tuple[float, float]:
    """Seconds, and the process's CPU seconds, from its start until a job that waits for it is claimed."""
    url, queue = server.fresh_url(), "start"
    with redis.Redis.from_url(url) as client:
        [job_id] = fill(client, queue, JOB, 1)
        began = time.perf_counter()
        with ConsumerProcess(url, queue, settings, ready=False) as consumer:
            while not client.hexists(wire.job_key(job_id), "longshore_token"):
                if consumer.process.poll() is not None or time.perf_counter() - began > 60:
                    raise RuntimeError(consumer.log.read_text()[-2000:])
                await asyncio.sleep(0.002)
            took = time.perf_counter() - began, consumer.cpu
            await until(lambda: client.zcard(f"rq:finished:{queue}"), 60)  # nothing is left behind
    return took


def libraries() -> tuple[float, float]:
    """Seconds, and CPU seconds, of a process that imports them and ends."""
    began = time.perf_counter()
    process = spawn([sys.executable, "-c", LIBRARIES], env=compiling())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


async def start(server: RedisServer, rounds: int) -> None:
    """Medians, in turn with those of the libraries that all of them need."""
    print("| executor | first claim after, s (median) | from | to | CPU seconds by then |\n|---|---|---|---|---|")
    async with contextlib.AsyncExitStack() as stack:
        process = {"executor": "process", "process": {"directory": str(server.directory / "jobs")}}
        settings = {"process": process | {"metrics_port": None}, "process, metrics on": process}
        if os.environ.get("KUBECONFIG"):
            mark = await stack.enter_async_context(simulated())
            settings["kubernetes, metrics on"] = consumer_settings(mark, 10, stay=False)
        for name, chosen in settings.items():
            chosen["state_directory"] = str(server.directory / "state")
            found, floor = [], []
            for _ in range(rounds + 1):
                found.append(await first_claim(server, chosen))
                floor.append(libraries())
            show(name, found[1:])  # the first one compiles
            show("its libraries alone", floor[1:])


def show(name: str, found: list[tuple[float, float]]) -> None:
    times, cpu = sorted(took for took, _ in found), statistics.median(used for _, used in found)
    print(f"| {name} | {statistics.median(times):.2f} | {times[0]:.2f} | {times[-1]:.2f} | {cpu:.2f} |", flush=True)


async def takeover(server: RedisServer, count: int) -> None:
    """All of them run, their consumer is killed, the next one is started."""
    url = server.fresh_url()
    async with simulated() as mark, admin() as api, redis.asyncio.Redis.from_url(url) as client:
        settings = consumer_settings(mark, count, stay=True) | {"state_directory": str(server.directory / "state")}

        async def running(ids: list[str]) -> list[str | None]:
            """Who holds each, if it runs."""
            async with client.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hget(wire.job_key(job_id), "longshore")
                records = [json.loads(record) if record else {} for record in await pipe.execute()]
            return [r["where"].get("consumer") if r.get("status") == "running" else None for r in records]

        with ConsumerProcess(url, mark, settings | {"name": "first"}) as first:
            ids = first.fill(JOB, count)

            async def all_run() -> bool:
                await asyncio.sleep(0.5)
                return set(await running(ids)) == {"first"}

            await until(all_run, 600)
            before = await pods_with(api, mark)
            first.process.kill()
            first.process.wait()
        async with client.pubsub() as told:
            await told.psubscribe("longshore:record:*")
            await told.get_message(timeout=5)
            began, left = time.perf_counter(), set(ids)
            with ConsumerProcess(url, mark, settings | {"name": "second"}, ready=False) as second:
                async with asyncio.timeout(120):
                    while left:
                        message = await told.get_message(ignore_subscribe_messages=True, timeout=1)
                        if message is not None and message["data"] == b"running":
                            left.discard(message["channel"].decode().rpartition(":")[2])
                took, cpu = time.perf_counter() - began, second.cpu
                doubled = len(set(await pods_with(api, mark)) - set(before))
                held = (await running(ids)).count("second")
        print("| pods | held again | other pods | after, s | CPU seconds by then |\n|---|---|---|---|---|")
        print(f"| {count} | {held} | {doubled} | {took:.2f} | {cpu:.2f} |")


async def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("start", "takeover"))
    parser.add_argument("count", nargs="?", type=int)
    chosen = parser.parse_args()
    with RedisServer() as server:
        if chosen.part == "start":
            await start(server, chosen.count or 5)
        else:
            await takeover(server, chosen.count or 500)


if __name__ == "__main__":
    ending.run(main())
