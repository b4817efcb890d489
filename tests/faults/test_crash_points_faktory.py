"""On Faktory: a consumer is killed before and after each step of a job, and another one goes on."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import redis

from enqueue import aio
from enqueue.backends.faktory_aio import AsyncFaktoryClient
from enqueue.wire import faktory as wire
from support.consuming import until
from support.crash_cases import EARLY, JOB, Pods, finish, settings_for
from support.crashing import Nursery, nursery
from support.fake_faktory import FakeFaktory
from support.faktory_servers import Server
from support.history import History, What, violations
from support.witnesses import FaktoryProxy, WitnessedKube, monitored

pytestmark = pytest.mark.asyncio(loop_scope="module")
BOTH = ("S2 plan", "S2 record", "S3 create", "S4 secret", "S5 running", "S5 log", "S6 log end", "S7 outcome")
STEPS = [
    ("S1 fetched", "after"),
    ("S1 faktory", "after"),
    *((step, when) for step in (*BOTH, "S8 faktory") for when in ("before", "after")),
    ("S6 ended", "after"),
    ("S9 delete", "after"),
]
ON_THE_FAKE = [("S1 faktory", "after"), ("S7 outcome", "after"), ("S8 faktory", "after")]
Place = tuple[str, int]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def consumers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    async with nursery(tmp_path_factory.mktemp("consumers")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def fake() -> AsyncIterator[FakeFaktory]:
    async with FakeFaktory() as server:
        yield server


@pytest.fixture
def real_place() -> Place:
    url = urlsplit(os.environ.get("FAKTORY_URL", ""))
    if not url.hostname:
        pytest.skip("FAKTORY_URL names no server")
    return url.hostname, url.port or 7419


async def die_and_go_on(
    step: str,
    when: str,
    consumers: Nursery,
    place: Place,
    redis_url: str,
    client: redis.Redis,
    directory: Path,
    fake: FakeFaktory | None = None,
) -> None:
    history, pods, name = History(slots=5), Pods(), f"longshore-test-{secrets.token_hex(6)}"
    if not step.startswith(EARLY):
        pods.go_on.set()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        FaktoryProxy(*place, history) as proxy,
        aio.connect(proxy.url, records=redis_url, queue=name) as queue,
    ):
        options = {"records_url": redis_url, "queues": (name,)}
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, proxy.url, directory, "first", **options), (step, when))
        assert await first.ended() == -signal.SIGKILL
        pods.go_on.set()
        second = await consumers.start(settings_for(kube, proxy.url, directory, "second", **options))
        outcome = await handle.wait(20)
        await second.started()
        await until(lambda: history.of(What.TOLD, handle.id) and not client.exists(f"longshore:claims:{name}"))
        await finish(history, [handle], kube, redis_url)
        second.send(signal.SIGTERM)
        assert await second.ended() == 0
    await faktory_knows_of_its_end(Server("tcp://{}:{}".format(*place), fake), handle.id, name)
    assert violations(history) == []
    assert (outcome.status.value, outcome.reason, outcome.exit_code) == ("failed", "exit_code", 3)
    assert outcome.variables == {"answer": "42"}
    assert len(kube.created) == 1
    assert history.stored[handle.id].count(b"\n") == 41
    assert history.last(handle.id)["attempt"] == 1


async def faktory_knows_of_its_end(server: Server, jid: str, queue: str) -> None:
    """That it was told, the proxy has seen; this is what it made of it."""
    try:
        ended = await server.entry("dead", jid)
        assert ended is not None
        assert ended.errtype == "exit_code"
        assert [await server.entry(kind, jid) for kind in ("retries", "scheduled")] == [None, None]
        assert await server.size(queue) == 0
    finally:
        await server.client.close()


@pytest.mark.faktory
@pytest.mark.parametrize(("step", "when"), STEPS, ids=lambda value: value)
async def test_faktory(
    step: str,
    when: str,
    consumers: Nursery,
    real_place: Place,
    redis_url: str,
    redis_client: redis.Redis,
    tmp_path: Path,
) -> None:
    await die_and_go_on(step, when, consumers, real_place, redis_url, redis_client, tmp_path)


@pytest.mark.row(6)
@pytest.mark.parametrize(("step", "when"), ON_THE_FAKE, ids=lambda value: value)
async def test_faktory_that_is_simulated(
    step: str,
    when: str,
    consumers: Nursery,
    fake: FakeFaktory,
    redis_url: str,
    redis_client: redis.Redis,
    tmp_path: Path,
) -> None:
    place = "127.0.0.1", fake.port
    await die_and_go_on(step, when, consumers, place, redis_url, redis_client, tmp_path, fake)
    assert not fake.working
    assert len(fake.dead) == 1


@pytest.mark.row(1)
@pytest.mark.parametrize("retries", [3, 0])
async def test_who_dies_with_what_was_fetched_and_not_noted(
    retries: int, consumers: Nursery, fake: FakeFaktory, redis_url: str, tmp_path: Path
) -> None:
    """Nobody but Faktory knows of the job: it comes again when its reservation ends, if it may be tried again."""
    history, pods = History(slots=5), Pods()
    pods.go_on.set()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        FaktoryProxy("127.0.0.1", fake.port, history) as proxy,
        aio.connect(proxy.url, records=redis_url) as queue,
    ):
        options = {"records_url": redis_url, "queues": ("default",)}
        handle = await queue.enqueue(JOB.model_copy(update={"retries": retries}))
        settings = settings_for(kube, proxy.url, tmp_path, "first", **options)
        first = await consumers.start(settings, ("S1 fetched", "before"))
        assert await first.ended() == -signal.SIGKILL
        assert (history.records(handle.id), kube.created) == ([], [])
        fake.expire(handle.id)
        if not retries:
            assert [entry["jid"] for entry in fake.dead] == [handle.id]
            return
        (waiting,) = fake.retries
        assert waiting["failure"]["retry_count"] == 0  # one of its tries is gone
        await until(lambda: not fake.fetching)  # what the dead one asked for is answered to nobody
        fake.promote()
        second = await consumers.start(settings_for(kube, proxy.url, tmp_path, "second", **options))
        await until(lambda: len(fake.retries) == 1)
        await finish(history, [handle], kube, redis_url)
        history.queued = {handle.id}
        second.send(signal.SIGTERM)
        assert await second.ended() == 0
    assert violations(history) == []
    assert len(kube.created) == 1
    assert history.last(handle.id)["attempt"] == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_dies_around_the_reply_to_opslevel(
    when: str, consumers: Nursery, fake: FakeFaktory, redis_url: str, tmp_path: Path
) -> None:
    """Another one sends it (again): whoever reads the replies can tell by its jid that it is the same one."""
    history, pods = History(slots=5), Pods()
    pods.go_on.set()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        FaktoryProxy("127.0.0.1", fake.port, history) as proxy,
        AsyncFaktoryClient(fake.url) as producer,
    ):
        jid, payload = wire.new_jid(), {"image": "busybox", "commands": ["run"]}
        custom = {"opslevel-runner-job-id": 7}
        job = {"jid": jid, "queue": "legacy", "jobtype": "legacy", "args": [payload], "custom": custom, "retry": 0}
        await producer.push(job)
        options = {"records_url": redis_url, "queues": ("legacy",), "faktory": {"opslevel_queue": "app"}}
        first = await consumers.start(settings_for(kube, proxy.url, tmp_path, "first", **options), ("S8 reply", when))
        assert await first.ended() == -signal.SIGKILL
        assert list(fake.working) == [jid]
        second = await consumers.start(settings_for(kube, proxy.url, tmp_path, "second", **options))
        await until(lambda: not fake.working)
        replies = [job for job in fake.queues["app"] if job["jobtype"] == "Runners::Faktory::ReportJobOutcome"]
        second.send(signal.SIGTERM)
        assert await second.ended() == 0
    assert [reply["args"][0]["outcome"] for reply in replies] == ["failed"] * len(replies)
    assert len(replies) == (2 if when == "after" else 1)
    assert len({reply["jid"] for reply in replies}) == 1
    assert len(kube.created) == 1
    assert (fake.dead, fake.retries) == ([], [])
