"""What may happen to claims on Faktory, on the fake server: quiet, ended reservations, what the Records know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog.testing

import consumer.queues.faktory as module
from consumer.errors import ClaimLost
from consumer.model import Signal, Verdict
from enqueue.errors import QueueUnavailable
from enqueue.record import Attempt, Record, Status
from support.consuming import until
from support.fake_faktory import FakeFaktory
from support.faktory_faults import Store, ended, job, opening


@pytest.fixture
async def server() -> AsyncIterator[FakeFaktory]:
    async with FakeFaktory() as fake:
        yield fake


@pytest.fixture
async def opened(server: FakeFaktory) -> AsyncIterator[Any]:
    async for open_queue in opening(server):
        yield open_queue


# --- heartbeat


@pytest.mark.parametrize("state", ["quiet", "terminate"])
async def test_quiet_and_terminate(server: FakeFaktory, opened: Any, state: str) -> None:
    server.patience = 60
    it = await opened(beat_every=0.01)
    claiming = asyncio.ensure_future(it.queue.claim(5))
    await server.saw("FETCH")
    server.workers[it.queue.worker.wid] = state
    seen = sum(verb == "BEAT" for verb, _ in server.ledger)
    await server.saw("BEAT", seen + 2)
    assert it.queue.quiet
    assert it.queue.terminated.is_set() is (state == "terminate")
    assert not it.queue.stopping.is_set()  # what is in flight must be handed out first
    await it.push(job())
    (claim,) = await claiming
    await it.push(job())
    assert await it.queue.claim(5) == []
    assert it.queue.stopping.is_set()
    assert server.verbs().count("FETCH") == 1
    await it.queue.settle([ended(claim)])
    assert f'"current_state":"{state}"' in [text for verb, text in server.ledger if verb == "BEAT"][-1]


async def test_a_forgotten_worker_greets_again(server: FakeFaktory, opened: Any) -> None:
    it = await opened(beat_every=0.01)
    await server.saw("BEAT")
    server.workers.clear()
    seen = sum(verb == "BEAT" for verb, _ in server.ledger)
    await server.saw("BEAT", seen + 3)
    assert list(server.workers) == [it.queue.worker.wid]
    assert len(it.queue.worker.wid) == 16
    assert '"rss_kb":' in [text for verb, text in server.ledger if verb == "BEAT"][-1]


# --- reservations


async def test_an_expired_reservation_is_adopted(server: FakeFaktory, opened: Any) -> None:
    it = await opened()
    (claim,) = await it.claims(job())
    server.expire(claim.id)
    server.promote()
    assert await it.queue.claim(5) == []
    assert list(server.working) == [claim.id]
    assert await it.queue.settle([ended(claim)]) == {}
    assert not server.working
    assert "MUTATE" not in server.verbs()


async def test_a_late_bury_reaches_the_job_that_waits_already(
    server: FakeFaktory, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MARGIN", 100_000.0)
    it = await opened()
    (claim,) = await it.claims(job())
    server.expire(claim.id)
    server.promote()
    assert await it.queue.settle([ended(claim, Verdict.BURY)]) == {}
    assert not server.dead
    assert await it.queue.claim(5) == []
    await server.saw("MUTATE", 2)
    assert await it.queue.claim(5) == []
    assert not server.queues["q"]
    assert not server.working
    assert not server.retries
    assert [entry["jid"] for entry in server.dead] == [claim.id]


# --- records


async def test_records_count_the_attempts(server: FakeFaktory, opened: Any) -> None:
    attempts = (
        Attempt(attempt=1, status=Status.FAILED, reason="exit_code"),
        Attempt(attempt=2, status=Status.FAILED, reason="node_lost"),
    )
    store = Store(record=Record(id="x", attempt=2, attempts=attempts), cancelled=True, server=server)
    it = await opened(records=store)
    (claim,) = await it.claims(job())
    assert (claim.attempt, claim.retries_left, claim.cancelled, claim.history) == (3, 2, True, store.record)
    assert await it.queue.beat([claim]) == {claim.token: Signal.CANCEL}
    assert await it.queue.settle([ended(claim)]) == {}
    assert "ACK" not in store.order  # the Record comes first
    assert "ACK" in server.verbs()


async def test_a_job_at_its_end_is_acked_and_not_run(server: FakeFaktory, opened: Any) -> None:
    it = await opened(records=Store(verdict="final"))
    await it.push(job())
    assert await it.queue.claim(5) == []
    await server.saw("ACK")
    assert await it.queue.claim(5) == []
    assert not server.working


async def test_a_job_that_another_consumer_runs_is_left_alone(server: FakeFaktory, opened: Any) -> None:
    it = await opened(records=Store(verdict="held"))
    await it.push(job())
    assert await it.queue.claim(5) == []
    assert len(server.working) == 1
    assert not {"ACK", "FAIL"} & set(server.verbs())


async def test_a_claim_that_was_fenced_off_tells_faktory_nothing(server: FakeFaktory, opened: Any) -> None:
    store = Store()
    it = await opened(records=store)
    first, second = await it.claims(job(), job())
    store.refusal = ClaimLost("gone")
    assert await it.queue.settle([ended(first)]) == {first.token: store.refusal}
    assert not {"ACK", "FAIL"} & set(server.verbs())
    store.refusal = None
    assert await it.queue.settle([ended(second)]) == {}
    assert list(server.working) == [first.id]


async def test_records_that_are_away_lose_no_claim(server: FakeFaktory, opened: Any) -> None:
    it = await opened(records=Store(claim_errors=[QueueUnavailable("away")]))
    (claim,) = await it.claims(job())
    assert await it.queue.settle([ended(claim)]) == {}


async def test_nothing_more_is_fetched_while_the_records_are_away(server: FakeFaktory, opened: Any) -> None:
    store = Store(claim_errors=[QueueUnavailable("away")] * 1000)
    it = await opened(records=store)
    await it.push(*(job() for _ in range(50)))
    claiming = asyncio.ensure_future(it.queue.claim(50))
    await until(lambda: len(store.claim_errors) < 997)
    assert len(server.working) <= 4, "should this consumer die, they would wait for the end of their reservations"
    store.claim_errors.clear()
    claims = [*await claiming]
    while len(claims) < 50:
        claims += await it.queue.claim(50)
    assert len({claim.id for claim in claims}) == 50


async def test_what_may_happen_to_its_jobs_is_told_once_for_a_queue(server: FakeFaktory, opened: Any) -> None:
    it = await opened()
    with structlog.testing.capture_logs() as logs:
        await it.claims(*(job(retry=0) for _ in range(5)))
    events = [entry["event"] for entry in logs]
    assert events.count("retry_is_0") == 1
    assert events.count("reservation_may_end_first") == 1
