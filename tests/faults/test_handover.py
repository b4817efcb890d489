"""Running jobs change hands: killed, told to stop, or stopped and woken up again. Many at once, and a new release."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis

from enqueue import Job, aio
from support.consuming import until
from support.crash_cases import JOB, Pods, finish, settings_for
from support.crashing import Consumer, Nursery, nursery
from support.fakekubelet import FakePod
from support.history import History, What, violations
from support.witnesses import WitnessedKube, monitored

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUICK = {"consumer.worker.SURE": 0.0, "consumer.worker.BEAT_INTERVAL": 0.5}
NEXT_RELEASE = {"labels": {"release": "next"}, "annotations": {"a": "b"}, "run_as_user": 1234}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    async with nursery(tmp_path_factory.mktemp("consumers")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def consumers(house: Nursery, redis_client: redis.Redis) -> AsyncIterator[Nursery]:
    """Nobody of a former test is there any more: channels know no databases."""
    await until(lambda: hearing(redis_client) == 0)
    yield house
    await house.empty()


def running(client: redis.Redis) -> int:
    return sum(client.hget(key, "longshore_status") == b"running" for key in client.scan_iter("rq:job:*"))


def deletes(history: History) -> int:
    return sum(event.name == "DELETE" for event in history.of(What.REQUEST))


def holder(client: redis.Redis, name: str) -> bytes:
    """The liveness key of the consumer of this name."""
    (key,) = [key for key in client.scan_iter("longshore:consumer:*") if client.hget(key, "name") == name.encode()]
    return key


def expire(client: redis.Redis, key: bytes) -> None:
    """What time would do; and the living look now, not in some seconds."""
    client.delete(key)
    client.publish("longshore:left", key)


def hearing(client: redis.Redis) -> int:
    """How many consumers hear who has gone."""
    return int(client.pubsub_numsub("longshore:left")[0][1])


def stopped(consumer: Consumer) -> bool:
    return Path(f"/proc/{consumer.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.row(4, 8, 9)
@pytest.mark.parametrize(
    ("how", "many"),
    [("kill", 100), ("term", 100), ("term, then kill", 25), ("term while the next one lives", 25)],
)
async def test_jobs_change_hands_between_two_releases(
    how: str, many: int, consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    history, pods = History(slots=many), Pods()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        aio.connect(redis_url) as queue,
    ):
        old = settings_for(kube, redis_url, tmp_path, "old", concurrency=many, state_directory=tmp_path / "a")
        new = settings_for(kube, redis_url, tmp_path, "new", concurrency=many)
        new["kubernetes"] |= NEXT_RELEASE
        if "kill" in how:  # it must be proven that the former one is dead
            new["state_directory"] = tmp_path / "a"
        handles = [await queue.enqueue(JOB) for _ in range(many)]
        first = await consumers.start(old, ("S5 detach", "before") if how == "term, then kill" else None)
        await until(lambda: running(redis_client) == many)
        before = deletes(history)
        second = None
        if how == "term while the next one lives":  # and wouldn't look by itself
            second = await consumers.start(new, constants={"consumer.queues.rq.TAKEOVER_EVERY": 3600})
            await until(lambda: hearing(redis_client) == 2)
            before = deletes(history)
        first.send(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        assert await first.ended() == (-9 if "kill" in how else 0)
        assert deletes(history) == before
        second = second or await consumers.start(new)
        pods.go_on.set()
        outcomes = [await handle.wait(30) for handle in handles]
        await finish(history, handles, kube, redis_url)
        records = [await handle.record() for handle in handles]
        second.send(signal.SIGTERM)
        assert await second.ended() == 0
    assert violations(history) == []
    assert {(o.reason, o.exit_code, o.variables["answer"]) for o in outcomes} == {("exit_code", 3, "42")}
    assert all(text.count(b"\n") == 41 for text in history.stored.values())
    assert len(kube.created) == many
    assert {(record.where.consumer, record.attempt) for record in records} == {("new", 1)}


async def test_drain_waits_for_the_jobs(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    history, pods = History(slots=5), Pods()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        aio.connect(redis_url) as queue,
    ):
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, redis_url, tmp_path, "first", shutdown="drain"))
        await until(lambda: running(redis_client) == 1)
        late = await queue.enqueue(JOB)
        await until(lambda: running(redis_client) == 2)
        first.send(signal.SIGTERM)
        await until(lambda: "waiting_for_jobs" in first.text())
        pods.go_on.set()
        assert (await handle.wait(20)).exit_code == (await late.wait(20)).exit_code == 3
        assert await first.ended() == 0
        await finish(history, [handle, late], kube, redis_url)
    assert violations(history) == []


@pytest.mark.row(10)
async def test_who_wakes_up_writes_nothing(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    history, pods = History(slots=5), Pods()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        aio.connect(redis_url) as queue,
    ):
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, redis_url, tmp_path, "first"), constants=QUICK)
        await until(lambda: running(redis_client) == 1)
        second = await consumers.start(settings_for(kube, redis_url, tmp_path, "second"))
        await until(lambda: hearing(redis_client) == 2)
        mine = holder(redis_client, "first")
        first.send(signal.SIGSTOP)
        await until(lambda: stopped(first))
        expire(redis_client, mine)
        await until(lambda: "claims_taken_over" in second.text())
        first.send(signal.SIGCONT)  # while the pod runs: its end comes to both
        await until(lambda: "job_let_go" in first.text())
        pods.go_on.set()
        outcome = await handle.wait(20)
        await finish(history, [handle], kube, redis_url)
        for consumer in (first, second):
            consumer.send(signal.SIGTERM)
            assert await consumer.ended() == 0
    assert violations(history) == []
    assert (outcome.exit_code, len(kube.created)) == (3, 1)
    assert history.stored[handle.id].count(b"\n") == 41
    assert len([e for e in history.of(What.DELETED) if e.job == handle.id]) == 1


async def test_who_wakes_up_after_the_end_changes_nothing(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    history, pods = History(slots=5), Pods()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        aio.connect(redis_url) as queue,
    ):
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, redis_url, tmp_path, "first"), constants=QUICK)
        await until(lambda: running(redis_client) == 1)
        mine = holder(redis_client, "first")
        first.send(signal.SIGSTOP)
        await until(lambda: stopped(first))
        before = hearing(redis_client)
        await consumers.start(settings_for(kube, redis_url, tmp_path, "second"))
        await until(lambda: hearing(redis_client) > before)
        expire(redis_client, mine)
        pods.go_on.set()
        outcome = await handle.wait(20)
        await kube.until(lambda kube: not kube.names("pods"))
        await until(lambda: history.last(handle.id)["status"] == "failed")  # what the monitor tells comes late
        versions, requests = len(history.records(handle.id)), deletes(history)
        first.send(signal.SIGCONT)
        await until(lambda: "job_let_go" in first.text())
        await finish(history, [handle], kube, redis_url)
        assert (len(history.records(handle.id)), deletes(history)) == (versions, requests)
    assert violations(history) == []
    assert (outcome.exit_code, len(kube.created)) == (3, 1)


async def test_who_wakes_up_before_its_create_creates_nothing(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """The other one has run the job to its end and deleted the pod: the name is free again."""
    history, pods = History(slots=5), Pods()
    pods.go_on.set()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        aio.connect(redis_url) as queue,
    ):
        handle = await queue.enqueue(JOB)
        first = await consumers.start(
            settings_for(kube, redis_url, tmp_path, "first"),
            ("S3 create", "stop before"),
            QUICK,
        )
        await until(lambda: stopped(first))
        before = hearing(redis_client)
        await consumers.start(settings_for(kube, redis_url, tmp_path, "second"))
        await until(lambda: hearing(redis_client) > before)
        expire(redis_client, holder(redis_client, "first"))
        outcome = await handle.wait(20)
        await kube.until(lambda kube: not kube.names("pods"))
        first.send(signal.SIGCONT)
        await until(lambda: "job_let_go" in first.text())
        await finish(history, [handle], kube, redis_url)
    assert violations(history) == []
    assert (outcome.exit_code, len(kube.created)) == (3, 1)


async def test_who_wakes_up_doesnt_stop_what_another_one_waits_for(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """Its start timeout has passed while it stood still; the other one's has just begun."""
    history, scheduled = History(slots=5), asyncio.Event()

    async def late(pod: FakePod) -> None:
        await scheduled.wait()
        pod.schedule()
        await pod.secret()
        pod.run()
        pod.end(0)

    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=late) as kube,
        aio.connect(redis_url) as queue,
    ):
        handle = await queue.enqueue(Job(image="busybox", commands=["true"]))
        impatient = settings_for(kube, redis_url, tmp_path, "first", jobs={"start_timeout": 0.5})
        first = await consumers.start(impatient, ("S3 create", "stop after"), QUICK)
        await until(lambda: stopped(first))
        before = hearing(redis_client)
        second = await consumers.start(settings_for(kube, redis_url, tmp_path, "second"))
        await until(lambda: hearing(redis_client) > before)
        expire(redis_client, holder(redis_client, "first"))
        await until(lambda: "claims_taken_over" in second.text())
        first.send(signal.SIGCONT)
        await until(lambda: "job_let_go" in first.text())
        assert deletes(history) == 2  # two consumers have looked whether they may
        scheduled.set()
        outcome = await handle.wait(20)
        await kube.until(lambda kube: not kube.names("pods"))
    assert (outcome.status.value, len(kube.created)) == ("succeeded", 1)


@pytest.mark.row(11)
async def test_two_that_take_from_each_other_all_the_time(
    consumers: Nursery, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """A split brain: each is told again and again that the other one is dead."""
    history = History(slots=1000)

    async def short(pod: FakePod) -> None:
        pod.schedule()
        await pod.secret()
        pod.run()
        pod.write(b"one\n")
        await asyncio.sleep(0.3)
        pod.write(b"two\n")
        pod.end(0)

    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=short) as kube,
        aio.connect(redis_url) as queue,
    ):
        names = ("left", "right")
        both = [await consumers.start(settings_for(kube, redis_url, tmp_path, n, concurrency=60)) for n in names]
        await until(lambda: hearing(redis_client) == 2)
        keys = [holder(redis_client, name) for name in names]
        handles = [await queue.enqueue(JOB) for _ in range(60)]
        for turn in range(40):
            dead, living = keys[turn % 2], keys[1 - turn % 2]
            redis_client.hset(living, mapping={"since": 0, "name": names[1 - turn % 2]})
            redis_client.expire(living, 15)
            expire(redis_client, dead)
            await asyncio.sleep(0.03)
        for key, name in zip(keys, names, strict=True):
            redis_client.hset(key, mapping={"since": 0, "name": name})
            redis_client.expire(key, 15)
        outcomes = [await handle.wait(30) for handle in handles]
        await finish(history, handles, kube, redis_url)
        history.written = {handle.id: [b"one\n", b"two\n"] for handle in handles}
    assert violations(history) == []
    assert {outcome.status.value for outcome in outcomes} == {"succeeded"}
    assert len(kube.created) == 60
    assert sum("claims_taken_over" in consumer.text() for consumer in both) == 2
