"""Each job has exactly one end, whatever dies: many jobs, while consumers and the server are killed beside stock RQ.

    python tests/soak/queue_proof.py [rq|faktory] [--jobs 20000] [--seed 7] [--faktory-restart COMMAND]

A private Redis with an append-only file; for `faktory` also the server at FAKTORY_URL (`--faktory-store`: the URL of
its own Redis, for the count), or else the fake one of the tests. Consumers are processes of their own: some with the
executor `null`, some whose jobs write down each run of theirs. They get SIGKILL, SIGSTOP and SIGTERM, and Redis gets
SIGKILL, at moments that follow from the seed. At the end `count_records.py` counts, by what lies in the queue alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

sys.path.insert(0, str(Path(__file__).parent.parent))

import enqueue
from enqueue import Job, Order
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.wire import faktory as wire
from support.adversary import Consumers
from support.consuming import until
from support.fake_faktory import FakeFaktory
from support.redis_server import RedisServer
from support.stock import stock_beside

PATIENT = 20
"""Tries for the infrastructure's faults: a job of `null` whose consumer dies can't be gone on with."""
STALLED = 5.0
"""Seconds without progress after which the fake Faktory ends the reservations of which nobody knows."""
TIMEOUT = 30
"""Seconds that a job may run; with it Faktory's reservations end."""


@dataclass
class Proof:
    """What is to be done; all that is drawn by lot follows from `seed`."""

    kind: str = "rq"
    jobs: int = 20_000
    running: int = 500
    """How many of the jobs write down that they ran."""
    seed: int = 0
    hits: int = 30
    """How often a consumer is hit, of each of the two groups half as often."""
    redis_kills: int = 3
    consumers: tuple[int, int] = (3, 3)
    """With the executor `null`, and with `process`."""
    pace: float = 1.0
    limit: float = 1800
    faktory_url: str = ""
    faktory_store: str = ""
    faktory_restart: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    async def run(self, folder: Path) -> tuple[int, str]:
        """The counting script's exit code and what it printed."""
        rng, name = random.Random(self.seed), f"proof-{secrets.token_hex(4)}"
        self.queues = (f"{name}-null", f"{name}-run")
        self.runs = folder / "runs"
        self.runs.touch()
        # A killed process loses nothing that it has written, and `no` never waits before it writes.
        self.server = RedisServer("--appendonly", "yes", "--appendfsync", "no", "--save", "")
        self.server.start()
        try:
            async with contextlib.AsyncExitStack() as stack:
                self.fake = None
                if self.kind == "faktory" and not self.faktory_url:
                    self.fake = await stack.enter_async_context(FakeFaktory(patience=1.0, punctual=True))
                    self.faktory_url = self.fake.url
                expected = await asyncio.to_thread(self._enqueue, rng)
                await self._work(rng, folder)
                if self.fake is not None:
                    expected["sets"] = self._fakes_sets(self.fake)
                return await asyncio.to_thread(self._count, folder, expected)
        finally:
            self.server.close()

    def _jobs(self, rng: random.Random) -> Iterator[Order]:
        """Half of those that write are plain; others are slow, fail once, or fail for good."""
        common: dict[str, Any] = {"infrastructure_retries": PATIENT, "timeout": TIMEOUT}
        write = f'echo "$LONGSHORE_JOB_ID $LONGSHORE_ATTEMPT" >> {self.runs}'
        retries = PATIENT if self.kind == "faktory" else 2  # Faktory knows one number for all tries
        for _ in range(self.running):
            then = rng.choice(["true", "true", "true", f"sleep {rng.uniform(0.5, 3):.1f}",
                               "test $LONGSHORE_ATTEMPT -ge 2", "exit 3" if self.kind == "rq" else "true"])  # fmt: skip
            yield Order(Job(commands=[write, then], retries=retries, **common), queue=self.queues[1])
        for _ in range(self.jobs - self.running):
            yield Order(Job(commands=["true"], retries=retries, **common), queue=self.queues[0])

    def _enqueue(self, rng: random.Random) -> dict[str, Any]:
        orders = list(self._jobs(rng))
        if self.kind == "faktory":
            ids = self._push(orders)
        else:
            with enqueue.connect(self.server.url()) as producer:
                ids = [handle.id for handle in producer.enqueue_many(orders).check()]
        self.ids = ids
        return {
            "kind": self.kind, "redis": self.server.url(), "queues": self.queues, "runs": str(self.runs),
            "jobs": {job_id: order.queue for job_id, order in zip(ids, orders, strict=True)},
            "fail": [job_id for job_id, order in zip(ids, orders, strict=True) if "exit 3" in order.job.commands],
            "ran": ids[: self.running], "faktory": self.faktory_store, "sets": {},
        }  # fmt: skip

    def _push(self, orders: list[Order]) -> list[str]:
        """With short reservations: what a consumer had fetched, and not claimed, when it died comes after their end."""
        jobs = [wire.build_job(order.job, order.queue or "") | {"reserve_for": 2 * TIMEOUT} for order in orders]
        with FaktoryClient(self.faktory_url) as client:
            for start in range(0, len(jobs), 1000):
                assert not client.push_many(jobs[start : start + 1000])
        return [job["jid"] for job in jobs]

    async def _work(self, rng: random.Random, folder: Path) -> None:
        common = {
            "queue_url": self.faktory_url or self.server.url(), "state_directory": str(folder / "state"),
            "shutdown_grace": 1, "process": {"directory": str(folder / "processes")},
        }  # fmt: skip
        if self.kind == "faktory":
            common["records_url"] = self.server.url()
        groups = []
        for number, (executor, slots) in enumerate((("null", 200), ("process", 10))):
            place = folder / executor
            place.mkdir()
            config = {**common, "executor": executor, "concurrency": slots, "queues": [self.queues[number]]}
            groups.append(Consumers(config, place, self.consumers[number], prefix=executor))
        async with contextlib.AsyncExitStack() as stack:
            for group in groups:
                await stack.enter_async_context(group)
            ended = asyncio.create_task(self._all_ended())
            beside = [asyncio.create_task(self._kill_redis(random.Random(rng.random())))]
            if self.kind == "rq":
                stock = stock_beside(self.server.url(), self.counts, self.queues, pause=0.5, info=10)
                beside.append(asyncio.create_task(stock))
            if self.faktory_restart:
                beside.append(asyncio.create_task(self._restart_faktory()))
            if self.fake is not None:
                beside.append(asyncio.create_task(self._lead(self.fake)))
            hitting = [
                asyncio.create_task(group.disturb(random.Random(rng.random()), self.hits // 2, self.pace))
                for group in groups
            ]
            try:
                await asyncio.gather(*hitting, ended)
                if (fake := self.fake) is not None:  # a job that was handed out twice is given back by its second owner
                    with contextlib.suppress(TimeoutError):
                        await until(lambda: not fake.working, self.limit)
                for group in groups:
                    self.counts.update(line.split()[0] for line in group.history)
                    await group.terminate()
            finally:
                for task in (*hitting, ended, *beside):
                    task.cancel()
                await asyncio.gather(*hitting, ended, *beside, return_exceptions=True)

    async def _all_ended(self) -> None:
        """Waits until every job's Record is final."""
        left, began = set(self.ids), time.monotonic()
        while left:
            if time.monotonic() - began > self.limit:
                print(f"{len(left)} jobs haven't ended after {self.limit:g} s", flush=True)
                return  # the count says which
            await asyncio.sleep(0.5)
            with contextlib.suppress(redis.RedisError):
                over = await asyncio.to_thread(self._ended, list(left))
                left.difference_update(over)
                self.counts["ended"] = len(self.ids) - len(left)
        self.counts["seconds of work"] = round(time.monotonic() - began)

    def _ended(self, ids: list[str]) -> list[str]:
        prefix = "rq:job:" if self.kind == "rq" else "longshore:job:"
        with redis.Redis.from_url(self.server.url()) as client, client.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(prefix + job_id, "longshore", "longshore_ending")
            over = (b'"status":"succeeded"', b'"status":"failed"', b'"status":"cancelled"')
            found = zip(ids, pipe.execute(), strict=True)
            heads = {job_id: fields[0].partition(b'"times"')[0] for job_id, fields in found
                     if fields[0] and not fields[1]}  # fmt: skip
        return [job_id for job_id, head in heads.items() if any(word in head for word in over)]

    async def _kill_redis(self, rng: random.Random) -> None:
        """At moments that are spread over the run; it comes back within a second."""
        while self.counts["redis kills"] < self.redis_kills:
            await asyncio.sleep(rng.uniform(4, 12) * self.pace)
            await asyncio.to_thread(self.server.stop, kill=True)
            await asyncio.sleep(rng.uniform(0, 1))
            await asyncio.to_thread(self.server.start)
            self.counts["redis kills"] += 1

    async def _restart_faktory(self) -> None:
        await asyncio.sleep(10 * self.pace)
        process = await asyncio.create_subprocess_shell(self.faktory_restart, stdout=subprocess.DEVNULL)
        assert await process.wait() == 0, self.faktory_restart
        self.counts["faktory restarts"] += 1

    async def _lead(self, fake: FakeFaktory) -> None:
        """What passes by itself on a real server: retries come back; jobs that a dead connection got do as well."""
        before, since = -1, time.monotonic()
        while True:
            await asyncio.sleep(1)
            fake.promote()
            now = self.counts["ended"]
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > STALLED:
                with contextlib.suppress(redis.RedisError):
                    held = await asyncio.to_thread(self._held)
                    for jid in set(fake.working) - held:
                        fake.expire(jid)
                        self.counts["reservations ended"] += 1

    def _held(self) -> set[str]:
        with redis.Redis.from_url(self.server.url()) as client:
            return {jid.decode() for queue in self.queues for jid in client.zrange(f"longshore:claims:{queue}", 0, -1)}

    def _fakes_sets(self, fake: FakeFaktory) -> dict[str, list[str]]:
        sets = {name: [job["jid"] for job in getattr(fake, name)] for name in ("retries", "dead", "scheduled")}
        return {**sets, "working": list(fake.working)} | {
            name: [job["jid"] for job in fake.queues[name]] for name in self.queues
        }

    def _count(self, folder: Path, expected: dict[str, Any]) -> tuple[int, str]:
        (folder / "expected.json").write_text(json.dumps(expected))
        script = Path(__file__).parent / "count_records.py"
        command = [sys.executable, str(script), str(folder / "expected.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


def main() -> int:
    """Prove it, and print the seed and the figures."""
    parser = argparse.ArgumentParser(description="See the head of this file.")
    parser.add_argument("kind", nargs="?", default="rq", choices=("rq", "faktory"))
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--running", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--hits", type=int, default=30)
    parser.add_argument("--redis-kills", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1800, help="seconds until it gives up")
    parser.add_argument("--faktory-store", default="", help="URL of Faktory's own Redis, for the count")
    parser.add_argument("--faktory-restart", default="", help="a command that restarts Faktory, run once")
    parser.add_argument("--keep", type=Path, help="an empty folder for what the consumers log")
    chosen = vars(parser.parse_args())
    keep = chosen.pop("keep")
    proof = Proof(**chosen, faktory_url=os.environ.get("FAKTORY_URL", "") if chosen["kind"] == "faktory" else "")
    print(f"{proof.kind}, {proof.jobs} jobs, --seed {proof.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="longshore-proof-") as folder:
        code, said = asyncio.run(proof.run(keep or Path(folder)))
    print(json.dumps({"seconds": round(time.monotonic() - began), **proof.counts}))
    print(said, end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
