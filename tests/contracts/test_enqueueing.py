"""How jobs are put on both queues: many at once, by a key, later, at the front."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import redis
import rq
from rq.registry import ScheduledJobRegistry

import enqueue
from enqueue import InvalidJob, Job, Order, ProtocolError, RecordsUnavailable, Status, UsageError, protocol
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.order import Enqueued
from enqueue.times import epoch
from enqueue.wire import records as wire
from support.consuming import consuming
from support.places import PLACES, Place, placing
from support.redis_server import RedisServer

JOB = Job(commands=["true"])


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Place]:
    async for found in placing(request.param, redis_url):
        yield found
        if request.param == "faktory":
            with FaktoryClient(found.url) as client:
                client.queue("REMOVE", found.queue)


async def waiting(place: Place) -> int:
    """Jobs in the queue."""
    return await asyncio.to_thread(_waiting, place)


def _waiting(place: Place) -> int:
    if place.rq:
        with redis.Redis.from_url(place.url) as client:
            return int(client.llen(f"rq:queue:{place.queue}"))
    with FaktoryClient(place.url) as client:
        return int(client.info()["faktory"]["queues"].get(place.queue, 0))


async def test_many_jobs_keep_their_order_and_each_refused_one_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CHUNK", 10)
    jobs: list[Job | Order] = [Job(commands=[f"echo {n}"]) for n in range(25)]
    jobs[3] = Job(commands=["x" * 1_000_001])
    jobs[14] = Order(JOB, job_id=f"mine-{place.queue}")
    jobs.append(Order(JOB, job_id=f"mine-{place.queue}"))
    jobs.append({"commands": ["true"]})  # type: ignore[arg-type]
    async with place.producer() as producer:
        found = await producer.enqueue_many(jobs)
        assert len(found) == 27
        kinds = {index: type(error) for index, error in found.refused.items()}
        same_id = {25: UsageError} if place.rq else {}  # Faktory knows an id from its first claim on
        assert kinds == {3: InvalidJob, 26: UsageError, **same_id}
        assert [n for n, handle in enumerate(found.handles) if handle is None] == sorted(kinds)
        assert found.handles[14] is not None
        assert found.handles[14].id == f"mine-{place.queue}"
        with pytest.raises(InvalidJob):
            found.check()
        assert await waiting(place) == 27 - len(kinds)
        async with place.consumer(concurrency=1):
            outcomes = await asyncio.gather(*(handle.wait(60) for handle in found))
        assert all(outcome.succeeded for outcome in outcomes)
        starts = [epoch((await handle.record()).times.claimed) for handle in list(found)[:24]]
        assert starts == sorted(starts, key=lambda moment: moment or 0.0)


async def test_a_thousand_jobs_are_one_round_trip(place: Place) -> None:
    def produce() -> int:
        trips = 0
        with place.sync_producer() as producer:
            do = producer._do

            def counted(*args: object) -> object:
                nonlocal trips
                trips += 1
                return do(*args)  # type: ignore[arg-type]

            producer._do = counted  # type: ignore[method-assign]
            assert len(producer.enqueue_many([JOB] * 1500).check().handles) == 1500
        return trips

    assert await asyncio.to_thread(produce) == 2
    assert await waiting(place) == 1500


async def test_the_same_key_is_the_same_job_under_a_race_and_after_its_end(place: Place) -> None:
    key = f"order-{place.queue}"
    async with place.producer() as producer:
        first, *others = await asyncio.gather(*(producer.enqueue(JOB, key=key) for _ in range(20)))
        assert {handle.id for handle in others} == {first.id}
        assert sum(not handle.existed for handle in (first, *others)) == 1
        twice = await producer.enqueue_many([Order(JOB, key=f"{key}-b"), Order(JOB, key=f"{key}-b")])
        assert len({handle.id for handle in twice}) == 1
        other = await producer.enqueue(JOB, key=f"{key}-2")
        assert other.id != first.id
        async with place.consumer():
            assert (await first.wait(30)).succeeded
            assert (await other.wait(30)).succeeded
            again = await producer.enqueue(Job(commands=["echo another"]), key=key)
            assert (again.id, again.existed) == (first.id, True)
            assert (await producer.enqueue(JOB, key=key, again="failed")).id == first.id
            fresh = await producer.enqueue(JOB, key=key, again="ended")
            assert fresh.id != first.id
            assert not fresh.existed
            assert (await fresh.wait(30)).succeeded
        assert (await fresh.record()).attempt == 1
        assert (await first.record()).attempt == 1
        assert (await first.status()) is Status.SUCCEEDED


async def test_a_key_makes_a_new_job_after_a_failure_only_if_asked_to(place: Place) -> None:
    async with place.producer() as producer, place.consumer():
        failed = await producer.enqueue(Job(commands=["exit 3"]), key=place.queue)
        assert (await failed.wait(30)).exit_code == 3
        assert (await producer.enqueue(JOB, key=place.queue)).id == failed.id
        new = await producer.enqueue(JOB, key=place.queue, again="failed")
        assert (await new.wait(30)).succeeded
        assert (await failed.status()) is Status.FAILED


async def test_a_key_is_forgotten_in_the_end(place: Place, redis_client: redis.Redis) -> None:
    async with place.producer() as producer:
        handle = await producer.enqueue(JOB, key="k")
        (key,) = list(redis_client.scan_iter("longshore:key:*"))
        assert 0 < redis_client.ttl(key) <= wire.KEY_KEPT
        hash = f"rq:job:{handle.id}" if place.rq else f"longshore:job:{handle.id}"
        redis_client.delete(hash)  # its Record has expired
        assert not (await producer.enqueue(JOB, key="k")).existed


async def test_a_producer_that_dies_before_its_push_loses_no_job(redis_url: str, redis_client: redis.Redis) -> None:
    async for place in placing("fake", redis_url):
        async with place.producer() as producer:
            steps = protocol.enqueue(producer._backend, Order(JOB, key="k"))
            step = next(steps)
            assert isinstance(step, protocol.Command)
            noted = redis_client.execute_command(*step.args)
            assert isinstance(steps.send(noted), protocol.Push)
            steps.close()  # here it dies
            assert await waiting(place) == 0
            handle = await producer.enqueue(JOB, key="k")
            assert handle.id == noted[0][0].decode()
            assert await waiting(place) == 1
            assert (await producer.enqueue(JOB, key="k")).id == handle.id
            assert await waiting(place) == 1


def test_a_refused_push_leaves_no_note(redis_url: str, redis_client: redis.Redis) -> None:
    with enqueue.connect("tcp://127.0.0.1:1", records=redis_url) as producer:
        steps = protocol.enqueue(producer._backend, Order(Job(commands=["true"], tags=["t"]), key="k"))
        step = next(steps)
        assert isinstance(step, protocol.Command)
        push = steps.send(redis_client.execute_command(*step.args))
        assert isinstance(push, protocol.Push)
        told = steps.send({push.jobs[0]["jid"]: "too bad"})
        assert isinstance(told, protocol.Command)
        with pytest.raises(ProtocolError, match="too bad"):
            steps.send(redis_client.execute_command(*told.args))
    assert list(redis_client.scan_iter("longshore:job:*")) == []


async def test_a_delayed_job_starts_when_it_is_due(place: Place) -> None:
    async with place.producer() as producer, place.consumer():
        due = datetime.now(UTC) + timedelta(seconds=1.5)
        late = await producer.enqueue(JOB, at=due)
        soon = await producer.enqueue(JOB, delay=timedelta(seconds=1))
        now = await producer.enqueue(JOB, at=datetime.now(UTC) - timedelta(hours=1))
        assert (await now.wait(30)).succeeded
        assert await late.status() is Status.QUEUED
        await asyncio.gather(late.wait(30), soon.wait(30))
        claimed = epoch((await late.record()).times.claimed)
        assert claimed is not None
        assert claimed >= due.timestamp()


async def test_a_delayed_job_can_be_cancelled(place: Place) -> None:
    async with place.producer() as producer:
        handle = await producer.enqueue(JOB, delay=1)
        assert await handle.cancel()
        async with place.consumer():
            other = await producer.enqueue(JOB, delay=2)
            assert (await other.wait(30)).succeeded
        assert (await handle.record()).status is Status.CANCELLED


def test_stock_rq_sees_a_scheduled_job_as_its_own(redis_url: str, redis_client: redis.Redis) -> None:
    with enqueue.connect(redis_url, queue="q") as producer:
        due = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        ours = producer.enqueue(JOB, at=due, job_id="ours").id
    stock = rq.Queue("q", connection=redis_client)
    theirs = stock.enqueue_at(due, "longshore.job", JOB.payload(), job_id="theirs", description="d").id
    registry = ScheduledJobRegistry(queue=stock)
    assert registry.get_scheduled_time(ours) == registry.get_scheduled_time(theirs) == due
    job = stock.fetch_job(ours)
    assert job is not None
    assert job.get_status() == "scheduled"
    assert stock.count == 0
    fields = [set(redis_client.hkeys(f"rq:job:{name}")) for name in ("ours", "theirs")]
    assert fields[0] ^ fields[1] <= {b"longshore_call", b"worker_name", b"timeout"}


def test_a_job_at_the_front_comes_first(redis_url: str, redis_client: redis.Redis) -> None:
    with enqueue.connect(redis_url, queue="q") as producer:
        producer.enqueue(JOB, job_id="a")
        producer.enqueue(JOB, job_id="b", at_front=True)
    assert redis_client.lrange("rq:queue:q", 0, -1) == [b"b", b"a"]
    with enqueue.connect("tcp://127.0.0.1:1") as producer, pytest.raises(UsageError, match="at_front"):
        producer.enqueue(JOB, at_front=True)


def test_a_key_needs_records() -> None:
    with enqueue.connect("tcp://127.0.0.1:1") as producer, pytest.raises(RecordsUnavailable, match="records URL"):
        producer.enqueue(JOB, key="k")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"delay": -1}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": 367 * 86_400}, "at, delay"),
        ({"delay": 1, "at": 5}, "delay"),
        ({"at": datetime(2030, 1, 1)}, "at: must say its time zone"),  # noqa: DTZ001
        ({"key": ""}, "key"),
        ({"key": "x" * 1001}, "key"),
        ({"key": "k", "job_id": "i"}, "job_id"),
        ({"job_id": ""}, "job_id"),
        ({"again": "never"}, "again"),
        ({"job_id": 5}, "job_id: must be text, not a number"),
        ({"key": b"k"}, "key: must be text"),
        ({"queue": 5}, "queue: must be text"),
        ({"key": "\ud800"}, "key: must be valid Unicode"),
        ({"at": "tomorrow"}, "at: must be an aware datetime"),
        ({"delay": "5"}, "delay: must be seconds"),
    ],
)
def test_what_contradicts_itself_is_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=f"^{named}"):
        Order(JOB, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("redis://:pw@h:1/2", "redis://:pw@h:1/2"),
        ("redis://h/2?decode_responses=True", "redis://h/2"),
        ("unix:///a.sock?db=3&socket_timeout=1&max_connections=2", "unix:///a.sock?db=3"),
        ("rediss://h?protocol=3&ssl_ca_certs=/ca", "rediss://h?ssl_ca_certs=/ca"),
    ],
)
def test_a_urls_options_dont_change_how_answers_are_read(url: str, ours: str) -> None:
    assert wire.ours_to_choose(url) == ours


async def test_a_url_that_others_share_serves_us_too(redis_url: str) -> None:
    shared = redis_url + ("&" if "?" in redis_url else "?") + "decode_responses=True&socket_timeout=1&max_connections=2"
    async with consuming(shared, queues="q", executor="null"):
        with enqueue.connect(shared, queue="q") as producer:
            handle = producer.enqueue(JOB, key="k")
            assert (await asyncio.to_thread(handle.wait, 30)).succeeded


def test_a_server_that_goes_away_is_told_for_each_job_that_it_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CHUNK", 10)
    server = RedisServer()
    server.start()
    try:
        with enqueue.connect(server.url()) as producer:

            def jobs() -> object:
                for n in range(35):
                    if n == 20:
                        server.stop(kill=True)
                    yield JOB

            found: Enqueued[enqueue.Handle] = producer.enqueue_many(jobs())  # type: ignore[arg-type]
            assert sorted(found.refused) == list(range(10, 35))
            assert {type(error) for error in found.refused.values()} == {enqueue.QueueUnavailable}
            assert all(handle is not None for handle in found.handles[:10])
            with pytest.raises(enqueue.QueueUnavailable):
                producer.enqueue_many([JOB] * 3)
    finally:
        server.close()


def test_threads_may_share_a_producer(redis_url: str, redis_client: redis.Redis) -> None:
    with enqueue.connect(redis_url, queue="q") as producer:
        threads = [threading.Thread(target=producer.enqueue_many, args=([JOB] * 50,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert redis_client.llen("rq:queue:q") == 400
