"""A consumer dies, and more goes wrong while another one goes on: no API, no Redis, a cancel, another death."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis

from enqueue import aio
from support.consuming import until
from support.crash_cases import JOB, Pods, finish, settings_for
from support.crashing import Nursery, nursery
from support.fake_faktory import FakeFaktory
from support.history import History, What, violations
from support.redis_server import RedisServer
from support.witnesses import FaktoryProxy, WitnessedKube, monitored

pytestmark = pytest.mark.asyncio(loop_scope="module")
OUTCOME = ("failed", "exit_code", 3)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    async with nursery(tmp_path_factory.mktemp("consumers")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def consumers(house: Nursery) -> AsyncIterator[Nursery]:
    yield house
    await house.empty()


@contextlib.asynccontextmanager
async def scene(redis_url: str, history: History, pods: Pods) -> AsyncIterator[tuple[WitnessedKube, Any]]:
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        aio.connect(redis_url) as queue,
    ):
        yield kube, queue


def says(client: redis.Redis, job: str, status: bytes) -> Callable[[], bool]:
    return lambda: client.hget(f"rq:job:{job}", "longshore_status") == status


def one_whole_job(history: History, handle: aio.AsyncHandle, outcome: Any, kube: WitnessedKube) -> None:
    assert violations(history) == []
    assert (outcome.status.value, outcome.reason, outcome.exit_code) == OUTCOME
    assert outcome.variables == {"answer": "42"}
    assert history.stored[handle.id].count(b"\n") == 41
    assert len(kube.created) == 1
    assert history.last(handle.id)["attempt"] == 1


@pytest.mark.row(4, 15)
async def test_the_api_is_down_while_it_passes_on(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    history, pods = History(slots=5), Pods()
    async with scene(redis_url, history, pods) as (kube, queue):
        handle = await queue.enqueue(JOB)
        holder = await consumers.start(settings_for(kube, redis_url, tmp_path, "first"))
        await until(says(redis_client, handle.id, b"running"))
        other = await consumers.start(settings_for(kube, redis_url, tmp_path, "second"))
        await other.started()
        await kube.stop()
        await until(lambda: "executor_unavailable" in other.text())
        holder.send(signal.SIGKILL)
        await holder.ended()
        pods.go_on.set()
        assert says(redis_client, handle.id, b"running")()
        await kube.start()
        outcome = await handle.wait(30)
        await finish(history, [handle], kube, redis_url)
    one_whole_job(history, handle, outcome, kube)


@pytest.mark.row(4)
@pytest.mark.parametrize("point", [("S2 plan", "after"), ("S5 log", "after"), ("S6 ended", "after")], ids=str)
async def test_who_goes_on_dies_too(point: tuple[str, str], consumers: Nursery, redis_url: str, tmp_path: Path) -> None:
    history, pods = History(slots=5), Pods()
    async with scene(redis_url, history, pods) as (kube, queue):
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, redis_url, tmp_path, "first"), ("S5 log", "after"))
        assert await first.ended() == -signal.SIGKILL
        pods.go_on.set()
        second = await consumers.start(settings_for(kube, redis_url, tmp_path, "second"), point)
        assert await second.ended() == -signal.SIGKILL
        await consumers.start(settings_for(kube, redis_url, tmp_path, "third"))
        outcome = await handle.wait(20)
        await finish(history, [handle], kube, redis_url)
    one_whole_job(history, handle, outcome, kube)
    assert history.last(handle.id)["where"]["consumer"] == "third"


async def test_it_was_cancelled_while_nobody_held_it(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    history, pods = History(slots=5), Pods()
    async with scene(redis_url, history, pods) as (kube, queue):
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, redis_url, tmp_path, "first"))
        await until(says(redis_client, handle.id, b"running"))
        first.send(signal.SIGKILL)
        await first.ended()
        assert await handle.cancel()
        await consumers.start(settings_for(kube, redis_url, tmp_path, "second"))
        outcome = await handle.wait(20)
        await finish(history, [handle], kube, redis_url)
        history.written = {}  # it was stopped in the middle of its log
    assert violations(history) == []
    assert outcome.status.value == "cancelled"
    assert len(kube.created) == 1


async def test_redis_is_killed_while_it_passes_on(consumers: Nursery, tmp_path: Path) -> None:
    """With an append-only file that is written at once, as the README asks for."""
    history, pods = History(slots=5), Pods()
    with RedisServer("--appendonly", "yes", "--appendfsync", "always", "--save", "") as server:
        url = server.url()
        async with WitnessedKube(history, script=pods) as kube, aio.connect(url) as queue:
            handle = await queue.enqueue(JOB)
            first = await consumers.start(settings_for(kube, url, tmp_path, "first"), ("S5 log", "after"))
            assert await first.ended() == -signal.SIGKILL
            second = await consumers.start(settings_for(kube, url, tmp_path, "second"), ("S5 running", "stop before"))
            await until(lambda: "claims_taken_over" in second.text())
            await until(lambda: _stopped(second.pid))
            server.stop(kill=True)
            second.send(signal.SIGCONT)
            pods.go_on.set()
            await until(lambda: "redis_unavailable" in second.text())
            server.start()
            async with monitored(url, history):
                outcome = await handle.wait(30)
                await finish(history, [handle], kube, url)
        one_whole_job(history, handle, outcome, kube)


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.row(11, 12)
async def test_one_id_in_the_queue_many_times_and_two_consumers(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """However often they find it there, it runs once at a time, and once it has begun nobody else begins."""
    history, pods = History(slots=5), Pods()
    async with scene(redis_url, history, pods) as (kube, queue):
        handle = await queue.enqueue(JOB)
        redis_client.rpush("rq:queue:default", *[handle.id] * 20)
        both = [await consumers.start(settings_for(kube, redis_url, tmp_path, name)) for name in ("left", "right")]
        for consumer in both:
            await consumer.started()
        await until(lambda: not redis_client.llen("rq:queue:default"))
        await until(says(redis_client, handle.id, b"running"))
        pods.go_on.set()
        outcome = await handle.wait(20)
        await finish(history, [handle], kube, redis_url)
    one_whole_job(history, handle, outcome, kube)
    assert len(history.of(What.TOLD)) == 1


@pytest.mark.row(50)
@pytest.mark.parametrize("retries", [1, 3])
async def test_a_reservation_that_ends_while_the_pod_runs_makes_no_second_pod(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path, retries: int
) -> None:
    history, pods = History(slots=5), Pods()
    async with (
        FakeFaktory() as fake,
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        FaktoryProxy("127.0.0.1", fake.port, history) as proxy,
        aio.connect(proxy.url, records=redis_url) as queue,
    ):
        options = {"records_url": redis_url, "queues": ("default",)}
        handle = await queue.enqueue(JOB.model_copy(update={"retries": retries}))
        for name in ("first", "second"):
            consumer = await consumers.start(settings_for(kube, proxy.url, tmp_path, name, **options))
            await consumer.started()
        await until(lambda: redis_client.hget(f"longshore:job:{handle.id}", "longshore_status") == b"running")
        fake.expire(handle.id)
        fake.promote()
        await until(lambda: handle.id in fake.working)  # the one that runs it has it again, or the other one
        assert (len(kube.created), history.of(What.TOLD)) == (1, [])
        pods.go_on.set()
        await until(lambda: history.of(What.TOLD, handle.id) and not redis_client.exists("longshore:claims:default"))
        await finish(history, [handle], kube, redis_url)
        waiting = fake.retries + fake.scheduled  # its own failure, to be tried again; not the ended reservation's fault
        assert [entry["jid"] for entry in waiting] == [handle.id]
        history.queued = {handle.id}
    assert violations(history) == []
    assert len(kube.created) == 1
    assert history.last(handle.id)["attempt"] == 1
