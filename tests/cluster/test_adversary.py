"""Thirty jobs of all kinds on real queues and real pods, while their consumers are killed, stopped and restarted.

`LONGSHORE_TEST_SEEDS` (such as `1,2,3`) names the seeds; one by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
import rq

from consumer.executors.kubernetes.api import Api, path_of
from consumer.tasks import end
from enqueue import Job, Status, aio
from enqueue.wire import faktory as wire
from support.adversary import SECRET, Case, Consumers, cases, wrong
from support.consuming import until
from support.faktory_servers import Server
from support.history import History, What, violations
from support.witnesses import keep_all, monitored, watch_pods

pytestmark = pytest.mark.cluster
SEEDS = [int(text) for text in os.environ.get("LONGSHORE_TEST_SEEDS", "1").split(",")]
LIMIT = 200
"""Seconds until all is settled."""
SLOTS = 6


class Queue(Protocol):
    """How jobs get onto a queue, and whether it holds none any more."""

    url: str
    soon: bool

    async def put(self, case: Case, job: dict[str, Any]) -> str:
        """Enqueue it; its id."""

    async def held(self, ids: dict[str, str]) -> list[str]:
        """What the queue holds that it mustn't, now that all have ended; `ids`: each job's status."""


def kept_for_ever(client: redis.Redis, ids: Iterable[str]) -> list[str]:
    """Keys of these jobs that never expire."""
    return [f"{key!r} never expires" for id in ids for key in client.keys(f"*{id}*") if client.ttl(key) < 0]


class OnRq:
    soon = True

    def __init__(self, url: str, name: str) -> None:
        self.url, self._name = url, name
        self._client = redis.Redis.from_url(url)

    async def put(self, case: Case, job: dict[str, Any]) -> str:
        queue = rq.Queue(self._name, connection=self._client)
        if case.fate == "delay":
            found = queue.enqueue_in(timedelta(seconds=6), "longshore.job", job, job_timeout=60)
        else:
            found = queue.enqueue("longshore.job", job, job_timeout=job.get("timeout", 100))
        return str(found.id)

    async def held(self, ids: dict[str, str]) -> list[str]:
        queue = rq.Queue(self._name, connection=self._client)
        found = [f"{queue.name} holds {id}" for id in queue.job_ids]
        for registry in (queue.started_job_registry, queue.scheduled_job_registry, queue.deferred_job_registry):
            found += [f"{registry.key} holds {id}" for id in registry.get_job_ids(cleanup=False)]
        ends = {"succeeded": "finished", "failed": "failed", "cancelled": "canceled"}
        for id, status in ids.items():
            job = rq.job.Job.fetch(id, connection=self._client)
            if job.get_status() != ends[status]:
                found.append(f"rq says {job.get_status()} of {id}, which {status}")
        found += [
            f"{key!r} never expires" for id in ids for key in self._client.keys(f"*{id}*") if self._client.ttl(key) < 0
        ]
        return found


class OnFaktory:
    soon = False

    def __init__(self, url: str, records: str, server: Server) -> None:
        self.url, self._server = url, server
        self.name = server.name()
        self._client = redis.Redis.from_url(records)

    async def put(self, case: Case, job: dict[str, Any]) -> str:
        body = {k: v for k, v in job.items() if k != "no_such_field"}
        built = wire.build_job(Job.load(body), self.name, at=time.time() + 6 if case.fate == "delay" else None)
        # A job that a killed consumer was just about to be given comes back when its reservation is over.
        built |= {"args": [job], "reserve_for": 60, "retry": 5}
        await self._server.push(built)
        return str(built["jid"])

    async def held(self, ids: dict[str, str]) -> list[str]:
        found = ["the queue isn't empty"] if await self._server.size(self.name) else []
        found += [f"{key} is held" for key in self._client.zrange(f"longshore:claims:{self.name}", 0, -1)]
        for id, status in ids.items():
            for kind in ("retries", "scheduled"):
                if await self._server.entry(kind, id):  # type: ignore[arg-type]
                    found.append(f"{id} is in {kind}")
            if (await self._server.entry("dead", id) is not None) != (status == "failed"):
                found.append(f"{id} {status}, and is " + ("not " if status == "failed" else "") + "in the dead set")
        found += [
            f"{key!r} never expires" for id in ids for key in self._client.keys(f"*{id}*") if self._client.ttl(key) < 0
        ]
        return found


@pytest.fixture(params=["rq", pytest.param("faktory", marks=pytest.mark.faktory)])
async def queue(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Queue]:
    """The queue, real."""
    if request.param == "rq":
        yield OnRq(redis_url, f"longshore-test-{secrets.token_hex(6)}")
        return
    url = os.environ.get("FAKTORY_URL")
    if not url:
        pytest.skip("FAKTORY_URL isn't set: no Faktory")
    server = Server(url, None)
    yield OnFaktory(url, redis_url, server)
    await server.clean()


async def meddle(case: Case, handle: aio.AsyncHandle, admin: Api, namespace: str) -> None:
    """What happens to the job meanwhile."""
    what, _, when = case.fate.partition("_")
    if what == "cancel":
        if when != "queued":
            wanted = (Status.STARTING, Status.RUNNING) if when == "starting" else (Status.RUNNING,)
            await until(lambda: _has(handle, lambda record: record.status in wanted or record.status.final), LIMIT)
        await handle.cancel()
    if what in ("delete", "evict"):
        await until(lambda: _has(handle, lambda record: record.status is Status.RUNNING and record.log.stream), LIMIT)
        pod = (await handle.record()).where.pod or ""
        if what == "delete":
            await admin.request("DELETE", path_of(namespace, "pods", pod), body={"gracePeriodSeconds": 1})
        else:
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
            await admin.request("POST", path_of(namespace, "pods", pod, "eviction"), body=body)


async def _has(handle: aio.AsyncHandle, condition: Any) -> bool:
    return bool(condition(await handle.record()))


async def _nothing(admin: Api, namespace: str) -> bool:
    return not await left_in(admin, namespace)


async def left_in(admin: Api, namespace: str) -> list[str]:
    """Pods and Secrets of jobs that are still there."""
    found = []
    for kind in ("pods", "secrets"):
        items = (await admin.request("GET", path_of(namespace, kind)))["items"]
        found += [f"{kind}/{item['metadata']['name']}" for item in items if item["metadata"]["name"] != "kept"]
    return found


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_job_ends_once_and_as_it_should(
    seed: int,
    queue: Queue,
    redis_url: str,
    admin: Api,
    namespace: str,
    consumer_kubeconfig: Path,
    image: str,
    tmp_path: Path,
) -> None:
    rng, history = random.Random(seed), History(slots=SLOTS, secrets=[SECRET.encode()])
    kept = {"metadata": {"name": "kept"}, "stringData": {"there": "value"}}
    await admin.request("POST", path_of(namespace, "secrets"), body=kept)
    on_rq = isinstance(queue, OnRq)
    name = queue._name if isinstance(queue, OnRq) else queue.name  # type: ignore[attr-defined]
    config = {
        "queue_url": queue.url,
        "queues": [name],
        "executor": "kubernetes",
        "concurrency": SLOTS,
        "shutdown_grace": 2,
        "log_level": "debug",
        "state_directory": str(tmp_path / "state"),
        "jobs": {"grace": 1},
        "kubernetes": {
            "namespace": namespace,
            "kubeconfig": str(consumer_kubeconfig),
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "image_pull_grace": 2,
            "allowed_secrets": ["kept"],
            "allowed_node_selectors": ["*"],
            "sweep_interval": 4,
            "lease_seconds": 6,
        },
    } | ({} if on_rq else {"records_url": redis_url})
    watching = asyncio.create_task(watch_pods(admin, namespace, history))
    todo = cases(rng, retries=queue.soon)
    handles: dict[str, aio.AsyncHandle] = {}
    problems: list[str] = []
    consumers = Consumers(config, tmp_path, 3)
    try:
        async with (
            monitored(redis_url, history),
            consumers,
            aio.connect(queue.url, records=None if on_rq else redis_url, queue=name) as producer,
            asyncio.TaskGroup() as tasks,
        ):
            for case in todo:
                job = {"image": image, "timeout": 100, "retries": 0} | case.job
                handles[case.name] = producer.handle(await queue.put(case, job))
            history.accepted = {handle.id for handle in handles.values()}
            meddling = [tasks.create_task(meddle(case, handles[case.name], admin, namespace)) for case in todo]
            disturbing = tasks.create_task(consumers.disturb(rng, 10))
            began = time.monotonic()
            for handle in handles.values():
                with contextlib.suppress(TimeoutError):
                    await handle.wait(max(1, began + LIMIT - time.monotonic()))
            settled = time.monotonic() - began
            await disturbing
            for task in meddling:
                task.cancel()
            with contextlib.suppress(TimeoutError):
                await until(lambda: _nothing(admin, namespace), 60)
            history.left = await left_in(admin, namespace)
            ids = {}
            for case in todo:
                handle = handles[case.name]
                record = await handle.record()
                log = b"".join([part async for part in handle.logs()])
                history.stored[handle.id] = log
                problems += wrong(case, record, log)
                ids[handle.id] = record.status.value
            await until(lambda: watching.done() or len(history.of(What.DELETED)) >= len(history.of(What.CREATED)), 10)
            await consumers.terminate()
            problems += await queue.held(ids)
    finally:
        await end(watching)
    keep_all(redis_url, history)
    apart = {handles[case.name].id for case in todo if case.fate in ("delay", "cancel_queued")}
    history.events = [event for event in history.events if not (event.what is What.TOLD and event.job in apart)]
    if not on_rq:  # a slot is free when the end is recorded; Faktory is told a moment later
        ends = [event for event in history.of(What.RECORD) if event.value["status"] not in ("starting", "running")]
        history.events += [replace(event, what=What.RELEASED, name=event.job) for event in ends]
    # A pod that never starts is deleted by its consumer, which may be killed before it says so: it comes again.
    never = {handles[case.name].id for case in todo if case.exit_code is None and not case.fate}
    history.events = [event for event in history.events if not (event.what is What.CREATED and event.job in never)]
    print(f"seed {seed}: {len(todo)} jobs settled in {settled:.0f} s; {', '.join(consumers.history)}")
    said = consumers.logs()
    problems += [f"{name} tells the secret" for name, text in said.items() if SECRET in text]
    problems += [f"{name} has a stack trace" for name, text in said.items() if "Traceback" in text]
    named = {handle.id: case for case, handle in handles.items()}
    problems += [" ".join(named.get(word, word) for word in text.split(" ")) for text in violations(history)]
    assert not problems, "\n".join(problems)
