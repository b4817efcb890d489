"""A consumer that goes away leaves its running pod to another one: one pod, one outcome, the whole log."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.kubernetes.api import Api, path_of
from enqueue import Job, Status, aio
from enqueue.record import Record
from support.consuming import until

pytestmark = pytest.mark.cluster

LINES = 8
"""So many seconds the pod writes: it may end before or after the takeover, and nothing here depends on it."""

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start(redis_url: str, namespace: str, consumer_kubeconfig: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `longshore run` as a process of its own, by its name; all are ended after the test."""
    config = tmp_path / "longshore.yaml"
    kubernetes = {
        "namespace": namespace,
        "kubeconfig": str(consumer_kubeconfig),
        "requests": {"cpu": "10m", "memory": "16Mi"},
    }
    config.write_text(
        json.dumps({"queue_url": redis_url, "executor": "kubernetes", "shutdown_grace": 0, "kubernetes": kubernetes})
    )
    started = []

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "enqueue.cli", "run", "--config", str(config), "--name", name]
        with (tmp_path / f"{name}.log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
async def test_another_consumer_goes_on(
    number: signal.Signals, start: Start, redis_url: str, admin: Api, namespace: str, image: str
) -> None:
    commands = ["i=0", f"while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 1; done", "sleep 2", "echo end"]
    job = Job(image=image, commands=[*commands, "echo ::set-outcome-var answer=42"], timeout=300)
    first = start("first")
    async with aio.connect(redis_url) as queue:
        handle = await queue.enqueue(job)
        async with asyncio.timeout(60):
            async for _ in handle.logs(follow=True):
                break
        before = await until(lambda: _running(handle), 60)
        assert before.where.consumer == "first"
        pod = await admin.request("GET", path_of(namespace, "pods", before.where.pod or ""))
        first.send_signal(number)
        assert await asyncio.to_thread(first.wait, 60) == (-signal.SIGKILL if number is signal.SIGKILL else 0)
        second = start("second")
        outcome = await handle.wait(120)
        log = b"".join([part async for part in handle.logs(follow=True)])
        record = await handle.record()
        await until(lambda: _gone(admin, namespace), 60)
        second.terminate()
        assert await asyncio.to_thread(second.wait, 60) == 0
    assert (outcome.status, outcome.variables) == (Status.SUCCEEDED, {"answer": "42"})
    assert log == b"".join(b"line %d\n" % i for i in range(1, LINES + 1)) + b"end\n"
    assert (record.where.consumer, record.where.pod, record.attempt) == ("second", before.where.pod, 1)
    assert [attempt.attempt for attempt in record.attempts] == [1]
    assert record.log.complete == "no_gap_seen"
    assert await _created(admin, namespace) == {pod["metadata"]["uid"]}


async def _running(handle: aio.AsyncHandle) -> Record | None:
    record = await handle.record()
    return record if record.status is Status.RUNNING else None


async def _gone(admin: Api, namespace: str) -> bool:
    return not (await admin.request("GET", path_of(namespace, "pods")))["items"]


async def _created(admin: Api, namespace: str) -> set[str]:
    """The uids of all pods that a kubelet or the scheduler ever spoke of: what was deleted has left its events."""
    events: list[dict[str, Any]] = (await admin.request("GET", path_of(namespace, "events")))["items"]
    return {e["involvedObject"]["uid"] for e in events if e["involvedObject"]["kind"] == "Pod"}
