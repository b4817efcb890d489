"""Hundreds of simulated pods in flight change hands: after kill -9, and in a rollout to another release."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from consumer.executors import names
from consumer.executors.kubernetes.api import Api, path_of
from consumer.tasks import end
from enqueue import Job, aio
from support.consuming import until
from support.history import History, What, violations
from support.witnesses import keep_all, monitored, watch_pods

pytestmark = pytest.mark.cluster
STAY = {"lab/stay": "true"}
"""A simulated pod runs until the label is taken from it."""
Start = Callable[..., Any]


@pytest.fixture
async def start(
    redis_url: str, simulated: str, consumer_kubeconfig: Path, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """Starts `longshore run` as a process of its own; all are ended after the test."""
    started: list[asyncio.subprocess.Process] = []

    async def start(name: str, queue: str, **kubernetes: Any) -> asyncio.subprocess.Process:
        config = tmp_path / f"{name}.yaml"
        access = {"namespace": simulated, "kubeconfig": str(consumer_kubeconfig), "image": "none"}
        settings = {"queue_url": redis_url, "queues": [queue], "executor": "kubernetes", "concurrency": 500}
        settings |= {"state_directory": str(tmp_path / "state"), "kubernetes": access | kubernetes}
        config.write_text(json.dumps(settings))
        with (tmp_path / f"{name}.log").open("wb") as log:
            command = ["-m", "enqueue.cli", "run", "--config", str(config), "--name", name]
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdout=log, stderr=log, cwd=tmp_path
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def let_end(admin: Api, namespace: str, pods: set[str]) -> None:
    """Take the label from these pods."""

    async def release(pod: dict[str, Any]) -> None:
        del pod["metadata"]["labels"]["lab/stay"]
        await admin.request("PUT", path_of(namespace, "pods", pod["metadata"]["name"]), body=pod)

    listed = await admin.request("GET", path_of(namespace, "pods"), query={"labelSelector": names.OURS})
    await asyncio.gather(*(release(pod) for pod in listed["items"] if pod["metadata"]["name"] in pods))


COUNT = """
local count = 0
for _, key in ipairs(redis.call('KEYS', 'rq:job:*')) do
  local record = redis.call('HGET', key, 'longshore')
  if record then
    record = cjson.decode(record)
    if record.status == 'running' and record.where.consumer == ARGV[1] and record.where.pod then count = count + 1 end
  end
end
return count
"""


@pytest.mark.parametrize(("count", "number"), [(500, signal.SIGKILL), (100, signal.SIGTERM)], ids=["kill", "rollout"])
async def test_all_pods_in_flight_change_hands(
    count: int,
    number: signal.Signals,
    start: Start,
    redis_url: str,
    redis_client: redis.Redis,
    simulated: str,
    admin: Api,
    record_property: Callable[[str, object], None],
) -> None:
    queue, history = f"longshore-test-{secrets.token_hex(6)}", History(slots=500)
    watching = asyncio.create_task(watch_pods(admin, simulated, history, queue))
    held = redis_client.register_script(COUNT)
    try:
        async with monitored(redis_url, history), aio.connect(redis_url, queue=queue) as producer:
            first = await start("first", queue, labels=STAY)
            handles = [await producer.enqueue(Job(commands=["true"])) for _ in range(count)]
            await until(lambda: held(args=["first"]) == count, 120)
            first.send_signal(number)
            assert await first.wait() == (0 if number is signal.SIGTERM else -number)
            began = time.monotonic()
            more = {"annotations": {"release": "next"}, "run_as_user": 1234} if number is signal.SIGTERM else {}
            second = await start("second", queue, labels=STAY, **more)
            async with asyncio.timeout(60):
                while held(args=["second"]) < count:  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.2)  # the count isn't cheap
            took = time.monotonic() - began
            record_property("seconds until all are held", took)
            print(f"{count} held {took:.2f} s after the start")
            await let_end(admin, simulated, {event.name for event in history.of(What.CREATED)})
            outcomes = [await handle.wait(90) for handle in handles]
            await until(lambda: watching.done() or len({e.uid for e in history.of(What.DELETED)}) == count, 30)
            assert not watching.done(), watching.exception()
            second.terminate()
            assert await second.wait() == 0
            history.accepted = {handle.id for handle in handles}
            keep_all(redis_url, history)
    finally:
        await end(watching)
    assert violations(history) == []
    assert {outcome.status.value for outcome in outcomes} == {"succeeded"}
    assert len({event.uid for event in history.of(What.CREATED)}) == count


async def test_a_rolling_restart_and_a_kill_under_load(
    start: Start, redis_url: str, simulated: str, admin: Api, tmp_path: Path
) -> None:
    """Two consumers, each replaced by a new one as a rollout does it, then one is killed: no job notices."""
    queue, history, handles = f"longshore-test-{secrets.token_hex(6)}", History(slots=500), []
    watching = asyncio.create_task(watch_pods(admin, simulated, history, queue))
    enough = asyncio.Event()
    pods = {"annotations": {"lab/run-for": "1s"}, "log_streams": 0}

    async def load(producer: aio.AsyncQueue) -> None:
        while not enough.is_set():
            handles.append(await producer.enqueue(Job(commands=["true"])))
            await asyncio.sleep(0.05)  # a steady load, as far as the machine allows

    async def started(name: str) -> None:
        await until(lambda: b"consumer_started" in (tmp_path / f"{name}.log").read_bytes(), 60)

    try:
        async with monitored(redis_url, history), aio.connect(redis_url, queue=queue) as producer:
            loading = asyncio.create_task(load(producer))
            living = [await start(name, queue, **pods) for name in ("a", "b")]
            for name in ("a", "b"):  # before, they don't hear signals yet
                await started(name)
            for name, how in (("c", signal.SIGTERM), ("d", signal.SIGTERM), ("e", signal.SIGKILL)):
                living.append(await start(name, queue, **pods))
                await started(name)
                old = living.pop(0)
                old.send_signal(how)
                assert await old.wait() == (0 if how is signal.SIGTERM else -how)
            enough.set()
            await loading
            outcomes = [await handle.wait(90) for handle in handles]
            gone = len(handles)
            await until(lambda: watching.done() or len({e.uid for e in history.of(What.DELETED)}) == gone, 90)
            assert not watching.done(), watching.exception()
            for process in living:
                process.terminate()
                assert await process.wait() == 0
            history.accepted = {handle.id for handle in handles}
            keep_all(redis_url, history)
    finally:
        enough.set()
        await end(watching)
    assert violations(history) == []
    assert {outcome.status.value for outcome in outcomes} == {"succeeded"}
    assert len({event.uid for event in history.of(What.CREATED)}) == len(handles)
    print(f"{len(handles)} jobs, none lost, none doubled")
