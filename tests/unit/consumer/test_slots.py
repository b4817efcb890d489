"""When a slot is free again: once the queue has taken a job's end and nothing of the job runs any more."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Mapping, Sequence

import pytest
import structlog

from consumer.errors import ClaimLost
from consumer.logs.follow import Follower
from consumer.model import Claim, Exit, Plan, Settlement, Signal, Verdict
from consumer.queues.none import NoRecords
from consumer.settings import Settings
from consumer.tasks import AT_ONCE, end
from consumer.worker import Worker
from enqueue.job import Job
from enqueue.record import Status, Where
from support.consuming import until

LINES: list[dict[str, str]] = []
"""What each line of the log would say beside its own words, at each removal."""


class Execution:
    """Has ended at once; its removal takes until somebody says so."""

    where = Where(pod="p")

    def __init__(self, exit: Exit, may_go: asyncio.Event) -> None:
        self.exit, self.may_go = exit, may_go

    async def started(self) -> float:
        return 1.0

    async def wait(self) -> Exit:
        return self.exit

    async def stop(self, grace: float) -> None: ...

    async def remove(self, *, failed: bool = False) -> None:
        LINES.append(structlog.contextvars.get_contextvars())
        await self.may_go.wait()

    async def detach(self) -> None: ...


class Executor:
    name, detachable, portable, silent, trouble = "double", True, True, True, None

    def __init__(self, exit: Exit) -> None:
        self.exit, self.may_go = exit, asyncio.Event()
        self.started = 0

    def refuse(self, plan: Plan) -> tuple[()]:
        return ()

    async def start(self, plan: Plan) -> Execution:
        self.started += 1
        return Execution(self.exit, self.may_go)


class Queue:
    """Gives jobs for ever."""

    requeues = hands_over = True

    def __init__(self) -> None:
        self.stopping, self.terminated = asyncio.Event(), asyncio.Event()
        self.claims = self.settled = 0

    async def claim(self, slots: int) -> Sequence[Claim]:
        self.claims += 1
        number = str(self.claims)
        return [Claim(number, "q", 1, number, Job(commands=["true"]), claimed_at=1.0)]

    async def drain(self) -> Sequence[Claim]:
        return []

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        return {}

    async def settle(self, batch: Sequence[Settlement]) -> Mapping[str, Exception]:
        self.settled += len(batch)
        return {}


async def quiet() -> None:
    """Until nothing is left that could go on by itself."""
    for _ in range(200):
        await asyncio.sleep(0)


def worker_of(queue: Queue, executor: Executor, concurrency: int) -> Worker:
    settings = Settings(name="me", concurrency=concurrency)
    follower = lambda claim: Follower(claim, lambda claim, former: [], settings.logs)  # noqa: E731
    return Worker(queue, NoRecords(), executor, settings, follower)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("exit", "begun"),
    [
        (Exit(code=0, started=True, ended_at=2.0), 4),  # two in the slots, two whose removals hang
        (Exit(note="nobody saw its end"), 2),  # it may still run: it keeps its slot
    ],
)
async def test_removals_hold_up_no_more_jobs_than_there_are_slots(exit: Exit, begun: int) -> None:
    queue, executor = Queue(), Executor(exit)
    worker = worker_of(queue, executor, 2)
    working = asyncio.create_task(worker.run())
    try:
        await until(lambda: queue.settled >= begun)  # small batches wait a moment to grow
        await quiet()
        assert (executor.started, queue.settled) == (begun, begun)
        if exit.ended_at:
            assert LINES[-1] == {"job": str(begun), "queue": "q", "pod": "p"}
        assert (worker.busy, worker.leaving) == (2, begun if exit.ended_at else 0)
    finally:
        worker.stop()
        executor.may_go.set()
        await working
    assert (worker.busy, worker.leaving) == (0, 0)


class Buggy(Queue):
    """Can't read the end of its one job's first settlement."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[Settlement] = []

    async def claim(self, slots: int) -> Sequence[Claim]:
        if self.claims:
            await asyncio.sleep(0.01)
            return []
        return await super().claim(slots)

    async def settle(self, batch: Sequence[Settlement]) -> Mapping[str, Exception]:
        self.ends += batch
        return {batch[0].claim.token: UnicodeError("a bug")} if len(self.ends) == 1 else {}


async def test_a_bug_of_ours_leaves_no_job_without_an_end() -> None:
    queue = Buggy()
    worker = worker_of(queue, Executor(Exit(code=0, ended_at=2.0)), 2)
    working = asyncio.create_task(worker.run())
    await until(lambda: len(queue.ends) == 2)
    worker.stop()
    await working
    end = queue.ends[1]
    assert (end.verdict, end.outcome.reason) == (Verdict.BURY, "executor_error")
    assert end.outcome.message == "internal error (UnicodeError); the consumer's log tells more"
    assert (end.record.status, end.record.token) == (Status.FAILED, "1")


class AllAtOnce(Queue):
    """Gives so many jobs at once, and no more; says which ones are lost."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.jobs = [Claim(str(i), "q", 1, str(i), Job(commands=["true"]), claimed_at=1.0) for i in range(count)]
        self.lost: set[str] = set()
        self.beats: list[int] = []

    async def claim(self, slots: int) -> Sequence[Claim]:
        given, self.jobs = self.jobs, []
        if not given:
            await self.stopping.wait()
        return given

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        self.beats.append(len(claims))
        return {claim.token: Signal.LOST for claim in claims if claim.token in self.lost}


class Rounds(Executor):
    """Notes in which round of the event loop each job is begun."""

    def __init__(self) -> None:
        super().__init__(Exit(code=0, started=True, ended_at=2.0))
        self.may_go.set()
        self.round, self.begun = 0, collections.Counter[int]()
        self.busy: Callable[[], int] = lambda: 0
        self.held = 0

    def refuse(self, plan: Plan) -> tuple[()]:
        self.begun[self.round] += 1
        self.held = max(self.held, self.busy())
        return ()

    async def count(self) -> None:
        while True:
            self.round += 1
            await asyncio.sleep(0)


async def test_jobs_that_are_claimed_at_once_begin_few_in_a_round_and_are_all_held_meanwhile() -> None:
    queue, executor = AllAtOnce(10 * AT_ONCE), Rounds()
    worker = worker_of(queue, executor, 1000)
    executor.busy = lambda: worker.busy
    working = [asyncio.create_task(worker.run()), asyncio.create_task(executor.count())]
    try:
        await until(lambda: queue.settled == 10 * AT_ONCE)
        assert max(executor.begun.values()) <= 2 * AT_ONCE  # from one count to the next it's the parts of two rounds
        assert executor.begun.total() == executor.held == 10 * AT_ONCE
    finally:
        worker.stop()
        await working[0]
        await end(working[1])


async def test_after_a_pause_jobs_ask_together_whether_they_are_still_ours() -> None:
    queue = AllAtOnce(40)
    queue.lost = {"3", "5"}
    worker = worker_of(queue, Rounds(), 1000)
    told = await asyncio.gather(*map(worker._confirm, queue.jobs), return_exceptions=True)
    assert {place for place, error in enumerate(told) if isinstance(error, ClaimLost)} == {3, 5}
    assert told.count(None) == 38
    assert queue.beats == [40]
