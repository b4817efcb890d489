"""What longshore expects of Faktory and promises on it: one suite for the fake server and the real one."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import faktory as pypi_faktory
import pytest

from consumer.model import Verdict
from consumer.queues.faktory import FaktoryQueue
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.errors import ProtocolError
from enqueue.job import JOB_NAME
from enqueue.wire import faktory as wire
from support.consuming import until
from support.faktory_servers import JOB, SERVERS, Open, Server, claim_all, ended, opening, serving


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async for one in serving(request.param):
        yield one


@pytest.fixture
async def opened(server: Server) -> AsyncIterator[Open]:
    async for open_queue in opening(server.url):
        yield open_queue


# --- the producers' clients


async def test_sync_client(server: Server) -> None:
    name = server.name()

    def use() -> tuple[dict[str, str], dict[str, Any]]:
        with FaktoryClient(server.url) as client:
            client.push(wire.build_job(JOB, name))
            client.queue("PAUSE", name)
            client.queue("RESUME", name)
            jobs = [wire.build_job(JOB, name) for _ in range(1100)]
            refused = client.push_many([*jobs, wire.build_job(JOB, name, jid="short")])
            client.mutate("discard", "retries", jid=jobs[0]["jid"])
            with pytest.raises(ProtocolError, match="jid"):
                client.push(wire.build_job(JOB, name, jid="short"))
            return refused, client.info()

    refused, info = await asyncio.to_thread(use)
    assert list(refused) == ["short"]
    assert info["faktory"]["queues"][name] == 1101


async def test_sync_client_is_shared_by_threads(server: Server) -> None:
    name = server.name()
    client = FaktoryClient(server.url)

    def push() -> None:
        for _ in range(20):
            client.push(wire.build_job(JOB, name))

    def use() -> None:
        threads = [threading.Thread(target=push) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.close()

    await asyncio.to_thread(use)
    assert await server.size(name) == 160


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_sync_client_survives_a_fork(server: Server) -> None:
    name = server.name()

    def use() -> int:
        client = FaktoryClient(server.url)
        client.push(wire.build_job(JOB, name))
        client._lock.acquire()  # as if another thread were just speaking
        child = os.fork()
        if child == 0:
            try:
                client.push(wire.build_job(JOB, name))
                os._exit(0)
            finally:
                os._exit(1)
        client._lock.release()
        _, status = os.waitpid(child, 0)
        client.push(wire.build_job(JOB, name))
        client.close()
        return status

    assert await asyncio.to_thread(use) == 0
    assert await server.size(name) == 3


async def test_async_client(server: Server) -> None:
    name = server.name()
    client = server.client
    await client.push(wire.build_job(JOB, name))
    await asyncio.gather(*(client.push(wire.build_job(JOB, name)) for _ in range(20)))
    refused = await client.push_many([wire.build_job(JOB, name), wire.build_job(JOB, name, jid="short")])
    assert list(refused) == ["short"]
    with pytest.raises(ProtocolError, match="jid"):
        await client.push(wire.build_job(JOB, name, jid="short"))
    assert await server.size(name) == 22


# --- claiming


async def test_claims_come_in_strict_order(server: Server, opened: Open) -> None:
    high, low = server.name(), server.name()
    await server.push(*(wire.build_job(JOB, low) for _ in range(3)), *(wire.build_job(JOB, high) for _ in range(3)))
    queue = await opened(high, low)
    claims = await claim_all(queue, 6, slots=1)
    assert [claim.queue for claim in claims] == [high] * 3 + [low] * 3
    assert [claim.attempt for claim in claims] == [1] * 6
    assert len({claim.token for claim in claims}) == 6
    assert all(claim.job == JOB and claim.problem is None for claim in claims)
    assert all(claim.retries_left == 3 and claim.timeout is None for claim in claims)
    assert all(claim.queued_at is not None and claim.queued_at <= claim.claimed_at for claim in claims)
    await queue.settle([ended(claim) for claim in claims])


@pytest.mark.parametrize("connections", [1, 4])
async def test_no_more_is_claimed_than_there_are_slots(server: Server, opened: Open, connections: int) -> None:
    name = server.name()
    await server.push(*(wire.build_job(JOB, name) for _ in range(20)))
    queue = await opened(name, fetch_connections=connections)
    claims = await claim_all(queue, 3)
    assert await queue.claim(0) == []
    claims += await queue.drain()
    assert len(claims) == 3
    assert await server.size(name) == 17
    await queue.settle([ended(claim) for claim in claims])
    if server.fake:
        assert server.fake.most_fetching <= min(3, connections)
        assert not server.fake.working


async def test_many_are_claimed_and_settled_once(server: Server, opened: Open) -> None:
    name = server.name()
    jobs = [wire.build_job(JOB, name) for _ in range(150)]
    await server.push(*jobs)
    queue = await opened(name)
    claims = await claim_all(queue, 150)
    assert await queue.settle([ended(claim) for claim in claims]) == {}
    assert {claim.id for claim in claims} == {job["jid"] for job in jobs}
    assert await server.size(name) == 0


async def test_an_empty_queue_gives_nothing_in_a_bounded_time(server: Server, opened: Open) -> None:
    queue = await opened(server.name())
    assert await queue.claim(10) == []


async def test_a_cancelled_claim_loses_nothing(server: Server, opened: Open) -> None:
    name = server.name()
    queue = await opened(name)
    await server.push(wire.build_job(JOB, name), wire.build_job(JOB, name))
    (first,) = await claim_all(queue, 1)
    claiming = asyncio.ensure_future(queue.claim(1))
    await asyncio.sleep(0)
    claiming.cancel()
    with suppress(asyncio.CancelledError):
        await claiming
    (second,) = await claim_all(queue, 1)
    assert first.id != second.id
    await queue.settle([ended(first), ended(second)])


async def test_drain_returns_what_was_in_flight(server: Server, opened: Open) -> None:
    name = server.name()
    queue = await opened(name)
    if server.fake:
        server.fake.patience = 60  # the FETCH isn't over before the push
    claiming = asyncio.ensure_future(queue.claim(1))
    if server.fake:
        await server.fake.saw("FETCH")
    else:
        await until(lambda: any(fetcher.busy for fetcher in queue._fetchers))
    claiming.cancel()
    await server.push(wire.build_job(JOB, name))
    (claim,) = await queue.drain()
    await queue.settle([ended(claim)])
    assert await server.size(name) == 0
    assert await queue.claim(5) == []


async def test_a_redelivered_job_is_adopted(server: Server, opened: Open) -> None:
    name = server.name()
    job = wire.build_job(JOB, name) | {"reserve_for": 60}
    await server.push(job, job, wire.build_job(JOB, name))  # Faktory takes the same jid twice
    queue = await opened(name, fetch_connections=1)
    claims = await claim_all(queue, 2, slots=1)
    assert [claim.id for claim in claims].count(job["jid"]) == 1
    assert await queue.settle([ended(claim) for claim in claims]) == {}
    assert await server.size(name) == 0


async def test_a_job_that_ended_here_and_comes_again_is_acked(server: Server, opened: Open) -> None:
    name = server.name()
    job = wire.build_job(JOB, name)
    await server.push(job)
    queue = await opened(name)
    await queue.settle([ended(claim) for claim in await claim_all(queue, 1)])
    await server.push(job, other := wire.build_job(JOB, name))
    (claim,) = await claim_all(queue, 1)
    assert claim.id == other["jid"]
    await queue.settle([ended(claim)])
    if server.fake:
        await server.fake.saw("ACK", 3)
        assert not server.fake.working


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"jobtype": "SomethingElse"}, "jobtype: this consumer runs 'longshore.job', not 'SomethingElse'"),
    ({"args": []}, "args: must hold exactly one object, the Job, not 0 arguments"),
    ({"args": [{}, {}]}, "args: must hold exactly one object, the Job, not 2 arguments"),
    ({"args": ["text"]}, "the job must be an object"),
    ({"args": [{"comands": ["true"]}]}, "unknown field 'comands': did you mean 'commands'?"),
    ({"args": [{"commands": ["true"], "timeout": "1"}]}, "timeout: must be a number, not text"),
    ({"args": [{"commands": ["x" * 30_000]}]}, "args: 30019 bytes are more than the 20000 allowed"),
    ({"args": [{"commands": ["x" * 5_000_000]}]}, "bytes are more than the 20000 allowed"),
]


async def test_an_invalid_payload_says_why_and_is_buried(server: Server, opened: Open) -> None:
    name = server.name()
    jobs = [wire.build_job(JOB, name) | change for change, _ in INVALID]
    await server.push(*jobs)
    queue = await opened(name, max_bytes=20_000)
    claims = {claim.id: claim for claim in await claim_all(queue, len(jobs))}
    for job, (_, problem) in zip(jobs, INVALID, strict=True):
        assert claims[job["jid"]].job is None
        assert problem in str(claims[job["jid"]].problem)
    settlements = [ended(claim, Verdict.BURY, reason="invalid_job", message=claim.problem) for claim in claims.values()]
    assert await queue.settle(settlements) == {}
    for job, (_, problem) in zip(jobs, INVALID, strict=True):
        entry = await server.entry("dead", job["jid"])
        assert entry is not None
        assert entry.errtype == "invalid_job"
        assert problem in entry.message
        assert await server.entry("retries", job["jid"]) is None


# --- others


@pytest.mark.faktory
async def test_a_job_pushed_by_the_pypi_client_is_claimed() -> None:
    url = os.environ.get("FAKTORY_URL") or pytest.skip("FAKTORY_URL names no server")
    server = Server(url, None)
    name = server.name()

    def push() -> None:
        client = pypi_faktory.Client(faktory=url)
        client.connect()
        jid = secrets.token_hex(12)
        assert client.queue(**JOB.as_faktory(), queue=name, jid=jid)
        server._jids.append(jid)
        client.disconnect()

    await asyncio.to_thread(push)
    queue = FaktoryQueue(url, [name], records=None, consumer="tests", max_bytes=1_000_000)
    await queue.open()
    try:
        (claim,) = await claim_all(queue, 1)
        assert claim.job == JOB
        assert claim.retries_left == 3
        assert claim.native["jobtype"] == JOB_NAME
        assert claim.native["reserve_for"] == 86_400
        assert await queue.settle([ended(claim)]) == {}
        await queue.drain()
    finally:
        await queue.close()
        await server.clean()
