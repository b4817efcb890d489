"""Job types as real pods: what a command, or a function of the image's Python, gets and gives back."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import redis
import rq

from consumer.executors.kubernetes.api import Api, path_of
from enqueue.wire import records as record_wire
from support.consuming import consuming, until

pytestmark = [pytest.mark.cluster]


@pytest.fixture
def flags(namespace: str, consumer_kubeconfig: Path) -> dict[str, Any]:
    requests = {"cpu": "10m", "memory": "16Mi"}
    kubernetes = {"namespace": namespace, "kubeconfig": consumer_kubeconfig, "requests": requests}
    return {"executor": "kubernetes", "queues": "heavy", "kubernetes": kubernetes}


async def ended(job: rq.job.Job) -> str:
    async def status() -> str | None:
        now = await asyncio.to_thread(job.get_status)
        return now.value if now.value in ("finished", "failed") else None

    return str(await until(status, 90))


def log_of(client: redis.Redis, job: rq.job.Job) -> bytes:
    record = record_wire.read_record(client.hget(f"rq:job:{job.id}", "longshore"))
    assert record is not None
    return b"".join(entry.get(b"d", b"") for _, entry in client.xrange(str(record.log.stream)))


async def test_a_command_in_a_pod_finds_its_arguments_and_the_pod_shows_no_secret(
    redis_url: str, redis_client: redis.Redis, flags: dict[str, Any], image: str, admin: Api, namespace: str
) -> None:
    resize = {
        "image": image,
        "commands": ["cat $LONGSHORE_ARGS", "echo", "echo $LONGSHORE_ARG_SOURCE $LONGSHORE_ARG_TOKEN", "sleep 2"],
        "parameters": ["source"],
        "sensitive": ["token"],
    }
    job = rq.Queue("heavy", connection=redis_client).enqueue("shop.resize", "$(HOME) a.png", token="s3cret-token")
    async with consuming(redis_url, job_types={"shop.resize": resize}, jobs={"types_only": True}, **flags):
        pods = await until(lambda: pods_of(admin, namespace), 60)
        assert "s3cret-token" not in json.dumps(pods)
        assert await ended(job) == "finished"
    first, second = log_of(redis_client, job).splitlines()
    given = {"v": 1, "name": "shop.resize", "args": ["$(HOME) a.png"], "kwargs": {"token": "***"}}
    assert (json.loads(first), second) == (given, b"$(HOME) a.png ***")


async def pods_of(admin: Api, namespace: str) -> list[Any]:
    return list((await admin.request("GET", path_of(namespace, "pods")))["items"])


async def test_a_function_runs_in_a_pod(redis_url: str, redis_client: redis.Redis, flags: dict[str, Any]) -> None:
    python = os.environ.get("LONGSHORE_TEST_PYTHON_IMAGE") or pytest.skip("LONGSHORE_TEST_PYTHON_IMAGE names no image")
    queue = rq.Queue("heavy", connection=redis_client)
    short = queue.enqueue("textwrap.shorten", "many words", width=8)
    long = queue.enqueue("textwrap.indent", "x" * 50_000, "y")
    wrong = queue.enqueue("textwrap.shorten", "many words", width=1)
    async with consuming(redis_url, job_types={"textwrap.*": {"image": python, "python": True}}, **flags):
        assert [await ended(job) for job in (short, long, wrong)] == ["finished", "finished", "failed"]
    assert short.return_value(refresh=True) == "[...]"
    assert long.return_value(refresh=True) == "y" + "x" * 50_000
    assert wrong.latest_result().exc_string.endswith("ValueError: placeholder too large for max width")
