"""A Faktory queue on the fake server, and a record store that answers as a test says: for the tests of faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from consumer.model import Claim, Settlement, Signal, Verdict
from consumer.queues.faktory import FaktoryQueue
from consumer.queues.faktory_records import ClaimState, Taken
from consumer.queues.faktory_words import Ending
from enqueue.backends.faktory_aio import AsyncFaktoryClient
from enqueue.job import Job
from enqueue.record import Outcome, Record, Status
from enqueue.wire import faktory as wire
from enqueue.wire.faktory_fetched import Fetched
from support.fake_faktory import FakeFaktory

JOB = Job(image="alpine:3.20", commands=("true",), retries=3)


@dataclass
class Store:
    """A record store that answers as a test says."""

    verdict: Literal["ours", "held", "final", "failed"] = "ours"
    record: Record | None = None
    cancelled: bool = False
    refusal: Exception | None = None
    claim_errors: list[Exception] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    told_of: list[str] = field(default_factory=list)
    server: FakeFaktory | None = None
    order: list[str] = field(default_factory=list)

    async def takeover(self, queues: Sequence[str], slots: int) -> Sequence[Taken]:
        return []

    async def untold(self, queues: Sequence[str]) -> Sequence[Ending]:
        return []

    async def told(self, endings: Sequence[Ending]) -> Sequence[Exception | None]:
        self.told_of += [ending.jid for ending in endings]
        return [None] * len(endings)

    async def claim(self, fetched: Sequence[tuple[Fetched, str]]) -> Sequence[ClaimState | Exception]:
        return [self.claim_errors.pop(0) if self.claim_errors else self._state() for _ in fetched]

    def _state(self) -> ClaimState:
        attempt = self.record.attempt if self.record else 0
        return ClaimState(attempt + 1, self.record, self.cancelled, self.verdict)

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        return {claim.token: Signal.CANCEL for claim in claims}

    async def settle(self, ends: Sequence[tuple[Settlement, Ending]]) -> Sequence[Exception | None]:
        if not self.refusal:
            if self.server:
                self.order = self.server.verbs("FETCH", "PUSHB")
            self.settled += [settlement for settlement, _ in ends]
        return [self.refusal] * len(ends)


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


async def opening(server: FakeFaktory) -> AsyncIterator[Any]:
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
