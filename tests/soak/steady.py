"""A steady load on one queue: jobs of many kinds, each of them followed to its end and looked at there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import redis.asyncio

from consumer.executors.kubernetes.api import Api, ApiError, path_of
from enqueue import Job, aio
from enqueue.record import Record
from enqueue.wire import faktory as wire
from soak.ledger import Ledger
from soak.servers import Up
from support.adversary import SECRET, Case, cases, wrong
from support.history import FINAL

RESERVED = 60
"""Seconds of a reservation at Faktory: what a killed consumer had fetched, and not claimed, comes after its end."""
LOOK = 0.5
"""Seconds between two looks at the jobs under way."""
OVERDUE = 400.0
"""Seconds until a job must have ended: its own time, a reservation, Faktory's backoff, and the faults."""


def real_cases(rng: random.Random) -> Iterator[Case]:
    """For pods that really run."""
    eat = {"commands": ['x=aaaaaaaaaaaaaaaa; while :; do x="$x$x"; done']}
    limits = {"requests": {"memory": "16Mi"}, "limits": {"memory": "32Mi"}}
    while True:
        yield from (case for case in cases(rng) if case.fate not in ("delay", "raw"))
        memory = ("out_of_memory",)
        yield Case("memory", eat | {"resources": limits}, "failed", memory[0], 137, memory, [])


def simulated_cases(rng: random.Random) -> Iterator[Case]:
    """For pods that are simulated (KWOK); they write nothing."""
    while True:
        fate = rng.choices(["ok", "code", "again", "deadline", "cancel", "secret"], [80, 8, 3, 3, 4, 4])[0]
        run_for = {"lab/run-for": f"{rng.randint(0, 8000)}ms"}
        if fate in ("ok", "secret"):
            more = {"variables": [{"name": "TOKEN", "value": SECRET, "sensitive": True}]} if fate == "secret" else {}
            yield Case(f"simulated-{fate}", {"commands": ["true"], "annotations": run_for, **more}, gaps=True)
        elif fate in ("code", "again"):
            tries, code = 1 + (fate == "again"), rng.randint(1, 120)
            job = {"commands": ["true"], "annotations": run_for | {"lab/exit-code": str(code)}, "retries": tries - 1}
            yield Case(f"simulated-{fate}", job, "failed", "exit_code", code, ("exit_code",) * tries, gaps=True)
        else:
            stays: dict[str, Any] = {"commands": ["true"], "labels": {"lab/stay": "true"}}
            if fate == "deadline":
                reason, fields = "deadline", stays | {"timeout": 5}
                yield Case("simulated-deadline", fields, "failed", reason, 137, (reason,), gaps=True)
            else:
                yield Case("simulated-cancel", stays, "cancelled", "requested", None, ("requested",), gaps=True,
                           fate="cancel_running")  # fmt: skip


@dataclass
class Live:
    """A job under way. `record`: as it was last seen."""

    id: str
    case: Case
    began: float
    record: dict[str, Any] = field(default_factory=dict)
    meddling: asyncio.Task[None] | None = None


@dataclass
class Place:
    """A queue with its consumers, and where its pods are. `store`: the Redis with its Records."""

    name: str
    queue: str
    store: str
    faktory: str
    namespace: str
    real: bool
    slots: int
    folder: Path
    ledger: Ledger
    most: int
    """Jobs under way at a time."""
    pause: float
    """Mean seconds between two jobs."""


class Load:
    """Puts jobs there and follows them. `redis_up` and `queue_up` are held by whoever restarts the servers."""

    def __init__(self, place: Place, admin: Api, image: str, redis_up: Up, queue_up: Up) -> None:
        self._place, self._admin, self._image = place, admin, image
        self._redis_up, self._queue_up = redis_up, queue_up
        self._client = redis.asyncio.Redis.from_url(place.store)
        self._prefix = "longshore:job:" if place.faktory else "rq:job:"
        self._live: dict[str, Live] = {}
        self.ids: dict[str, str] = {}
        """Each job's case."""
        self.twice: set[str] = set()
        self.outside: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.wrongs: list[str] = []
        self._producing = True
        self._looked = asyncio.Event()
        """Is set for a moment whenever `_watch` has looked at the jobs under way."""

    async def produce(self, rng: random.Random, until: float) -> None:
        """Until that moment of the monotonic clock."""
        place = self._place
        found = real_cases(rng) if place.real else simulated_cases(rng)
        async with aio.connect(
            place.faktory or place.store, records=place.store if place.faktory else None, queue=place.queue
        ) as producer:
            watching = asyncio.create_task(self._watch(producer))
            try:
                while time.monotonic() < until:
                    await asyncio.sleep(rng.expovariate(1 / place.pause))
                    if len(self._live) < place.most:
                        await self._put(producer, next(found))
                    else:
                        self.counts["held back"] += 1
                self._producing = False
                await watching
            finally:
                watching.cancel()
                for live in self._live.values():
                    if live.meddling:
                        live.meddling.cancel()
                await self._client.aclose()

    async def _put(self, producer: aio.AsyncProducer, case: Case) -> None:
        fields = {"image": self._image, "timeout": 100, "retries": 0} | case.job
        job = Job.load(fields)
        async with self._queue_up.by("put"):
            if self._place.faktory:
                built = wire.build_job(job, self._place.queue) | {"reserve_for": RESERVED, "retry": 5}
                assert producer._faktory is not None
                assert await producer._faktory.push_many([built]) == {}  # it is up, so that nothing is in doubt
                handle = producer.handle(str(built["jid"]))
            else:
                async with self._redis_up.by("put"):
                    handle = await producer.enqueue(job)
        self._live[handle.id] = live = Live(handle.id, case, time.monotonic())
        self.ids[handle.id] = case.name
        if case.exit_code is None and not case.fate:
            self.twice.add(handle.id)
        if case.fate == "cancel_queued":
            self.outside.add(handle.id)
        self.counts["enqueued"] += 1
        if case.fate:
            live.meddling = asyncio.create_task(self._meddle(live, handle))

    async def _meddle(self, live: Live, handle: aio.AsyncHandle) -> None:
        what, _, when = live.case.fate.partition("_")
        wanted = {"queued": (), "starting": ("starting", "running")}.get(when, ("running",))
        while wanted and live.record.get("status") not in (*wanted, *FINAL):
            await self._looked.wait()
        if what == "cancel":
            async with self._redis_up.by("cancel"):
                await handle.cancel()
                self.counts["cancelled"] += 1
            return
        while not ((live.record.get("log") or {}).get("stream") and (live.record.get("where") or {}).get("pod")):
            if live.record.get("status") in FINAL:
                return
            await self._looked.wait()  # until then nobody could tell that it ran
        pod = live.record["where"]["pod"]
        path = path_of(self._place.namespace, "pods", pod)
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        while True:
            try:
                if what == "delete":
                    await self._admin.request("DELETE", path, body={"gracePeriodSeconds": 1})
                else:
                    await self._admin.request("POST", path + "/eviction", body=eviction)
                return
            except ApiError as error:
                if error.status == 404:
                    return
                await self._looked.wait()

    async def _watch(self, producer: aio.AsyncProducer) -> None:
        """Looks at all jobs under way; ends when no more come, and all have ended or are overdue."""
        now = time.monotonic()
        while self._producing or any(now - live.began < OVERDUE for live in self._live.values()):
            await asyncio.sleep(LOOK)
            now = time.monotonic()
            ids = list(self._live)
            async with self._redis_up.by("look"):
                pipe = self._client.pipeline(transaction=False)
                for job_id in ids:
                    pipe.hmget(self._prefix + job_id, "longshore", "longshore_ending")
                rows = await pipe.execute()
            for job_id, (record, ending) in zip(ids, rows, strict=True):
                live = self._live[job_id]
                live.record = json.loads(record) if record else {}
                if live.record.get("status") in FINAL and not ending:
                    await self._ended(live, producer.handle(job_id))
            self._looked.set()
            self._looked = asyncio.Event()
        self.wrongs += [
            f"I10: {live.id} ({live.case.name}) is {live.record.get('status')} after {now - live.began:.0f} s"
            for live in self._live.values()
        ]

    async def _ended(self, live: Live, handle: aio.AsyncHandle) -> None:
        async with self._redis_up.by("read"):
            record = await handle.record()
            log = b"".join([part async for part in handle.logs()]) if self._place.real else b""
        del self._live[live.id]
        if live.meddling:
            if live.meddling.done() and (error := live.meddling.exception()):
                self.wrongs.append(f"{live.id}: nothing could be done to it: {error!r}")
            live.meddling.cancel()
        self.counts["ended"] += 1
        self.counts["log lines"] += log.count(b"\n")
        self.counts[f"kind {live.case.name.rstrip('0123456789-')}"] += 1
        self.slowest = max(self.slowest, time.monotonic() - live.began)
        found = [f"{live.id}: {text}" for text in wrong(live.case, _excused(live.case, record, self.counts), log)]
        if found:
            found[-1] += f"; attempts {[(a.attempt, a.reason, a.message) for a in record.attempts]}"
        self.wrongs += found


def _excused(case: Case, record: Record, counts: Counter[str]) -> Record:
    """What docs/reasons.md lets the same thing be called when its witness was busy or away."""
    if case.name == "memory" and record.reason == "signal" and record.exit_code == 137:
        counts["memory told as a signal"] += 1
        attempts = tuple(each.model_copy(update={"reason": "out_of_memory"}) for each in record.attempts)
        return record.model_copy(update={"reason": "out_of_memory", "attempts": attempts})
    return record


async def left(admin: Api, place: Place, mark: str) -> list[str]:
    """Pods and Secrets of this place's jobs that are still there."""
    found: list[str] = []
    for kind in ("pods", "secrets") if place.real else ("pods",):
        query = {} if place.real else {"labelSelector": f"bench={mark}"}
        items = (await admin.request("GET", path_of(place.namespace, kind), query=query))["items"]
        found += [f"I5: {kind}/{i['metadata']['name']} is left" for i in items if i["metadata"]["name"] != "kept"]
    return found


def told_secrets(url: str) -> Iterator[str]:
    """Keys with the secret in them, payloads aside."""
    payloads = (b"data", b"longshore_payload", b"longshore_ending")
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(count=500):
            with contextlib.suppress(redis.ResponseError):  # neither a hash nor a stream
                kind = client.type(key)
                value: Any = client.xrange(key) if kind == b"stream" else client.hgetall(key)
                if kind == b"hash":
                    value = {name: text for name, text in value.items() if name not in payloads}
                if SECRET.encode() in repr(value).encode():
                    yield f"I7: {key!r} holds a secret"
