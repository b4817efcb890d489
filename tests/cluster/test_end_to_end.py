"""Jobs from both queues as real pods: enqueued by each kind of producer, read back with nothing but its own means."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faktory
import pytest
import redis
import rq
from rq.serializers import JSONSerializer

from consumer.executors.kubernetes.api import Api, path_of
from enqueue import Job, Status, Variable, aio
from support.consuming import consuming, until

pytestmark = [pytest.mark.cluster]

COMMANDS = [
    "echo from a pod; cat conf/a.txt",
    "test $TOKEN = s3cret-token",
    "echo the secret is $TOKEN",
    "echo ::set-outcome-var answer=42",
    "exit 3",
]


def job_for(image: str) -> Job:
    return Job(
        image=image,
        commands=COMMANDS,
        variables=[Variable(name="TOKEN", value="s3cret-token", sensitive=True)],
        files=[{"path": "conf/a.txt", "contents": "from a file\n"}],
        timeout=120,
    )


LOG = b"from a pod\nfrom a file\nthe secret is ***\n"


@pytest.fixture
def faktory_url() -> str:
    url = os.environ.get("FAKTORY_URL")
    if not url:
        pytest.skip("FAKTORY_URL isn't set: no Faktory")
    return url


@pytest.fixture
def flags(namespace: str, consumer_kubeconfig: Path) -> dict[str, Any]:
    requests = {"cpu": "10m", "memory": "16Mi"}
    return {
        "executor": "kubernetes",
        "kubernetes": {"namespace": namespace, "kubeconfig": consumer_kubeconfig, "requests": requests},
    }


async def read(parts: Any) -> bytes:
    return b"".join([part async for part in parts])


async def nothing_left(admin: Api, namespace: str) -> None:
    for kind in ("pods", "secrets"):
        items = (await admin.request("GET", path_of(namespace, kind)))["items"]
        assert [i["metadata"]["name"] for i in items if not i["metadata"].get("deletionTimestamp")] == []


async def test_enqueue_on_rq(redis_url: str, flags: dict[str, Any], admin: Api, namespace: str, image: str) -> None:
    async with consuming(redis_url, **flags), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(job_for(image))
        assert await read(handle.logs(follow=True)) == LOG
        outcome = await handle.wait(60)
        record = await handle.record()
        assert (outcome.status, outcome.reason, outcome.exit_code) == (Status.FAILED, "exit_code", 3)
        assert outcome.variables == {"answer": "42"}
        assert record.where.namespace == namespace
        assert record.where.pod
        assert record.where.node
        ok = await (await queue.enqueue(Job(image=image, commands=["true"]))).wait(60)
        assert ok.succeeded
    await nothing_left(admin, namespace)


@pytest.mark.parametrize("serializer", [None, JSONSerializer])
async def test_plain_rq(
    redis_url: str, redis_client: redis.Redis, flags: dict[str, Any], image: str, serializer: Any
) -> None:
    stock = rq.Queue("default", connection=redis_client, serializer=serializer)
    bad = stock.enqueue("longshore.job", job_for(image).payload(), job_timeout=120)
    good = stock.enqueue("longshore.job", {"image": image, "commands": COMMANDS[3:4]})
    async with consuming(redis_url, **flags):
        await until(
            lambda: good.get_status(refresh=True) == "finished" and bad.get_status(refresh=True) == "failed", 60
        )
    assert good.return_value()["variables"] == {"answer": "42"}
    assert good.return_value()["exit_code"] == 0
    meta = bad.get_meta()["longshore"]
    assert (meta["status"], meta["reason"], meta["exit_code"]) == ("failed", "exit_code", 3)
    assert meta["variables"] == {"answer": "42"}
    text = bad.latest_result().exc_string
    assert text.startswith("exit_code: exited with code 3")
    assert "the secret is ***" in text
    assert redis_client.xrange(f"longshore:log:{bad.id}")[0][1][b"d"].startswith(b"from a pod")


@pytest.mark.faktory
async def test_enqueue_on_faktory(redis_url: str, faktory_url: str, flags: dict[str, Any], image: str) -> None:
    name = f"longshore-test-{secrets.token_hex(6)}"
    async with (
        consuming(faktory_url, records_url=redis_url, queues=name, **flags),
        aio.connect(faktory_url, records=redis_url, queue=name) as queue,
    ):
        handle = await queue.enqueue(job_for(image))
        assert await read(handle.logs(follow=True)) == LOG
        outcome = await handle.wait(60)
        assert (outcome.status, outcome.exit_code, outcome.variables) == (Status.FAILED, 3, {"answer": "42"})
        cancelled = await queue.enqueue(Job(image=image, commands=["echo up; sleep 600"]))
        async for _ in cancelled.logs(follow=True):
            break
        assert await cancelled.cancel()
        assert (await cancelled.wait(60)).status is Status.CANCELLED


@pytest.mark.faktory
async def test_the_faktory_client(redis_url: str, faktory_url: str, flags: dict[str, Any], image: str) -> None:
    name = f"longshore-test-{secrets.token_hex(6)}"

    def push() -> str:
        with faktory.connection(faktory=faktory_url) as client:
            jid = secrets.token_hex(12)
            assert client.queue(**job_for(image).as_faktory(), queue=name, jid=jid)
            return jid

    jid = await asyncio.to_thread(push)
    async with (
        consuming(faktory_url, records_url=redis_url, queues=name, **flags),
        aio.connect(faktory_url, records=redis_url, queue=name) as queue,
    ):
        handle = queue.handle(jid)
        outcome = await handle.wait(60)
        assert (outcome.status, outcome.exit_code, outcome.variables) == (Status.FAILED, 3, {"answer": "42"})
        assert await read(handle.logs()) == LOG


@pytest.mark.faktory
async def test_200_jobs_on_both_queues_at_once(
    redis_url: str,
    redis_client: redis.Redis,
    faktory_url: str,
    simulated: str,
    admin: Api,
    consumer_kubeconfig: Path,
    audit: Callable[[str], list[tuple[str, str, str]]],
) -> None:
    name = f"longshore-test-{secrets.token_hex(6)}"
    flags = {
        "executor": "kubernetes",
        "concurrency": 50,
        "queues": name,
        "kubernetes": {"namespace": simulated, "kubeconfig": consumer_kubeconfig},
    }
    job = Job(image="busybox", commands=["true"])
    async with (
        consuming(redis_url, **flags),
        consuming(faktory_url, records_url=redis_url, **flags),
        aio.connect(redis_url, queue=name) as on_rq,
        aio.connect(faktory_url, records=redis_url, queue=name) as on_faktory,
    ):
        handles = [await queue.enqueue(job) for _ in range(100) for queue in (on_rq, on_faktory)]
        outcomes = await asyncio.gather(*(handle.wait(120) for handle in handles))
        records = [await handle.record() for handle in handles]
    assert all(outcome.succeeded for outcome in outcomes)
    assert all((record.attempt, len(record.attempts)) == (1, 1) for record in records)
    assert len({record.where.pod for record in records}) == 200
    ours = {str(record.where.pod) for record in records}
    jobs = {pod.rpartition("-")[0] for pod in ours}

    def told() -> list[tuple[str, str, str]] | None:
        rows = audit(simulated)
        return rows if {name for verb, _, name in rows if verb == "delete"} >= ours else None

    requests = await until(told, 60)
    creates = [name for verb, what, name in requests if (verb, what) == ("create", "pods")]
    assert sorted(name for name in creates if name.rpartition("-")[0] in jobs) == sorted(ours)
    # create, log, delete, and one more look at a log that a simulated node never ends (a late one looks again)
    costs = sorted(Counter(name for _, _, name in requests if name in ours).values())
    assert costs[180] <= 4
    assert costs[-1] <= 8
    # what each consumer asks for itself, and nothing for each job: rights, admission, pages of lists, watches
    # (by name others may be asked for: pods that an interrupted run has left in this namespace)
    assert len([what for _, what, name in requests if not name and what != "leases"]) <= 2 * 25
    left = (await admin.request("GET", path_of(simulated, "pods")))["items"]
    assert [pod["metadata"]["name"] for pod in left if pod["metadata"]["name"] in ours] == []
    keys = [key for handle in handles for key in redis_client.keys(f"*{handle.id}*")]
    assert len(keys) >= 200
    assert [key for key in keys if redis_client.ttl(key) < 0] == []
