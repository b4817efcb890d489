"""What a consumer costs that has nothing to start: an idle queue, and the heartbeats of many jobs. On a private Redis.

    python tests/bench/bench_idle.py [SECONDS]

Idle: CPU time of a `longshore run` without work, then from the enqueueing of single jobs to their claims, as their
Records tell. Heartbeats: CPU time of this process for `beat` of 5,000 claims, each `BEAT_INTERVAL` seconds.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parent.parent))

from consumer_process import ConsumerProcess

from consumer.queues.rq import RqQueue
from consumer.settings import Retention
from consumer.worker import BEAT_INTERVAL
from enqueue import Job, connect
from enqueue.times import epoch
from support.consuming import until
from support.redis_server import RedisServer

JOB = Job(image="alpine:3.20", commands=["true"], timeout=60)
SAMPLES = 200
IN_FLIGHT = 5000


def idle(url: str, seconds: float) -> None:
    with ConsumerProcess(url, "idle", {"executor": "null"}) as consumer, connect(url, queue="idle") as producer:
        time.sleep(3)  # its start is over
        before = consumer.cpu
        time.sleep(seconds)
        share = (consumer.cpu - before) / seconds
        waits = []
        for _ in range(SAMPLES):
            time.sleep(random.uniform(0.02, 0.1))
            began = time.time()
            handle = producer.enqueue(JOB)
            handle.wait(10)
            waits.append((epoch(handle.record.times.claimed) or 0) - began)
    waits.sort()
    ms = [1000 * waits[int(part * (SAMPLES - 1))] for part in (0.5, 0.99)]
    print(f"idle: {share:.2%} of a core; enqueue to claim: median {ms[0]:.1f} ms, p99 {ms[1]:.1f} ms", flush=True)


async def heartbeats(url: str) -> None:
    with redis.Redis.from_url(url) as client, connect(url, queue="beats") as producer:
        producer.enqueue_many([JOB] * IN_FLIGHT).check()
        server = client.info("server")["process_id"]
    queue = RqQueue(url, ["beats"], consumer="bench", max_bytes=1_000_000, retention=Retention())
    await queue.open()
    claims = []
    await until(lambda: _more(queue, claims), 60)
    ours, theirs = [], []
    for _ in range(10):
        cpu, at = time.process_time(), _cpu(server)
        assert not await queue.beat(claims)
        ours.append((time.process_time() - cpu) / BEAT_INTERVAL)
        theirs.append((_cpu(server) - at) / BEAT_INTERVAL)
    await queue.close()
    print(
        f"heartbeats of {len(claims)} jobs: {statistics.median(ours):.2%} of a core ({min(ours):.2%} to "
        f"{max(ours):.2%}); Redis {statistics.mean(theirs):.2%}"
    )


async def _more(queue: RqQueue, claims: list[object]) -> bool:
    claims += await queue.claim(IN_FLIGHT - len(claims))
    return len(claims) == IN_FLIGHT


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20
    with RedisServer() as server:
        idle(server.fresh_url(), seconds)
        asyncio.run(heartbeats(server.fresh_url()))


if __name__ == "__main__":
    main()
