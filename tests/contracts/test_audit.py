"""`longshore audit` on a real Redis: a sound state has no faults, and each constructed fault is found by its kind."""

from __future__ import annotations

import datetime
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
import redis.asyncio
import rq

from consumer.audit import audit
from consumer.audit_kinds import KINDS, Looked
from consumer.model import Claim, LogPosition, Settlement, Verdict
from consumer.queues.faktory_records import FaktoryRecords
from consumer.queues.faktory_words import Ending
from consumer.queues.rq import RqQueue
from consumer.recording import record_claimed
from consumer.settings import Retention, load_settings
from consumer.show_audit import metrics, plain
from consumer.tasks import end
from enqueue import Job, UsageError
from enqueue.wire.faktory_fetched import Fetched
from support.rq_jobs import JOB, SUCCESS, ended

RETENTION = Retention(success=100, failure=100)
LIMITED = {**JOB, "limit": {"key": "db", "concurrency": 1}}
LINE = LogPosition(lines=1, bytes=3)


def reader_of(url: str, client: redis.Redis) -> str:
    """The same place for a user who may read, and nothing else."""
    rights = ["+@read", "+@connection", "+time", "-keys"]
    client.execute_command("ACL", "SETUSER", "auditor", "on", ">pw", "~*", "resetchannels", "-@all", *rights)
    return url.replace("://", "://auditor:pw@", 1)


async def log(records: Any, claim: Claim, *, whole: bool = True) -> None:
    await records.append(claim, b"hi\n", LINE)
    if whole:
        await records.end(claim, LogPosition(entries=1, lines=1, bytes=3))


@pytest.fixture
async def rq_side(redis_url: str, redis_client: redis.Redis) -> AsyncIterator[Callable[[], Any]]:
    """One job has ended, one runs (and holds the limit's place), one waits for it, one is queued, one scheduled."""
    queue = RqQueue(redis_url, ("q",), consumer="c", max_bytes=10_000, retention=RETENTION, patience=0.1)
    await queue.open()
    stock = rq.Queue("q", connection=redis_client)
    for name, job in (("ended", JOB), ("runs", LIMITED), ("parked", LIMITED)):
        stock.enqueue("longshore.job", job, job_id=name)
    first, second = await queue.claim(3)
    await queue.records.write(second, record_claimed(second, "c", "null", ""))
    await log(queue.records, first)
    await queue.settle([ended(first, SUCCESS, Verdict.DONE)])
    stock.enqueue("longshore.job", JOB, job_id="queued")
    stock.enqueue_in(datetime.timedelta(hours=1), "longshore.job", JOB, job_id="later")
    await end(*queue._tasks)  # it mends nothing meanwhile
    lives(redis_client)
    url = reader_of(redis_url, redis_client)

    async def look(**kwargs: Any) -> Looked:
        return await audit(load_settings(queue_url=url, queues="q"), 0, **kwargs)

    yield look
    await queue.close()


@pytest.fixture
async def faktory_side(
    redis_url: str, redis_client: redis.Redis, async_redis: redis.asyncio.Redis
) -> Callable[[], Any]:
    """The Records beside a Faktory: one job has ended, one runs. Its server isn't asked."""
    store = FaktoryRecords(async_redis, "c", uuid.uuid4().hex, RETENTION)
    await store.arrive()
    claims = []
    for jid in ("ended", "runs"):
        token = uuid.uuid4().hex
        await store.claim([(Fetched({"jid": jid, "queue": "q"}, 100), token)])
        claims.append(Claim(jid, "q", 1, token, Job(image="x", commands=("true",))))
        await store.write(claims[-1], record_claimed(claims[-1], "c", "null", ""))
    await log(store, claims[0])
    settlement: Settlement = ended(claims[0], SUCCESS, Verdict.DONE)
    ending = Ending(claims[0].token, "ended", (b"ACK",))
    assert await store.settle([(settlement, ending)]) == [None]
    await store.told([ending])
    lives(redis_client)
    flags = {"queue_url": "faktory://nowhere.invalid", "queues": "q"}
    url = reader_of(redis_url, redis_client)

    async def look(**kwargs: Any) -> Looked:
        return await audit(load_settings(**flags, records_url=url), 0, **kwargs)

    return look


def kinds(looked: Looked) -> set[tuple[str, str]]:
    return {(fault.kind, fault.subject) for fault in looked.faults}


def lives(client: redis.Redis) -> None:
    """However long the test takes."""
    for key in client.keys("longshore:consumer:*"):
        client.expire(key, 3600)


def dies(client: redis.Redis) -> None:
    client.delete(*client.keys("longshore:consumer:*"))


def token(client: redis.Redis, name: str) -> str:
    return client.hget(name, "longshore_token").decode()


def says(client: redis.Redis, name: str, **changes: Any) -> None:
    record = json.loads(client.hget(name, "longshore")) | changes
    client.hset(name, "longshore", json.dumps(record))


RQ_FAULTS: dict[str, tuple[Callable[[redis.Redis], Any], set[tuple[str, str]]]] = {
    "the consumer died": (dies, {("claim_abandoned", "runs")}),
    "a claim is gone": (
        lambda r: r.zrem("rq:wip:q", f"runs:{token(r, 'rq:job:runs')}"),
        {("started_without_claim", "runs"), ("place_of_nobody", "db/runs")},
    ),
    "a queued job is gone": (lambda r: r.lrem("rq:queue:q", 1, "queued"), {("queued_nowhere", "queued")}),
    "a scheduled job is gone": (lambda r: r.zrem("rq:scheduled:q", "later"), {("queued_nowhere", "later")}),
    "a running job waits too": (lambda r: r.rpush("rq:queue:q", "runs"), {("in_two_places", "runs")}),
    "a job waits twice": (lambda r: r.rpush("rq:queue:q", "queued"), {("in_two_places", "queued")}),
    "an end wasn't told": (lambda r: says(r, "rq:job:runs", status="succeeded"), {("end_not_told", "runs")}),
    "a Record stayed behind": (
        lambda r: says(r, "rq:job:ended", status="running"),
        {("record_unfinished", "ended")},
    ),
    "a log has no end": (lambda r: r.xdel("longshore:log:ended", "1-1"), {("log_without_end", "ended")}),
    "a log stays": (lambda r: r.persist("longshore:log:ended"), {("key_without_ttl", "longshore:log:ended")}),
    "a job's hash is gone": (
        lambda r: [r.rename("rq:job:runs", "x"), r.delete("longshore:limit:db", "longshore:parked:db")],
        set(),  # below: its claim's name has the token
    ),
    "a limit holds a place of nobody": (
        lambda r: r.hset("longshore:limit:db", "rq:job:ghost", "q"),
        {("place_of_nobody", "db/ghost")},
    ),
    "was set aside": (
        lambda r: (r.lrem("rq:queue:q", 0, "queued"), r.zadd("longshore:aside:q", {"queued": 1})),
        {("set_aside", "queued")},
    ),
    "nobody calls": (lambda r: r.hdel("longshore:limit:db", "rq:job:runs"), {("parked_uncalled", "parked")}),
    "webhooks are late": (
        lambda r: r.zadd("longshore:webhooks", {"{}": time.time() - 100}),
        {("webhooks_overdue", "longshore:webhooks")},
    ),
    "a consumer's key stays": (
        lambda r: r.hset("longshore:consumer:x", "name", "x"),
        {("key_without_ttl", "longshore:consumer:x")},
    ),
}

FAKTORY_FAULTS: dict[str, tuple[Callable[[redis.Redis], Any], set[tuple[str, str]]]] = {
    "the consumer died": (dies, {("claim_abandoned", "runs")}),
    "a claim is gone": (lambda r: r.zrem("longshore:claims:q", "runs"), {("started_without_claim", "runs")}),
    "a Record is gone": (lambda r: r.delete("longshore:job:runs"), {("claim_without_job", "runs")}),
    "an end wasn't told": (
        lambda r: r.hset("longshore:job:runs", mapping={"longshore_status": "failed", "longshore_ending": "[]"}),
        {("end_not_told", "runs")},
    ),
    "a log has no end": (lambda r: r.xdel("longshore:log:ended", "1-1"), {("log_without_end", "ended")}),
    "a Record stays": (lambda r: r.persist("longshore:job:ended"), {("key_without_ttl", "longshore:job:ended")}),
}


RQ_TOGETHER = (
    (
        "the consumer died",
        "a queued job is gone",
        "a scheduled job is gone",
        "a log has no end",
        "a consumer's key stays",
    ),
    ("a claim is gone", "a job waits twice", "a Record stayed behind", "a log stays", "webhooks are late"),
    ("a running job waits too", "an end wasn't told", "nobody calls"),
    ("a job's hash is gone", "a limit holds a place of nobody", "was set aside"),
)
FAKTORY_TOGETHER = (
    ("the consumer died", "a log has no end", "a Record stays"),
    ("a claim is gone",),
    ("a Record is gone",),
    ("an end wasn't told",),
)


def test_each_fault_is_tried() -> None:
    assert sorted(sum(RQ_TOGETHER, ())) == sorted(RQ_FAULTS)
    assert sorted(sum(FAKTORY_TOGETHER, ())) == sorted(FAKTORY_FAULTS)


@pytest.mark.parametrize("faults", RQ_TOGETHER, ids=lambda faults: faults[0])
async def test_rq(faults: tuple[str, ...], rq_side: Any, redis_client: redis.Redis) -> None:
    assert kinds(await rq_side()) == set()
    claim = f"runs:{token(redis_client, 'rq:job:runs')}"
    wanted: set[tuple[str, str]] = set()
    for fault in faults:
        break_it, found = RQ_FAULTS[fault]
        break_it(redis_client)
        wanted |= found or {("claim_without_job", claim)}
    assert kinds(await rq_side()) == wanted


@pytest.mark.parametrize("faults", FAKTORY_TOGETHER, ids=lambda faults: faults[0])
async def test_faktory(faults: tuple[str, ...], faktory_side: Any, redis_client: redis.Redis) -> None:
    assert kinds(await faktory_side()) == set()
    wanted: set[tuple[str, str]] = set()
    for fault in faults:
        break_it, found = FAKTORY_FAULTS[fault]
        break_it(redis_client)
        wanted |= found
    assert kinds(await faktory_side()) == wanted


async def test_what_a_consumer_mends_meanwhile_is_no_fault(rq_side: Any, redis_url: str, redis_client: Any) -> None:
    """Two looks: only what both find is told."""
    redis_client.rpush("rq:queue:q", "queued")
    redis_client.zrem("rq:scheduled:q", "later")
    settings = load_settings(queue_url=redis_url, queues="q")

    async def mend(seconds: float) -> None:
        assert seconds == 15
        redis_client.lrem("rq:queue:q", 1, "queued")

    looked = await audit(settings, 15, pause=mend)
    assert kinds(looked) == {("queued_nowhere", "later")}


async def test_what_is_too_much_is_told_and_nothing_is_called_lost(rq_side: Any, redis_client: redis.Redis) -> None:
    redis_client.rpush("rq:queue:q", *(f"x{i}" for i in range(600)))
    redis_client.lrem("rq:queue:q", 1, "queued")
    looked = await rq_side(most=500)
    assert looked.partial == ["rq:queue:q: only the first 500 entries were looked at"]
    assert kinds(looked) == set()


SPOILT = (
    ("rq:queue:q", "rq:wip:q", "rq:scheduled:q", "longshore:aside:q", "longshore:limit:db", "longshore:webhooks"),
    ("rq:job:runs", "longshore:parked:db", "longshore:called:db", "longshore:log:ended"),
    ("longshore:limits", "rq:deferred:q"),
)


@pytest.mark.parametrize("keys", SPOILT, ids=lambda keys: keys[0])
async def test_keys_of_wrong_types_are_told(keys: tuple[str, ...], rq_side: Any, redis_client: redis.Redis) -> None:
    for key in keys:
        redis_client.set(key, "written over", ex=100)
    looked = await rq_side()
    assert {("key_unusable", key) for key in keys} <= kinds(looked)
    assert "queued_nowhere" not in {fault.kind for fault in looked.faults}


async def test_a_claims_key_of_a_wrong_type_is_told(faktory_side: Any, redis_client: redis.Redis) -> None:
    redis_client.set("longshore:claims:q", "written over")
    assert ("key_unusable", "longshore:claims:q") in kinds(await faktory_side())


async def test_faktory_without_records_has_nothing_to_look_at() -> None:
    with pytest.raises(UsageError, match="records_url"):
        await audit(load_settings(queue_url="faktory://x", no_records=True))


def test_faults_in_other_forms() -> None:
    looked = Looked(counts={"claims": 2})
    assert plain(looked)["clean"]
    looked.add("two_pods", "j", "the job j runs twice")
    assert plain(looked)["faults"][0]["sort"] == "doubled"  # type: ignore[index]
    text = metrics(looked, 5.0)
    assert 'longshore_audit_faults{kind="two_pods",sort="doubled"} 1\n' in text
    assert text.count("longshore_audit_faults{") == len(KINDS)
    assert "longshore_audit_time_seconds 5\n" in text
