"""One job's story on doubles: the order of its steps, and every way in which it can end."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.errors import ExecutorFault
from consumer.model import Exit, Stop, Verdict
from consumer.switch import Switch
from enqueue.record import Attempt, Reason, Record, Status, Where
from support.story import Double, Run, Story


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
