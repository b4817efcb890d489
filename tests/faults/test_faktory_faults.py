"""Faktory's faults, one by one, on the fake server: lost replies, restarts, ended reservations, quiet, lost claims."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

import consumer.queues.faktory as module
import consumer.queues.faktory_settling as settling
from consumer.errors import ClaimLost, SetupError
from consumer.model import Claim, Settlement, Signal, Verdict
from consumer.queues.faktory import FaktoryQueue
from consumer.queues.records import ClaimState
from enqueue.backends.faktory_aio import AsyncFaktoryClient
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.errors import QueueUnavailable
from enqueue.job import Job
from enqueue.record import Attempt, Outcome, Record, Status
from enqueue.wire import faktory as wire
from support.fake_faktory import FakeFaktory

JOB = Job(image="alpine:3.20", commands=("true",), retries=3)
SECRET = "s3cr3t"


@pytest.fixture
async def server() -> AsyncIterator[FakeFaktory]:
    async with FakeFaktory() as fake:
        yield fake


@dataclass
class Store:
    """A record store that answers as a test says."""

    verdict: Literal["ours", "held", "final"] = "ours"
    record: Record | None = None
    cancelled: bool = False
    refusal: Exception | None = None
    claim_errors: list[Exception] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    server: FakeFaktory | None = None
    order: list[str] = field(default_factory=list)

    async def claim(self, jid: str, queue: str, token: str, consumer: str, seconds: float) -> ClaimState:
        if self.claim_errors:
            raise self.claim_errors.pop(0)
        attempt = self.record.attempt if self.record else 0
        return ClaimState(attempt + 1, self.record, self.cancelled, self.verdict)

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        return {claim.token: Signal.CANCEL for claim in claims}

    async def settle(self, settlement: Settlement) -> None:
        if self.refusal:
            raise self.refusal
        if self.server:
            self.order = self.server.verbs("FETCH", "PUSHB")
        self.settled.append(settlement)


class Opened:
    """A queue that is open, with its server."""

    def __init__(self, server: FakeFaktory, queue: FaktoryQueue) -> None:
        self.server, self.queue = server, queue

    async def push(self, *jobs: dict[str, Any]) -> None:
        async with AsyncFaktoryClient(self.server.url) as client:
            assert await client.push_many(jobs) == {}

    async def claims(self, *jobs: dict[str, Any]) -> list[Claim]:
        await self.push(*jobs)
        claims: list[Claim] = []
        while len(claims) < len(jobs):
            claims += await self.queue.claim(len(jobs) - len(claims))
        return claims


@pytest.fixture
async def opened(server: FakeFaktory) -> AsyncIterator[Any]:
    queues: list[FaktoryQueue] = []

    async def open_queue(**options: Any) -> Opened:
        given = {"records": None, "consumer": "tests", "max_bytes": 1_000_000, "patience": 0.01} | options
        queue = FaktoryQueue(server.url, ["q"], **given)
        queues.append(queue)
        await queue.open()
        return Opened(server, queue)

    yield open_queue
    for queue in queues:
        await queue.drain()
        await queue.close()


async def until_it_raises(queue: FaktoryQueue) -> None:
    while True:
        assert await queue.claim(5) == []


def ended(claim: Claim, verdict: Verdict = Verdict.DONE, **changes: Any) -> Settlement:
    status = Status.SUCCEEDED if verdict is Verdict.DONE else Status.FAILED
    outcome = Outcome(status=status, reason=None if verdict is Verdict.DONE else "exit_code", message="m")
    record = Record(id=claim.id, queue=claim.queue, attempt=claim.attempt, status=status)
    return Settlement(claim, verdict, outcome, record, **changes)


def job(**changes: Any) -> dict[str, Any]:
    return wire.build_job(JOB, "q") | changes


# --- clients


@pytest.mark.parametrize("when", ["before", "after"])
async def test_clients_send_again_what_was_lost(server: FakeFaktory, when: Literal["before", "after"]) -> None:
    client = AsyncFaktoryClient(server.url)
    sync = FaktoryClient(server.url)
    for pushed in (client.push, lambda built: asyncio.to_thread(sync.push, built)):
        built = job()
        await pushed(job())
        server.drop("PUSH", when)
        await pushed(built)
        found = [there["jid"] for there in server.queues["q"]].count(built["jid"])
        assert found == (1 if when == "before" else 2)
        server.drop("PUSH", "before", times=2)
        with pytest.raises(QueueUnavailable, match="can't be reached"):
            await pushed(job())
    await client.close()
    await asyncio.to_thread(sync.close)


async def test_clients_come_back_after_a_restart(server: FakeFaktory) -> None:
    client = AsyncFaktoryClient(server.url)
    sync = FaktoryClient(server.url)
    await client.push(job())
    await asyncio.to_thread(sync.push, job())
    await server.stop()
    with pytest.raises(QueueUnavailable, match=f"Faktory at 127.0.0.1:{server.port} can't be reached"):
        await client.push(job())
    with pytest.raises(QueueUnavailable, match=f"Faktory at 127.0.0.1:{server.port} can't be reached"):
        await asyncio.to_thread(sync.push, job())
    await server.start(server.port)
    await client.push(job())
    await asyncio.to_thread(sync.push, job())
    assert len(server.queues["q"]) == 4
    await client.close()
    await asyncio.to_thread(sync.close)


async def test_passwords() -> None:
    async with FakeFaktory(password=SECRET) as server:
        async with AsyncFaktoryClient(server.url) as client:
            await client.push(job())
        with FaktoryClient(server.url) as sync:
            await asyncio.to_thread(sync.push, job())
        assert SECRET not in repr(client) + repr(sync)
        for wrong in (server.url.replace(SECRET, "wr0ng"), server.url.replace(f":{SECRET}@", "")):
            with pytest.raises(wire.Unwelcome, match="password") as refused:
                await AsyncFaktoryClient(wrong).push(job())
            assert "wr0ng" not in str(refused.value)
            with pytest.raises(wire.Unwelcome, match="password"):
                await asyncio.to_thread(FaktoryClient(wrong).push, job())
            queue = FaktoryQueue(wrong, ["q"], records=None, consumer="c", max_bytes=1000)
            with pytest.raises(SetupError, match="password"):
                await queue.open()
            await queue.close()


async def test_a_server_that_is_down_is_said_so() -> None:
    server = FakeFaktory()
    await server.start()
    await server.stop()
    queue = FaktoryQueue(f"tcp://:{SECRET}@127.0.0.1:{server.port}", ["q"], records=None, consumer="c", max_bytes=1000)
    for call in (queue.open, lambda: queue.claim(1)):
        with pytest.raises(QueueUnavailable, match=f"127.0.0.1:{server.port} can't be reached") as refused:
            await call()
        assert SECRET not in str(refused.value)
    await queue.close()


# --- lost connections


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["ACK", "FAIL", "PUSH", "MUTATE"])
async def test_settling_goes_on_after_a_lost_connection(
    server: FakeFaktory, opened: Any, verb: str, when: Literal["before", "after"]
) -> None:
    it = await opened()
    claims = await it.claims(job(custom={"reply_to": "answers"}), job(), job(), job(retry=-1))
    server.drop(verb, when)
    verdicts = (Verdict.DONE, Verdict.RETRY, Verdict.BURY, Verdict.BURY)
    assert await it.queue.settle([ended(c, v) for c, v in zip(claims, verdicts, strict=True)]) == {}
    assert not server.working
    assert [entry["jid"] for entry in server.retries] == [claims[1].id]
    assert sorted(entry["jid"] for entry in server.dead) == sorted([claims[2].id, claims[3].id])
    assert {reply["jid"] for reply in server.queues["answers"]} == {server.queues["answers"][0]["jid"]}
    assert server.queues["answers"][0]["custom"]["reply_for"] == claims[0].id


async def test_a_repeated_requeue_is_one_job(server: FakeFaktory, opened: Any) -> None:
    it = await opened()
    (claim,) = await it.claims(job())
    server.drop("PUSH", "after")
    assert await it.queue.settle([ended(claim, Verdict.RETRY, infrastructure=True)]) == {}
    assert not server.working
    assert len({str(entry) for entry in server.scheduled}) == 1  # Faktory keeps equal entries once


async def test_a_lost_fetch_is_made_up_for(server: FakeFaktory, opened: Any) -> None:
    it = await opened()
    server.drop("FETCH", "before")
    server.drop("FETCH", "after")
    lost, kept = job(), job()
    await it.push(lost, kept)
    claims: list[Claim] = []
    while not claims:
        claims += await it.queue.claim(5)
    assert [claim.id for claim in claims] == [kept["jid"]]
    server.expire(lost["jid"])
    server.promote()
    while len(claims) < 2:
        claims += await it.queue.claim(5)
    assert (claims[1].id, claims[1].attempt, claims[1].retries_left) == (lost["jid"], 2, 2)


async def test_a_server_that_drops_every_fetch_is_not_stormed(server: FakeFaktory, opened: Any) -> None:
    it = await opened()
    server.drop("FETCH", "before", times=100)
    with pytest.raises(QueueUnavailable, match="drops our connections"):
        await until_it_raises(it.queue)


async def test_a_refused_fetch_makes_the_caller_wait(server: FakeFaktory, opened: Any) -> None:
    it = await opened()
    server.refuse("FETCH", "LOADING Redis is loading the dataset in memory")
    with pytest.raises(QueueUnavailable, match="LOADING"):
        await it.queue.claim(1)


async def test_a_restart_keeps_wid_and_claims(server: FakeFaktory, opened: Any) -> None:
    it = await opened(beat_every=0.01)
    first, second = await it.claims(job(), job())
    await server.stop()
    waiting = asyncio.ensure_future(it.queue.settle([ended(first)]))
    with pytest.raises(QueueUnavailable):
        await until_it_raises(it.queue)
    await server.start(server.port)
    assert await waiting == {}
    assert await it.queue.settle([ended(second, Verdict.RETRY)]) == {}
    assert not server.working
    (third,) = await it.claims(job())
    assert third.attempt == 1
    assert {hello["wid"] for hello in server.hellos if "wid" in hello} == {it.queue.worker.wid}
    await it.queue.settle([ended(third)])


async def test_close_ends_the_waiting(server: FakeFaktory, opened: Any) -> None:
    it = await opened()
    (claim,) = await it.claims(job())
    await it.queue.drain()
    await server.stop()
    waiting = asyncio.ensure_future(it.queue.settle([ended(claim)]))
    await asyncio.sleep(0)
    await it.queue.close()
    assert isinstance((await waiting)[claim.token], QueueUnavailable)
    await server.start(server.port)


@pytest.mark.parametrize("verb", ["ACK", "FAIL", "MUTATE", "PUSH"])
async def test_what_faktory_refuses_once_is_sent_again(server: FakeFaktory, opened: Any, verb: str) -> None:
    it = await opened()
    done, buried, again = await it.claims(job(custom={"reply_to": "answers"}), job(), job())
    server.refuse(verb, "strange")
    settlements = [ended(done), ended(buried, Verdict.BURY), ended(again, Verdict.RETRY, infrastructure=True)]
    assert await it.queue.settle(settlements) == {}
    assert not server.working
    assert not server.retries
    assert [entry["jid"] for entry in server.dead] == [buried.id]
    assert {entry["jid"] for entry in server.scheduled} == {again.id}
    assert len(server.queues["answers"]) == 1


async def test_a_requeue_that_is_refused_for_good_keeps_the_reservation(
    server: FakeFaktory, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_ROUNDS", 2)
    it = await opened()
    done, again = await it.claims(job(custom={"reply_to": "answers"}), job())
    server.refuse("PUSH", "OOM", times=100)
    refused = await it.queue.settle([ended(done), ended(again, Verdict.RETRY, infrastructure=True)])
    assert list(refused) == [again.token]
    assert "OOM" in str(refused[again.token])
    assert list(server.working) == [again.id]


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
