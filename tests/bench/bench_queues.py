"""No-op jobs a second: one consumer with the executor `null` beside stock RQ's workers and PyPI's faktory worker.

    python tests/bench/bench_queues.py [JOBS] [rq] [fork] [faktory]        for faktory FAKTORY_URL names a server

Both sides of a ratio run in turn, three rounds, on a private Redis. Stock workers run a function that does nothing; the
one that forks gets a twentieth of the jobs. Ours collects garbage as `longshore run` does.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis
import rq

sys.path.insert(0, str(Path(__file__).parent.parent))

from consumer.app import run_consumer
from consumer.cli import GARBAGE
from consumer.settings import load_settings
from consumer.telemetry import set_up_logging
from enqueue import Job
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.wire import faktory as faktory_wire
from enqueue.wire import rq as rq_wire
from support.consuming import until
from support.redis_server import RedisServer

JOB = Job(image="alpine:3.20", commands=["true"], timeout=60)
SLOTS = 500
PYTHONS_OWN = gc.get_threshold()


def fill_rq(client: redis.Redis, queue: str, count: int) -> None:
    with client.pipeline(transaction=False) as pipe:
        for _ in range(count):
            job_id, fields = rq_wire.new_job(JOB, queue)
            pipe.hset(rq_wire.job_key(job_id), mapping=fields)
            pipe.rpush(rq_wire.queue_key(queue), job_id)
        pipe.execute()


async def consume(done: Callable[[], bool], **flags: object) -> float:
    """Seconds until `done`, from the consumer's start."""
    gc.collect()
    gc.set_threshold(*GARBAGE)
    stop, began = asyncio.Event(), time.perf_counter()
    task = asyncio.create_task(run_consumer(load_settings(executor="null", concurrency=SLOTS, **flags), stop))
    await until(lambda: asyncio.to_thread(done), seconds=600)
    took = time.perf_counter() - began
    stop.set()
    await task
    gc.set_threshold(*PYTHONS_OWN)
    return took


def ours_on_rq(server: RedisServer, count: int) -> float:
    url, queue = server.fresh_url(), "bench"
    client = redis.Redis.from_url(url)
    fill_rq(client, queue, count)
    took = asyncio.run(consume(lambda: client.zcard(f"rq:finished:{queue}") >= count, queue_url=url, queues=queue))
    return count / took


def stock_on_rq(server: RedisServer, count: int, worker: type[rq.worker.BaseWorker] = rq.SimpleWorker) -> float:
    client = redis.Redis.from_url(server.fresh_url())
    queue = rq.Queue("bench", connection=client)
    queue.enqueue_many([rq.Queue.prepare_data("time.monotonic") for _ in range(count)])
    logging.disable(logging.INFO)
    began = time.perf_counter()
    worker([queue], connection=client).work(burst=True, logging_level="ERROR")
    return count / (time.perf_counter() - began)


def ours_on_faktory(url: str, server: RedisServer, count: int, *, records: bool) -> float:
    queue = f"bench-{secrets.token_hex(6)}"
    with FaktoryClient(url) as client:
        client.push_many([faktory_wire.build_job(JOB, queue) for _ in range(count)])
        before = client.info()["faktory"]["total_processed"]
        store = {"records_url": server.fresh_url()} if records else {"no_records": True}

        def done() -> bool:
            return bool(client.info()["faktory"]["total_processed"] - before >= count)

        return count / asyncio.run(consume(done, queue_url=url, queues=queue, **store))


def stock_on_faktory(url: str, count: int) -> float:
    import faktory

    queue, left, done = f"bench-{secrets.token_hex(6)}", [count], threading.Event()

    def nothing(payload: object) -> None:
        left[0] -= 1
        if left[0] <= 0:
            done.set()

    with FaktoryClient(url) as client:
        client.push_many([faktory_wire.build_job(JOB, queue) for _ in range(count)])
    worker = faktory.Worker(faktory=url, queues=[queue], concurrency=64, use_threads=True)
    worker.register("longshore.job", nothing)
    began = time.perf_counter()
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    done.wait()
    took = time.perf_counter() - began
    worker.disconnect()
    thread.join(10)
    return count / took


def compare(name: str, ours: Callable[[], float], stock: Callable[[], float]) -> None:
    pairs = [(ours(), stock()) for _ in range(3)]
    rates = [statistics.median(side) for side in zip(*pairs, strict=True)]
    ratios = sorted(a / b for a, b in pairs)
    spread = f"ratio {ratios[1]:.1f} ({ratios[0]:.1f} to {ratios[2]:.1f})"
    print(f"{name}: ours {rates[0]:.0f}/s, stock {rates[1]:.0f}/s, {spread}", flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    parts = sys.argv[2:] or ["rq", "fork", "faktory"]
    set_up_logging("warning", "console")
    server = RedisServer()
    server.start()
    try:
        if "rq" in parts:
            compare("RQ, SimpleWorker", lambda: ours_on_rq(server, count), lambda: stock_on_rq(server, count))
        if "fork" in parts:
            few = max(1, count // 20)
            compare("RQ, Worker", lambda: ours_on_rq(server, count), lambda: stock_on_rq(server, few, rq.Worker))
        url = os.environ.get("FAKTORY_URL") if "faktory" in parts else None
        if url:
            for records in (False, True):
                compare(
                    f"Faktory {'with' if records else 'without'} records, PyPI faktory with 64 threads",
                    lambda records=records: ours_on_faktory(url, server, count, records=records),  # type: ignore[misc]
                    lambda: stock_on_faktory(url, count),
                )
    finally:
        server.close()
    os._exit(0)  # the stock worker's threads never end


if __name__ == "__main__":
    main()
