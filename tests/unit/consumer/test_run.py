"""One job's story on doubles: the order of its steps, and every way in which it can end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from consumer.errors import ClaimLost, ExecutorFault
from consumer.logs.follow import Follower
from consumer.model import Claim, Exit, Plan, Settlement, Stop, Verdict
from consumer.queues.none import NoRecords
from consumer.run import Tools, run_job
from consumer.settings import load_settings
from consumer.switch import Switch
from enqueue.job import Job
from enqueue.record import Attempt, Outcome, Reason, Record, Status, Where

CLAIM = Claim("j", "q", 1, "t", Job(commands=["true"]), claimed_at=1.0)


@dataclass
class Story:
    """What happened, in order; and what shall happen."""

    steps: list[str] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    lose_writes: bool = False
    refuse_settle: bool = False


class Double:
    """An executor and its only execution."""

    name = "double"
    silent = False
    trouble: str | None = None

    def __init__(self, story: Story, *, detachable: bool = False) -> None:
        self.story, self.detachable, self.portable = story, detachable, detachable
        self.where = Where(pod="p")
        self.starts: list[Exception | None] = [None]
        self.problems: list[tuple[Reason, str]] = []
        self.ending: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.output = [b"::set-outcome-var a=1\n", b"hello\n"]
        self.begun = asyncio.Event()
        self.plans: list[Plan] = []

    def end(self, exit: Exit | Exception) -> None:
        if isinstance(exit, Exception):
            self.ending.set_exception(exit)
        else:
            self.ending.set_result(exit)

    def refuse(self, plan: Plan) -> Iterable[tuple[Reason, str]]:
        return self.problems

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def start(self, plan: Plan) -> Double:
        self.story.steps.append("start")
        self.plans.append(plan)
        problem = self.starts.pop(0)
        if problem is not None:
            raise problem
        self.begun.set()
        return self

    async def logs(self, after: str = "") -> AsyncIterator[bytes]:
        for chunk in self.output:
            yield chunk

    def watched(self, seconds: float) -> None:
        pass

    async def started(self) -> float:
        return time.time()

    async def wait(self) -> Exit:
        return await asyncio.shield(self.ending)

    async def stop(self, grace: float) -> None:
        self.story.steps.append("stop")
        if not self.ending.done():
            self.end(Exit(code=143, signal=15, ended_at=2.0))

    async def remove(self, *, failed: bool = False) -> None:
        self.story.steps.append("remove")

    async def detach(self) -> None:
        self.story.steps.append("detach")


class Store(NoRecords):
    def __init__(self, story: Story) -> None:
        self.story = story

    async def write(self, claim: Claim, record: Record) -> None:
        if self.story.lose_writes:
            raise ClaimLost("not ours")
        self.story.steps.append(f"write {record.status.value}")


Run = Callable[..., "asyncio.Task[Outcome | None]"]


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def run(story: Story, monkeypatch: pytest.MonkeyPatch) -> Run:
    async def no_pause(seconds: float) -> None: ...

    async def settle(settlement: Settlement) -> None:
        if story.refuse_settle:
            raise ClaimLost("taken")
        story.steps.append("settle")
        story.settled.append(settlement)

    def begin(executor: Double, switch: Switch | None = None, **change: Any) -> asyncio.Task[Outcome | None]:
        settings = load_settings(name="me")
        tools = Tools(
            executor=executor,
            records=Store(story),
            settings=settings,
            follower=lambda claim: Follower(claim, lambda claim, former: [], settings.logs),
            settle=settle,
            requeues=True,
        )
        return asyncio.create_task(run_job(replace(CLAIM, **change), tools, switch or Switch()))

    monkeypatch.setattr("consumer.run.asyncio.sleep", no_pause)
    return begin


async def test_the_straight_way_keeps_its_order(story: Story, run: Run) -> None:
    executor = Double(story)
    task = run(executor)
    await executor.begun.wait()
    executor.end(Exit(code=0, ended_at=2.0))
    outcome = await task
    assert outcome is not None
    assert (outcome.status, outcome.variables) == (Status.SUCCEEDED, {"a": "1"})
    assert [s for s in story.steps if s != "write running"] == ["write starting", "start", "settle", "remove"]
    (settlement,) = story.settled
    assert (settlement.verdict, settlement.record.status) == (Verdict.DONE, Status.SUCCEEDED)
    assert settlement.record.log.lines == 1


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        (Stop.CANCEL, Status.CANCELLED, "requested"),
        (Stop.DEADLINE, Status.FAILED, "deadline"),
        (Stop.SHUTDOWN, Status.FAILED, "consumer_stopped"),
    ],
)
async def test_a_stopped_job_tells_why_even_if_it_ended_well(
    story: Story, run: Run, reason: Stop, status: Status, why: str
) -> None:
    executor, switch = Double(story), Switch()
    task = run(executor, switch)
    await executor.begun.wait()
    switch.set(reason)
    switch.set(Stop.LOST)  # the first reason wins
    outcome = await task
    assert outcome is not None
    assert (outcome.status, outcome.reason) == (status, why)
    assert story.steps[-3:] == ["stop", "settle", "remove"]


@pytest.mark.parametrize(("reason", "steps"), [(Stop.SHUTDOWN, ["detach"]), (Stop.LOST, ["detach"])])
async def test_what_runs_without_us_is_let_go(story: Story, run: Run, reason: Stop, steps: list[str]) -> None:
    executor, switch = Double(story, detachable=True), Switch()
    task = run(executor, switch)
    await executor.begun.wait()
    switch.set(reason)
    assert await task is None
    assert story.steps[-1:] == steps
    assert story.settled == []
    assert "remove" not in story.steps


async def test_a_lost_claim_of_what_cant_run_without_us_is_ended_and_not_told(story: Story, run: Run) -> None:
    executor, switch = Double(story), Switch()
    task = run(executor, switch)
    await executor.begun.wait()
    switch.set(Stop.LOST)
    assert await task is None
    assert story.steps[-2:] == ["stop", "remove"]
    assert story.settled == []


async def test_a_claim_lost_before_the_start_starts_nothing(story: Story, run: Run) -> None:
    story.lose_writes = True
    assert await run(Double(story)) is None
    assert story.steps == []


async def test_a_settlement_that_the_queue_refuses_removes_no_pod(story: Story, run: Run) -> None:
    executor = Double(story, detachable=True)
    story.refuse_settle = True
    task = run(executor)
    await executor.begun.wait()
    executor.end(Exit(code=0, ended_at=2.0))
    assert await task is None
    assert "remove" not in story.steps


@pytest.mark.parametrize(("times", "down"), [(2, False), (4, True)], ids=["three times", "while nothing starts"])
async def test_a_start_that_fails_is_tried(times: int, down: bool, story: Story, run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr("consumer.start.START_PAUSE", 0)
    executor = Double(story)
    executor.starts = [ExecutorFault("no API", down=down)] * times + [None]
    task = run(executor)
    await executor.begun.wait()
    executor.end(Exit(code=0, ended_at=2.0))
    outcome = await task
    assert outcome is not None
    assert outcome.succeeded
    assert story.steps.count("start") == times + 1


async def test_a_start_that_may_have_begun_is_not_tried_again(story: Story, run: Run) -> None:
    executor = Double(story)
    executor.starts = [ExecutorFault("who knows", started=True)]
    outcome = await run(executor, retries_left=5)
    assert outcome is not None
    assert (outcome.reason, story.settled[0].verdict) == ("executor_error", Verdict.BURY)
    assert story.steps.count("start") == 1


async def test_a_job_that_ran_under_a_dead_consumer_is_never_started_again_here(story: Story, run: Run) -> None:
    history = Record(id="j", attempt=1, status=Status.RUNNING, where=Where(consumer="dead"))
    outcome = await run(Double(story), history=history)
    assert outcome is not None
    assert (outcome.reason, outcome.message) == ("consumer_lost", "consumer dead died while it ran the job")
    assert "start" not in story.steps


async def test_where_it_can_be_found_it_is_looked_for(story: Story, run: Run) -> None:
    history = Record(id="j", attempt=1, status=Status.RUNNING)
    executor = Double(story, detachable=True)
    task = run(executor, history=history)
    await executor.begun.wait()
    executor.end(Exit(code=0, ended_at=2.0))
    assert await task is not None
    assert executor.plans[0].begun


async def test_a_new_attempt_is_a_new_start(story: Story, run: Run) -> None:
    history = Record(id="j", attempt=1, status=Status.QUEUED, attempts=(Attempt(attempt=1, status=Status.FAILED),))
    executor = Double(story)
    task = run(executor, history=history, attempt=2)
    await executor.begun.wait()
    executor.end(Exit(code=0, ended_at=2.0))
    assert await task is not None
    assert not executor.plans[0].begun
    assert [a.attempt for a in story.settled[0].record.attempts] == [1, 2]


async def test_fields_that_the_executor_refuses_are_told_together(story: Story, run: Run) -> None:
    executor = Double(story)
    executor.problems = [(Reason.REFUSED, "labels: no"), (Reason.REFUSED, "secrets: no")]
    outcome = await run(executor, retries_left=3)
    assert outcome is not None
    assert (outcome.reason, outcome.message) == ("refused", "labels: no; secrets: no")
    assert (story.steps, story.settled[0].verdict) == (["settle"], Verdict.BURY)


async def test_a_job_that_is_wrong_by_itself_is_that_first(story: Story, run: Run) -> None:
    executor = Double(story)
    executor.problems = [(Reason.REFUSED, "secrets: no"), (Reason.INVALID_JOB, "image: is required")]
    outcome = await run(executor)
    assert outcome is not None
    assert (outcome.reason, outcome.message) == ("invalid_job", "secrets: no; image: is required")


async def test_an_invalid_payload_is_settled_without_a_start(story: Story, run: Run) -> None:
    outcome = await run(Double(story), job=None, problem="commands: is required", retries_left=3)
    assert outcome is not None
    assert (outcome.reason, outcome.message) == ("invalid_job", "commands: is required")
    assert story.steps == ["settle"]


async def test_a_cancelled_claim_never_starts(story: Story, run: Run) -> None:
    outcome = await run(Double(story), cancelled=True)
    assert outcome is not None
    assert (outcome.status, story.steps) == (Status.CANCELLED, ["settle"])


async def test_an_execution_that_gets_lost_is_told(story: Story, run: Run) -> None:
    executor = Double(story)
    task = run(executor)
    await executor.begun.wait()
    executor.end(ExecutorFault("pod gone", started=True))
    outcome = await task
    assert outcome is not None
    assert (outcome.reason, outcome.message) == ("executor_error", "pod gone")
    assert "settle" in story.steps


async def test_a_bug_of_ours_ends_the_job_and_what_runs(story: Story, run: Run) -> None:
    executor = Double(story)
    task = run(executor)
    await executor.begun.wait()
    executor.end(KeyError("s3cret"))
    outcome = await task
    assert outcome is not None
    assert outcome.reason == "executor_error"
    assert "KeyError" in (outcome.message or "")
    assert "s3cret" not in (outcome.message or "")
    assert story.steps[-3:] == ["settle", "stop", "remove"]


async def test_a_cancelled_claim_that_runs_already_is_found_and_stopped(story: Story, run: Run) -> None:
    history = Record(id="j", attempt=1, status=Status.RUNNING)
    executor = Double(story, detachable=True)
    outcome = await run(executor, history=history, cancelled=True)
    assert outcome is not None
    assert (outcome.status, outcome.message) == (Status.CANCELLED, "cancelled while it ran")
    assert story.steps[-3:] == ["stop", "settle", "remove"]


async def test_a_job_whose_end_cant_be_seen_is_given_up(
    story: Story, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.run.STOP_PATIENCE", -10.0)  # no wait beyond the grace, and none for that
    executor, switch = Double(story, detachable=True), Switch()

    async def stop(grace: float) -> None:
        story.steps.append("stop")

    executor.stop = stop  # type: ignore[method-assign]
    task = run(executor, switch)
    await executor.begun.wait()
    switch.set(Stop.CANCEL)
    outcome = await task
    assert outcome is not None
    assert outcome.status is Status.CANCELLED
    assert story.steps[-4:] == ["stop", "settle", "stop", "remove"]
