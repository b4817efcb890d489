"""Jobs a second from one producer: `enqueue_many` of ours beside stock rq's, in turn on one private Redis.

    python tests/bench/bench_enqueue.py [JOBS]        FAKTORY_URL names a Faktory server, or that part is left out

The same job on both sides. Beside the rates (which other work on the machine disturbs) the CPU time of this process.
"""

from __future__ import annotations

import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import redis
import rq

sys.path.insert(0, str(Path(__file__).parent.parent))

import enqueue
from enqueue import Job
from enqueue.backends.faktory_client import FaktoryClient
from support.redis_server import RedisServer

JOB = Job(image="alpine:3.20", commands=["true"], timeout=60)


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of this process's CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def ours(url: str, count: int, **options: str) -> tuple[float, float]:
    with enqueue.connect(url, queue=f"bench-{secrets.token_hex(6)}", **options) as producer:  # type: ignore[arg-type]
        jobs = [JOB.model_copy() for _ in range(count)]
        return measured(lambda: producer.enqueue_many(jobs).check())


def stock(url: str, count: int) -> tuple[float, float]:
    with redis.Redis.from_url(url) as client:
        queue = rq.Queue("bench", connection=client)

        def work() -> None:
            for start in range(0, count, 1000):
                wanted = [
                    rq.Queue.prepare_data("longshore.job", args=(JOB.payload(),), timeout=60, description="d")
                    for _ in range(min(1000, count - start))
                ]
                queue.enqueue_many(wanted)

        return measured(work)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    server = RedisServer()
    server.start()
    try:
        pairs = [(ours(server.fresh_url(), count), stock(server.fresh_url(), count)) for _ in range(3)]
        for what, at in (("jobs a second", 0), ("jobs a CPU second", 1)):
            rates = [statistics.median(count / side[at] for side in sides) for sides in zip(*pairs, strict=True)]
            ratios = sorted(b[at] / a[at] for a, b in pairs)
            print(
                f"RQ, {what}: ours {rates[0]:.0f}, stock {rates[1]:.0f}, "
                f"ratio {ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[2]:.2f})"
            )
        if url := os.environ.get("FAKTORY_URL"):
            queue = f"bench-{secrets.token_hex(6)}"
            with enqueue.connect(url, queue=queue) as producer, FaktoryClient(url) as client:
                clock, cpu = measured(lambda: producer.enqueue_many([JOB] * count).check())
                client.queue("REMOVE", queue)
            print(f"Faktory: {count / clock:.0f} jobs a second, {count / cpu:.0f} a CPU second")
    finally:
        server.close()


if __name__ == "__main__":
    main()
