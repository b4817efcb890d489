"""Faktory's faults on the fake server: lost connections and replies, restarts, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest

import consumer.queues.faktory_settling as settling
from consumer.errors import SetupError
from consumer.model import Claim, Verdict
from consumer.queues.faktory import FaktoryQueue
from enqueue.backends.faktory_aio import AsyncFaktoryClient
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.errors import QueueUnavailable
from enqueue.wire import faktory as wire
from support.fake_faktory import FakeFaktory
from support.faktory_faults import ended, job, opening, until_it_raises

SECRET = "s3cr3t"


@pytest.fixture
async def server() -> AsyncIterator[FakeFaktory]:
    async with FakeFaktory() as fake:
        yield fake


@pytest.fixture
async def opened(server: FakeFaktory) -> AsyncIterator[Any]:
    async for open_queue in opening(server):
        yield open_queue


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
    assert (claims[1].id, claims[1].attempt, claims[1].retries_left) == (lost["jid"], 2, 3)  # it was no try


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


@pytest.mark.row(51)
async def test_a_worker_that_the_server_has_forgotten_comes_back(server: FakeFaktory, opened: Any) -> None:
    it = await opened(beat_every=0.01)
    first, second = await it.claims(job(), job())
    beats = sum(verb == "BEAT" for verb, _ in server.ledger)
    server.workers.clear()  # as after 60 s without a heartbeat: forgotten, and cut off
    server.disconnect()
    assert await it.queue.settle([ended(first)]) == {}
    await server.saw("BEAT", beats + 3)
    assert set(server.workers) == {it.queue.worker.wid}
    assert await it.queue.settle([ended(second, Verdict.RETRY)]) == {}
    (third,) = await it.claims(job())
    await it.queue.settle([ended(third)])
    assert not server.working
    assert [entry["jid"] for entry in server.retries] == [second.id]


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
