"""Cancel, shutdown and deadline at each moment of a job's life: what is stopped, what is told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumer.errors import ClaimCancelled, ExecutorFault
from consumer.logs.follow import Follower
from consumer.model import Claim, Exit, Plan, Settlement, Stop, Verdict
from consumer.outcome import cancelled_settlement, outcome_of
from consumer.queues.none import NoRecords
from consumer.run import Tools, run_job
from consumer.settings import load_settings
from consumer.switch import Switch
from enqueue.job import Job
from enqueue.record import Outcome, Reason, Record, Status, Times, Where
from enqueue.times import rfc3339

CLAIM = Claim("j", "q", 1, "t", Job(commands=["true"]), claimed_at=1.0)


class Execution:
    """Ends when it is told to."""

    where = Where(pod="p")
    waiting_for = ""

    def __init__(self, end: Exit | None = None, *, begun_at: float | None = None) -> None:
        self.ending: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.end, self.begun_at = end or Exit(code=143, signal=15, ended_at=2.0), begun_at
        self.stops = self.removals = 0
        self.deaf_to: list[ExecutorFault] = []

    async def started(self) -> float:
        if self.begun_at is None:
            await asyncio.shield(self.ending)
        return self.begun_at or time.time()

    async def wait(self) -> Exit:
        return await asyncio.shield(self.ending)

    async def stop(self, grace: float) -> None:
        self.stops += 1
        if self.deaf_to:
            raise self.deaf_to.pop(0)
        if not self.ending.done():
            self.ending.set_result(self.end)

    async def remove(self, *, failed: bool = False) -> None:
        self.removals += 1

    async def detach(self) -> None: ...


@dataclass
class Hanging:
    """An executor whose start never comes back, as without an API server; but a look may find what it made."""

    left: Execution | None = None
    detachable: bool = True
    portable: bool = True
    looks_fail: int = 0
    trouble: str | None = None
    name: str = "double"
    silent: bool = True
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    def refuse(self, plan: Plan) -> tuple[()]:
        return ()

    async def start(self, plan: Plan) -> Execution:
        if plan.begun:
            if self.looks_fail:
                self.looks_fail -= 1
                raise ExecutorFault("no API")
            if self.left is None:
                raise ExecutorFault("none of this name", started=True)
            return self.left
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError


class Ready(Hanging):
    """An executor that starts at once."""

    async def start(self, plan: Plan) -> Execution:
        assert self.left is not None
        self.started.set()
        return self.left


async def run(
    executor: Hanging, reason: Stop | None = None, **change: Any
) -> tuple[Outcome | None, list[Settlement], Switch]:
    settled: list[Settlement] = []

    async def settle(settlement: Settlement) -> None:
        settled.append(settlement)

    settings, switch = load_settings(name="me"), Switch()
    follower = lambda claim: Follower(claim, lambda claim, former: [], settings.logs)  # noqa: E731
    tools = Tools(executor, NoRecords(), settings, follower, settle, requeues=True)  # type: ignore[arg-type]
    claim = Claim(**{k: getattr(CLAIM, k) for k in CLAIM.__slots__} | change)
    task = asyncio.create_task(run_job(claim, tools, switch))
    await executor.started.wait()
    if reason is not None:
        switch.set(reason)
    return await task, settled, switch


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.start.INTERRUPT_SECONDS", 0.0)
    monkeypatch.setattr("consumer.start.START_PAUSE", 0.0)
    monkeypatch.setattr("consumer.run.STOP_PAUSE", 0.0)


async def test_a_start_that_hangs_is_cancelled_and_nothing_is_left() -> None:
    executor = Hanging()
    outcome, settled, _ = await run(executor, Stop.CANCEL)
    assert outcome is not None
    assert (outcome.status, outcome.message) == (Status.CANCELLED, "cancelled before it started")
    assert executor.cancelled
    assert settled[0].verdict is Verdict.DONE


async def test_what_an_interrupted_start_made_is_found_stopped_and_removed() -> None:
    left = Execution(Exit(code=None, started=False, ended_at=2.0))
    outcome, _, _ = await run(Hanging(left), Stop.CANCEL)
    assert outcome is not None
    assert (outcome.status, outcome.message) == (Status.CANCELLED, "cancelled while it was starting")
    assert (left.stops, left.removals) == (1, 1)


async def test_nobody_is_told_that_a_job_is_cancelled_before_it_is_known_what_runs() -> None:
    left = Execution(Exit(code=143, started=True, ended_at=2.0))
    executor = Hanging(left, looks_fail=3)
    outcome, _, _ = await run(executor, Stop.CANCEL)
    assert outcome is not None
    assert (outcome.status, outcome.message) == (Status.CANCELLED, "cancelled while it ran")
    assert (executor.looks_fail, left.stops, left.removals) == (0, 1, 1)


@pytest.mark.parametrize("reason", [Stop.SHUTDOWN, Stop.LOST])
async def test_a_start_that_hangs_is_let_go(reason: Stop) -> None:
    executor = Hanging()
    outcome, settled, _ = await run(executor, reason)
    assert (outcome, settled, executor.cancelled) == (None, [], True)


async def test_a_start_that_hangs_and_dies_with_us_is_told() -> None:
    outcome, settled, _ = await run(Hanging(detachable=False), Stop.SHUTDOWN)
    assert outcome is not None
    assert (outcome.reason, settled[0].verdict) == ("consumer_stopped", Verdict.RETRY)


async def test_a_stop_that_is_not_taken_at_once_is_asked_for_again() -> None:
    left = Execution(begun_at=1.0)
    left.deaf_to = [ExecutorFault("no API"), ExecutorFault("no API")]
    outcome, _, _ = await run(Ready(left), Stop.CANCEL)
    assert outcome is not None
    assert (outcome.status, outcome.message, left.stops) == (Status.CANCELLED, "cancelled while it ran", 3)


async def test_a_cancelled_job_is_cancelled_even_if_its_end_is_lost() -> None:
    left = Execution(begun_at=1.0)
    left.deaf_to = [ExecutorFault("no right to delete pods")]
    left.ending.set_exception(ExecutorFault("no right to get pods", started=True))
    executor = Ready(left)
    executor.started.set()
    switchless, settled, _ = await run(executor)
    assert switchless is not None
    assert (switchless.status, switchless.reason) == (Status.FAILED, "executor_error")
    left = Execution(begun_at=1.0)

    async def stop(grace: float) -> None:
        if left.ending.done():
            raise ExecutorFault("no right to delete pods")
        left.ending.set_exception(ExecutorFault("no right to get pods", started=True))

    left.stop = stop  # type: ignore[method-assign]
    outcome, settled, _ = await run(Ready(left), Stop.CANCEL)
    assert outcome is not None
    assert (outcome.status, settled[0].verdict) == (Status.CANCELLED, Verdict.DONE)
    assert outcome.message == "cancelled while it ran; it couldn't be seen to end: no right to get pods"


@pytest.mark.parametrize(
    ("ended_at", "reason"),
    [(1050.0, "exit_code"), (1059.0, "exit_code"), (1060.0, "deadline"), (1061.0, "deadline"), (None, "deadline")],
)
def test_an_end_in_time_that_is_seen_too_late_is_no_deadline(ended_at: float | None, reason: str) -> None:
    exit = Exit(code=3, started_at=1000.0, ended_at=ended_at)
    assert outcome_of(exit, Stop.DEADLINE, 60, {}).reason == reason


@pytest.mark.parametrize(
    ("number", "why", "reason"),
    [(15, None, "deadline"), (9, None, "deadline"), (9, Reason.OUT_OF_MEMORY, "out_of_memory"), (11, None, "signal")],
)
def test_a_job_that_we_stopped_is_not_told_as_killed_by_somebody(number: int, why: Reason | None, reason: str) -> None:
    exit = Exit(code=128 + number, signal=number, reason=why, started_at=1000.0, ended_at=1050.0)
    assert outcome_of(exit, Stop.DEADLINE, 60, {}).reason == reason


async def _due(execution: Execution, claim: Claim, records: NoRecords) -> float:
    """In how many seconds the deadline of a job that runs is due."""

    async def settle(settlement: Settlement) -> None:
        return

    due: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    switch = Switch()
    switch.due = due.set_result  # type: ignore[method-assign]
    settings = load_settings(name="me")
    tools = Tools(
        Ready(execution),  # type: ignore[arg-type]
        records,
        settings,
        lambda claim: Follower(claim, lambda claim, former: [], settings.logs),
        settle,
        requeues=True,
    )
    task = asyncio.create_task(run_job(claim, tools, switch))
    found = await due
    execution.ending.set_result(Exit(code=0, ended_at=2.0))
    await task
    return found


@pytest.mark.parametrize("skew", [-600.0, 0.0, 600.0])
async def test_the_nodes_clock_moves_no_deadline(skew: float) -> None:
    """A job that starts before our eyes has all of its time, whatever its node says when it was."""
    claim = Claim("j", "q", 1, "t", Job(commands=["true"], timeout=60), claimed_at=time.time())
    assert await _due(Execution(begun_at=time.time() + skew), claim, NoRecords()) == 60.0


@pytest.mark.parametrize("ahead", [-600.0, 0.0, 600.0])
async def test_the_clock_of_the_next_consumer_moves_no_deadline(ahead: float) -> None:
    """A job that was claimed 40 s ago by the store's clock has the rest of its time, whatever our clock says."""
    records, now = NoRecords(), time.time()
    records.ahead = ahead
    history = Record(id="j", attempt=1, status=Status.RUNNING, times=Times(claimed=rfc3339(now - ahead - 40)))
    job = Job(commands=["true"], timeout=300)
    claim = Claim("j", "q", 1, "t", job, claimed_at=now - ahead, history=history)
    left = await _due(Execution(begun_at=now - ahead - 39), claim, records)
    assert 200 < left <= 261.001


async def test_a_job_that_is_found_again_keeps_its_deadline() -> None:
    now = time.time()
    left = Execution(begun_at=now - 5000)  # the node's clock is far behind
    history = Record(id="j", attempt=1, status=Status.RUNNING, times=Times(claimed=rfc3339(now - 40)))
    task = asyncio.create_task(run(Ready(left), job=Job(commands=["true"], timeout=0.001), history=history))
    outcome, _, switch = await task
    assert outcome is not None
    assert (outcome.reason, switch.reason) == ("deadline", Stop.DEADLINE)


@pytest.mark.parametrize(
    ("started", "message"),
    [("2026-01-01T00:00:00Z", "cancelled while it ran"), (None, "cancelled while it was starting")],
)
def test_a_cancel_that_comes_before_the_settlement_says_what_it_met(started: str | None, message: str) -> None:
    record = Record(id="j", times=Times(started=started))
    outcome = Outcome(status=Status.FAILED, reason=Reason.EXIT_CODE)
    told = cancelled_settlement(Settlement(CLAIM, Verdict.RETRY, outcome, record))
    assert (told.outcome.message, told.verdict) == (message, Verdict.DONE)


async def test_what_its_queue_has_cancelled_is_stopped_and_not_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock rq's `job.cancel()` takes the claim away: a Record may hear of it before the heartbeat does."""

    async def write(self: NoRecords, claim: Claim, record: Record) -> None:
        if record.status is Status.RUNNING:
            raise ClaimCancelled("cancelled by its queue")

    monkeypatch.setattr(NoRecords, "write", write)
    left = Execution(begun_at=1.0)
    outcome, settled, switch = await run(Ready(left))
    assert outcome is not None
    assert (outcome.status, switch.reason, left.stops, len(settled)) == (Status.CANCELLED, Stop.CANCEL, 1, 1)
