"""How claims end on Faktory, as an operator and a producer see it: on the fake server and the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

import consumer.queues.faktory as module
from consumer.model import Settlement, Verdict
from enqueue.job import Job
from enqueue.record import Record
from enqueue.wire import faktory as wire
from support.faktory_servers import JOB, SERVERS, Open, Server, claim_all, ended, opening, serving


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async for one in serving(request.param):
        yield one


@pytest.fixture
async def opened(server: Server) -> AsyncIterator[Open]:
    async for open_queue in opening(server.url):
        yield open_queue


async def test_a_failed_job_goes_to_the_retries_and_says_why(server: Server, opened: Open) -> None:
    name = server.name()
    job = wire.build_job(JOB, name)
    await server.push(job)
    queue = await opened(name)
    (claim,) = await claim_all(queue, 1)
    text = "\n".join(f"line {number} <&>" for number in range(60))
    outcome = {"reason": "exit_code", "message": "exited with code 3: ä<b>", "hint": "The log says why."}
    assert await queue.settle([ended(claim, Verdict.RETRY, text=text, **outcome)]) == {}
    entry = await server.entry("retries", job["jid"])
    assert entry is not None
    assert entry.errtype == "exit_code"
    assert entry.message == "exited with code 3: ä<b> The log says why."
    assert entry.backtrace.splitlines() == [f"line {number} <&>" for number in range(10, 60)]
    assert await server.entry("dead", job["jid"]) is None


@pytest.mark.parametrize(("retry", "dead"), [(3, True), (25, True), (-1, True), (0, False)])
async def test_a_buried_job_is_dead_at_once(server: Server, opened: Open, retry: int, dead: bool) -> None:
    name = server.name()
    job = wire.build_job(JOB, name) | {"retry": retry}
    other = wire.build_job(JOB, name)
    await server.push(job, other)
    queue = await opened(name)
    claims = await claim_all(queue, 2)
    verdicts = {job["jid"]: Verdict.BURY, other["jid"]: Verdict.RETRY}
    settlements = [ended(claim, verdicts[claim.id], reason="exit_code", message="x") for claim in claims]
    assert await queue.settle(settlements) == {}
    entry = await server.entry("dead", job["jid"])
    assert (entry is not None) is dead
    assert entry is None or (entry.errtype, entry.message) == ("exit_code", "x")
    assert await server.entry("retries", job["jid"]) is None
    assert await server.entry("retries", other["jid"]) is not None


async def test_a_fault_of_the_infrastructure_is_no_failure_of_the_job(server: Server, opened: Open) -> None:
    name = server.name()
    job = wire.build_job(Job(image="alpine", commands=("true",)), name)
    assert job["retry"] == -1
    await server.push(job)
    queue = await opened(name)
    (claim,) = await claim_all(queue, 1)
    settlement = ended(claim, Verdict.RETRY, reason="node_lost", message="x", infrastructure=True)
    assert await queue.settle([settlement]) == {}
    assert await server.entry("scheduled", job["jid"]) is not None
    assert await server.entry("dead", job["jid"]) is None
    assert await server.entry("retries", job["jid"]) is None
    if server.fake:
        server.fake.promote()
        (claim,) = await claim_all(queue, 1)
        assert (claim.attempt, claim.retries_left, claim.job) == (2, 0, Job(image="alpine", commands=("true",)))


@pytest.mark.parametrize(("verdict", "replies"), [(Verdict.DONE, 1), (Verdict.BURY, 1), (Verdict.RETRY, 0)])
async def test_the_reply_job_carries_the_record(server: Server, opened: Open, verdict: Verdict, replies: int) -> None:
    name, answers = server.name(), server.name()
    job = wire.build_job(JOB.model_copy(update={"reply_to": answers}), name)
    await server.push(job)
    queue = await opened(name)
    (claim,) = await claim_all(queue, 1)
    settlement = ended(claim, verdict, message="x")
    assert await queue.settle([settlement]) == {}
    assert await server.size(answers) == replies
    if replies:
        reply = await server.fetch(answers)
        assert reply is not None
        assert reply["jobtype"] == "longshore.outcome"
        assert reply["retry"] == 25
        assert reply["custom"] == {"reply_for": job["jid"]}
        assert Record.loads(reply["args"][0]) == settlement.record


async def test_a_connection_that_was_lost_before_settling_is_made_again(server: Server, opened: Open) -> None:
    name = server.name()
    jobs = [wire.build_job(JOB, name) for _ in range(2)]
    await server.push(*jobs)
    queue = await opened(name)
    first, second = await claim_all(queue, 2)
    queue._link.drop()
    assert await queue.settle([ended(first), ended(second, Verdict.RETRY, reason="signal", message="m")]) == {}
    assert await server.entry("retries", second.id) is not None
    assert await server.entry("retries", first.id) is None


async def test_a_late_done_discards_the_leftover_retry(
    server: Server, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MARGIN", 100_000.0)
    name = server.name()
    job, other = wire.build_job(JOB, name), wire.build_job(JOB, name)
    await server.push(job, other)
    queue = await opened(name)
    claims = {claim.id: claim for claim in await claim_all(queue, 2)}
    # as if its reservation had ended: it stands in the retries while it still runs here
    await queue.settle([ended(claims[other["jid"]], Verdict.RETRY, message="x")])
    if server.fake:
        server.fake.expire(job["jid"])
    else:
        await server.client._run(_failing(job["jid"]))
    assert await server.entry("retries", job["jid"]) is not None
    assert await queue.settle([ended(claims[job["jid"]])]) == {}
    assert await server.entry("retries", job["jid"]) is None
    assert await server.entry("retries", other["jid"]) is not None


def _failing(jid: str) -> Any:
    yield [wire.fail(jid, "ReservationExpired", "Faktory job reservation expired")]


async def test_a_failure_whose_reservation_is_over_counts_as_told(server: Server, opened: Open) -> None:
    name = server.name()
    jobs = [wire.build_job(JOB, name) for _ in range(2)]
    await server.push(*jobs)
    queue = await opened(name)
    retried, buried = await claim_all(queue, 2)
    for job in jobs:
        await server.client._run(_failing(job["jid"]))
    settlements: Sequence[Settlement] = [ended(retried, Verdict.RETRY), ended(buried, Verdict.BURY)]
    assert await queue.settle(settlements) == {}
    assert await server.entry("retries", retried.id) is not None
    assert await server.entry("retries", buried.id) is None
    assert await server.entry("dead", buried.id) is not None
