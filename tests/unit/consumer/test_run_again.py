"""What a job's Record tells whoever goes on with it after its consumer: variables, and why it was being stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from consumer.errors import ExecutorFault
from consumer.model import Claim, Exit, LogPosition, Stop, Verdict
from consumer.switch import Switch
from enqueue.job import Job
from enqueue.record import Reason, Record, Status, Where
from support.story import Double, Run, Slow, Store, Story


async def test_variables_are_in_the_record_while_the_job_runs_without_secrets(story: Story, run: Run) -> None:
    executor = Slow(story)
    job = Job(commands=["true"], variables=[{"name": "T", "value": "s3cret", "sensitive": True}])
    task = run(executor, job=job)
    executor.more.put_nowait(b"::set-outcome-var a=1\n::set-outcome-var b=s3cret\n")
    record = await story.writes(variables={"a": "1", "b": "***"})
    assert record.status is Status.RUNNING
    executor.more.put_nowait(b"::set-outcome-var a=2\n")
    await story.writes(variables={"a": "2", "b": "***"})
    executor.more.put_nowait(None)
    executor.end(Exit(code=0, ended_at=2.0))
    outcome = await task
    assert outcome is not None
    assert outcome.variables == {"a": "2", "b": "***"}


async def test_variables_that_only_a_former_consumer_read_are_in_the_outcome(story: Story, run: Run) -> None:
    """Their lines aren't in the log any more: the node has rotated it."""
    executor = Slow(story)
    former = Record(id="j", attempt=1, status=Status.RUNNING, variables={"a": "1", "b": "1"})
    task = run(executor, history=former)
    record = await story.writes(status=Status.RUNNING)
    assert record.variables == {"a": "1", "b": "1"}  # or the next consumer wouldn't know them
    executor.more.put_nowait(b"::set-outcome-var b=2\n")
    executor.more.put_nowait(None)
    executor.end(Exit(code=0, ended_at=2.0))
    outcome = await task
    assert outcome is not None
    assert outcome.variables == {"a": "1", "b": "2"}


async def test_variables_of_a_former_attempt_are_not_those_of_the_next(story: Story, run: Run) -> None:
    executor = Double(story)
    executor.output = [b"hello\n"]
    former = Record(id="j", attempt=1, status=Status.QUEUED, variables={"a": "1"})
    task = run(executor, history=former, attempt=2)
    executor.end(Exit(code=0, ended_at=2.0))
    outcome = await task
    assert outcome is not None
    assert outcome.variables == {}
    assert {str(record.variables) for record in story.written} == {"{}"}


BEGUN = Record(id="j", attempt=1, status=Status.RUNNING, where=Where(consumer="former"))


def gone() -> ExecutorFault:
    return ExecutorFault("there is no pod", Reason.POD_DELETED, started=True)


@pytest.mark.parametrize(
    ("former", "message"),
    [
        (BEGUN, "cancelled while it ran"),
        (BEGUN.model_copy(update={"status": Status.STARTING}), "cancelled before it started"),
    ],
    ids=["running", "starting"],
)
async def test_a_former_consumer_had_stopped_the_cancelled_job_and_died(
    story: Story, run: Run, former: Record, message: str
) -> None:
    """It isn't started a second time, and its end is the cancel, not that there is nothing any more."""
    executor = Double(story, detachable=True)
    executor.starts = [gone()]
    outcome = await run(executor, history=former, cancelled=True)
    assert outcome is not None
    assert (outcome.status, outcome.reason, outcome.message) == (Status.CANCELLED, "requested", message)
    assert [plan.begun for plan in executor.plans] == [True]


@pytest.mark.parametrize(("executor", "pod"), [("double", "ls-a-1"), ("other", None)])
async def test_a_job_that_goes_on_is_where_it_was(story: Story, run: Run, executor: str, pod: str | None) -> None:
    """Before it is found again, and if it never is."""
    second = Double(story, detachable=True)
    second.starts = [gone()]
    former = BEGUN.model_copy(update={"where": Where(executor=executor, pod="ls-a-1", consumer="former")})
    await run(second, history=former)
    assert [record.where.pod for record in story.written] == [pod] * len(story.written)
    assert story.settled[0].record.where == Where(executor=second.name, pod=pod, consumer="me")


async def test_a_former_consumer_had_stopped_the_overdue_job_and_died(story: Story, run: Run) -> None:
    """The infrastructure is not to blame, so the job isn't tried again on its account."""
    first, switch = Slow(story), Switch()
    task = run(first, switch, timeout=5.0, job=Job(commands=["true"], infrastructure_retries=3))
    await story.writes(status=Status.RUNNING)
    switch.set(Stop.DEADLINE)
    record = await story.writes(reason="deadline")
    assert record.status is Status.RUNNING
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    second = Double(story, detachable=True)
    second.starts = [gone()]
    job = Job(commands=["true"], infrastructure_retries=3)
    outcome = await run(second, history=record, timeout=5.0, job=job)
    assert outcome is not None
    assert (outcome.reason, outcome.message) == ("deadline", "ran longer than its timeout of 5 s")
    assert [plan.begun for plan in second.plans] == [True]
    assert [settlement.verdict for settlement in story.settled] == [Verdict.BURY]


async def test_a_former_consumer_was_stopping_the_overdue_job_and_died(story: Story, run: Run) -> None:
    executor = Slow(story)
    former = BEGUN.model_copy(update={"reason": "deadline", "message": "ran longer than its timeout of 5 s"})
    executor.more.put_nowait(None)
    outcome = await run(executor, history=former, timeout=5.0)
    assert outcome is not None
    assert outcome.reason == "deadline"
    assert "stop" in story.steps


OVERDUE = BEGUN.model_copy(update={"reason": "deadline", "message": "ran longer than its timeout of 5 s"})
KILLED = Exit(code=137, signal=9, started_at=1.0, ended_at=9.0)
DELETED = replace(KILLED, reason=Reason.POD_DELETED)


@pytest.mark.parametrize(
    ("former", "cancelled", "exit", "reason"),
    [
        (OVERDUE, False, DELETED, "deadline"),
        (OVERDUE, False, KILLED, "deadline"),
        (OVERDUE, False, replace(KILLED, code=0, signal=None), "deadline"),
        (OVERDUE, False, Exit(code=3, started_at=1.0, ended_at=3.0), "exit_code"),
        (BEGUN, True, DELETED, "requested"),
        (BEGUN, True, KILLED, "requested"),
        (BEGUN, True, Exit(code=3, started_at=1.0, ended_at=3.0), "exit_code"),
        (BEGUN, False, DELETED, "pod_deleted"),
    ],
)
async def test_what_a_former_consumer_has_stopped_and_is_over_when_it_is_found_ended_by_that(
    story: Story, run: Run, former: Record, cancelled: bool, exit: Exit, reason: str
) -> None:
    executor = Slow(story)
    executor.more.put_nowait(None)
    executor.end(exit)
    outcome = await run(executor, history=former, cancelled=cancelled, timeout=5.0)
    assert outcome is not None
    assert outcome.reason == reason


@pytest.mark.parametrize("status", [Status.RUNNING, Status.STARTING])
async def test_a_log_whose_end_nobody_read_isnt_called_whole(
    story: Story, run: Run, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    """Its pod is gone with what it wrote after its consumer's death."""
    stored = LogPosition(entries=2, lines=7, bytes=70)

    async def end_unread(store: Store, claim: Claim) -> LogPosition:
        return stored.unfinished

    monkeypatch.setattr(Store, "end_unread", end_unread)
    executor = Double(story, detachable=True)
    executor.starts = [gone()]
    former = BEGUN.model_copy(update={"status": status})
    outcome = await run(executor, history=former, cancelled=status is Status.STARTING)
    assert outcome is not None
    assert outcome.log is not None
    assert (outcome.log.entries, outcome.log.lines, outcome.log.complete) == (2, 7, "gap")
    assert list(outcome.log.gaps) == [{"reason": "not_read_to_its_end", "after_line": 7}]


async def test_what_a_start_waits_for_is_in_the_record_while_it_waits(
    story: Story, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.telling.WAIT_PAUSE", 0.01)
    begun = asyncio.Event()

    class Pending(Double):
        async def started(self) -> float:
            await begun.wait()
            return 1.0

    executor = Pending(story)
    executor.waiting_for = "0/3 nodes have s3cret"
    task = run(executor, job=Job(commands=["true"], variables=[{"name": "T", "value": "s3cret", "sensitive": True}]))
    record = await story.writes(message="0/3 nodes have ***")
    assert record.status is Status.STARTING
    executor.waiting_for = "node n is setting it up"
    await story.writes(message="node n is setting it up")
    begun.set()
    record = await story.writes(status=Status.RUNNING)
    assert record.message is None
    executor.end(Exit(code=0, ended_at=2.0))
    outcome = await task
    assert outcome is not None
    assert outcome.message is None


@pytest.mark.parametrize(
    ("status", "found", "said"),
    [
        (Status.RUNNING, True, (Status.SUCCEEDED, None)),
        (Status.STARTING, True, (Status.SUCCEEDED, None)),
        (Status.RUNNING, False, (Status.FAILED, "pod_deleted")),
        (Status.STARTING, False, (Status.FAILED, "refused")),
        (Status.QUEUED, False, (Status.FAILED, "refused")),
    ],
)
async def test_what_isnt_allowed_any_more_is_only_looked_for(
    story: Story, run: Run, status: Status, found: bool, said: tuple[Status, str | None]
) -> None:
    executor = Double(story, detachable=True)
    executor.problems = [(Reason.REFUSED, "image: isn't allowed")]
    executor.starts = [None if found else gone()]
    executor.end(Exit(code=0, ended_at=2.0))
    outcome = await run(executor, history=BEGUN.model_copy(update={"status": status}))
    assert outcome is not None
    assert (outcome.status, outcome.reason) == said
    assert [plan.begun for plan in executor.plans] == ([] if status is Status.QUEUED else [True])


async def test_what_ran_and_cant_be_found_here_is_lost_and_not_refused(story: Story, run: Run) -> None:
    executor = Double(story)
    executor.problems = [(Reason.REFUSED, "image: isn't allowed")]
    outcome = await run(executor, history=BEGUN)
    assert outcome is not None
    assert (outcome.reason, executor.plans) == ("consumer_lost", [])
