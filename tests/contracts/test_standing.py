"""What both stores of Records say of an attempt whose pod somebody found, on a real Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio
import rq

from consumer.model import AttemptKey, Claim, LogPosition, Settlement, Standing, Verdict
from consumer.queues.faktory_records import FaktoryRecords
from consumer.queues.faktory_words import Ending
from consumer.queues.rq import RqQueue
from consumer.queues.rq_records import RqRecords
from consumer.recording import log_of, record_claimed, record_ended
from consumer.settings import Retention
from enqueue import Job
from enqueue.errors import QueueUnavailable
from enqueue.record import Outcome, Reason, Record, Status, Where
from enqueue.wire import records as wire
from enqueue.wire.faktory_fetched import Fetched

JOB = Job(image="x", commands=("true",))
SUCCESS = Outcome(status=Status.SUCCEEDED, exit_code=0)
FAILURE = Outcome(status=Status.FAILED, reason=Reason.EXIT_CODE, message="exited with code 3", exit_code=3)
RETENTION = Retention(success=100, failure=100)


class Rq:
    """An RQ queue with one job `j`."""

    def __init__(self, queue: RqQueue, client: redis.Redis) -> None:
        self.queue, self.client, self.records = queue, client, queue.records
        self.stock = rq.Queue("q", connection=client)
        self.key = "rq:job:j"

    async def enqueue(self) -> None:
        self.stock.enqueue("longshore.job", {"image": "x", "commands": ["true"]}, job_id="j", retry=rq.Retry(max=3))

    async def claim(self) -> Claim:
        [claim] = await self.queue.claim(1)
        return claim

    async def end(self, claim: Claim, outcome: Outcome, verdict: Verdict) -> None:
        refused = await self.queue.settle([Settlement(claim, verdict, outcome, final(claim, outcome, verdict))])
        assert refused == {}


class Faktory:
    """The store beside a Faktory queue, with one job `j`."""

    def __init__(self, records: FaktoryRecords, client: redis.Redis) -> None:
        self.records, self.client = records, client
        self.history: Record | None = None
        self.key = "longshore:job:j"

    async def enqueue(self) -> None:
        """Faktory's own affair."""

    async def claim(self) -> Claim:
        token = uuid.uuid4().hex
        [state] = await self.records.claim([(Fetched({"jid": "j", "queue": "q"}, 100), token)])
        assert not isinstance(state, Exception)
        assert state.verdict == "ours"
        claimed = Claim("j", "q", state.attempt, token, JOB, history=state.record)
        await self.records.write(claimed, record_claimed(claimed, "c", "null", ""))
        return claimed

    async def end(self, claim: Claim, outcome: Outcome, verdict: Verdict) -> None:
        settlement = Settlement(claim, verdict, outcome, final(claim, outcome, verdict))
        assert await self.records.settle([(settlement, Ending(claim.token, claim.id, (b"ACK",)))]) == [None]


def final(claim: Claim, outcome: Outcome, verdict: Verdict) -> Record:
    log = log_of("", LogPosition())
    return record_ended(record_claimed(claim, "c", "null", ""), outcome, verdict, Where(), None, log, time.time())


@pytest.fixture(params=["rq", "faktory"])
async def side(
    request: pytest.FixtureRequest, redis_url: str, redis_client: redis.Redis, async_redis: redis.asyncio.Redis
) -> AsyncIterator[Rq | Faktory]:
    if request.param == "rq":
        queue = RqQueue(redis_url, ("q",), consumer="c", max_bytes=10_000, retention=RETENTION, patience=0.1)
        await queue.open()
        yield Rq(queue, redis_client)
        await queue.close()
    else:
        store = FaktoryRecords(async_redis, "c", uuid.uuid4().hex, RETENTION)
        await store.arrive()
        yield Faktory(store, redis_client)


Stands = Callable[[int], Awaitable[Standing]]


@pytest.fixture
def stands(side: Rq | Faktory) -> Stands:
    async def ask(attempt: int) -> Standing:
        [answer] = await side.records.standing([AttemptKey("j", "q", attempt)])
        return answer

    return ask


async def test_a_jobs_life(side: Rq | Faktory, stands: Stands) -> None:
    assert await stands(1) is Standing.GONE
    await side.enqueue()
    first = await side.claim()
    assert await stands(1) is Standing.HELD
    await side.end(first, FAILURE, Verdict.RETRY)
    assert await stands(1) is Standing.FAILED
    assert await stands(2) is Standing.HELD, "whoever claims it next may adopt what runs"
    second = await side.claim()
    assert second.attempt == 2
    assert [await stands(1), await stands(2)] == [Standing.HELD, Standing.HELD], "a pod of either may be its own"
    await side.end(second, SUCCESS, Verdict.DONE)
    assert [await stands(1), await stands(2)] == [Standing.FAILED, Standing.ENDED]
    assert await stands(3) is Standing.GONE
    side.client.delete(side.key)
    assert await stands(2) is Standing.GONE


async def test_both_queues_may_share_a_store(side: Rq | Faktory, redis_url: str) -> None:
    """Its identity is one: whoever sweeps for either queue finds the pods of both, and may call none nobody's."""
    kind = FaktoryRecords if isinstance(side, Rq) else RqRecords
    mate = kind(redis.asyncio.Redis.from_url(redis_url), "d", uuid.uuid4().hex, RETENTION)
    await mate.arrive()

    async def stands() -> Standing:
        [answer] = await mate.standing([AttemptKey("j", "q", 1)])
        return answer

    assert await stands() is Standing.GONE
    await side.enqueue()
    claim = await side.claim()
    assert await stands() is Standing.HELD
    await side.end(claim, SUCCESS, Verdict.DONE)
    assert await stands() is Standing.ENDED
    await mate.redis.aclose()


async def test_a_dead_consumers_claim_is_held_until_it_is_taken_over(side: Rq | Faktory, stands: Stands) -> None:
    await side.enqueue()
    await side.claim()
    side.client.delete(*side.client.keys("longshore:consumer:*"))
    assert await stands(1) is Standing.HELD


async def test_what_stock_rq_gave_up_is_nobodys(side: Rq | Faktory, stands: Stands) -> None:
    if isinstance(side, Faktory):
        return
    await side.enqueue()
    await side.claim()
    side.client.delete("rq:wip:q")
    side.client.hset(side.key, "status", "failed")
    assert await stands(1) is Standing.GONE


async def test_the_identity_is_shared_and_a_store_without_it_says_nothing(side: Rq | Faktory, redis_url: str) -> None:
    mate = FaktoryRecords(redis.asyncio.Redis.from_url(redis_url), "d", uuid.uuid4().hex, RETENTION)
    await mate.arrive()
    assert mate.source == side.records.source
    assert len(mate.source) == 32
    side.client.delete(wire.SOURCE)
    with pytest.raises(QueueUnavailable, match="began with"):
        await side.records.standing([AttemptKey("j", "q", 1)])
    await mate.redis.aclose()


async def test_a_store_that_is_away_says_so(side: Rq | Faktory, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(side.records.redis, "get", refuse)
    with pytest.raises(QueueUnavailable, match="can't be read"):
        await side.records.standing([AttemptKey("j", "q", 1)])
