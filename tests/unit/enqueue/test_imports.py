from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import enqueue

HEAVY = (
    "kubernetes",
    "aiohttp",
    "opentelemetry",
    "docker",
    "structlog",
    "prometheus_client",
    "consumer",
    "rq",
    "faktory",
)


CONSUMERS = """
import sys, enqueue.cli
early = [m for m in ("redis", "pydantic", "asyncio") if m in sys.modules]
import consumer.cli, consumer.app, consumer.queues.rq, consumer.executors.process.executor
told = early + [m for m in ("aiohttp", "yaml", "rich", *{lazy!r}) if m in sys.modules]
import consumer.queues.faktory_open, consumer.executors.kubernetes.executor
from consumer.executors.kubernetes.access import Access
from consumer.settings import Kubernetes
import asyncio
asyncio.run(Access.load(Kubernetes(kubeconfig=sys.argv[1])))
print([told, [m for m in {lazy!r} if m in sys.modules]])
"""
LAZY = (
    "kubernetes",
    "prometheus_client",
    "sentry_sdk",
    "opentelemetry",
    "nacl",
    "aiohttp_s3_client",
    "aiodocker",
    "rq",
)


def test_a_consumer_loads_only_what_its_executor_and_queue_need(tmp_path: Path) -> None:
    """What the start takes is imports."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        "{contexts: [{name: c, context: {cluster: k, user: u}}], current-context: c,"
        " clusters: [{name: k, cluster: {server: 'http://k'}}], users: [{name: u, user: {token: t}}]}"
    )
    command = [sys.executable, "-c", CONSUMERS.format(lazy=LAZY), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[], []]"


def test_what_the_package_names_is_there() -> None:
    for name in enqueue.__all__:
        assert getattr(enqueue, name) is not None
    assert set(dir(enqueue)) >= set(enqueue.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        enqueue.nothing  # noqa: B018


def test_a_producer_loads_nothing_that_only_consumers_need() -> None:
    code = f"""
import sys, redis.asyncio
theirs = set(sys.modules)  # redis loads opentelemetry where it is installed
import enqueue, enqueue.aio
enqueue.connect("redis://localhost:1/0"); enqueue.connect("tcp://localhost:1", records="redis://localhost:1/0")
print([m for m in sys.modules if m.split(".")[0] in {HEAVY!r} and m not in theirs])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
