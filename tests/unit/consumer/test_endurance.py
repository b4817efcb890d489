"""What a consumer that runs for months must not do: gather what has ended, or lose a helper for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest

from consumer import worker as worker_module
from consumer.executors.null import NullExecutor
from consumer.logs.follow import Follower
from consumer.model import Claim, Settlement, Signal, Stop
from consumer.queues.none import NoRecords
from consumer.run import Tools, run_job
from consumer.settings import Settings
from consumer.switch import Switch
from consumer.tasks import end
from consumer.worker import Worker
from enqueue.job import Job

CLAIM = Claim(id="j", queue="q", attempt=1, token="t", job=Job(commands=["true"], timeout=86_400))


async def test_no_deadline_outlives_its_job() -> None:
    async def settle(settlement: Settlement) -> None:
        return

    settings = Settings()
    tools = Tools(
        NullExecutor(),
        NoRecords(),
        settings,
        lambda claim: Follower(claim, lambda *_: [], settings.logs),
        settle,
        False,
    )
    switch = Switch()
    outcome = await run_job(CLAIM, tools, switch)
    assert outcome is not None
    assert outcome.succeeded
    assert switch._timer is None or switch._timer.cancelled()


async def test_a_deadline_is_said_when_it_is_due() -> None:
    switch = Switch()
    switch.due(0)
    await switch.wait()
    assert switch.reason is Stop.DEADLINE


class Moody(NoRecords):
    """A queue and a store whose first answers are errors that nobody foresaw."""

    requeues = True
    hands_over = True

    def __init__(self) -> None:
        self.stopping, self.terminated = asyncio.Event(), asyncio.Event()
        self.beats = self.calls = 0

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        self.beats += 1
        if self.beats == 1:
            raise RuntimeError("WRONGTYPE")
        return {claim.token: Signal.CANCEL for claim in claims}

    async def cancellations(self) -> AsyncIterator[str]:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("NOPERM")
        yield CLAIM.id
        await asyncio.Event().wait()


def worker_of(moody: Moody) -> Worker:
    settings = Settings()
    return Worker(
        moody,
        moody,
        NullExecutor(),
        settings,
        lambda claim: Follower(claim, lambda *_: [], settings.logs),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("helper", ["_beat", "_hear_cancellations"])
async def test_an_unforeseen_error_does_not_end_a_helper(monkeypatch: pytest.MonkeyPatch, helper: str) -> None:
    monkeypatch.setattr(worker_module, "BEAT_INTERVAL", 0)
    moody, switch = Moody(), Switch()
    if helper == "_hear_cancellations":
        moody.beats = 1
    worker = worker_of(moody)
    forever = asyncio.create_task(asyncio.Event().wait())
    worker._jobs[forever] = (CLAIM, switch)  # type: ignore[index]
    task = asyncio.create_task(getattr(worker, helper)())
    async with asyncio.timeout(30):
        await switch.wait()
    assert switch.reason is Stop.CANCEL
    assert not task.done()
    for each in (task, forever):
        each.cancel()
    await asyncio.gather(task, forever, return_exceptions=True)


async def test_claims_are_dated_by_the_stores_clock() -> None:
    moody = Moody()
    worker = worker_of(moody)
    moody.ahead = 600.0
    worker._launch(replace(CLAIM, claimed_at=1600.0))
    ((claim, _),) = worker._jobs.values()
    assert claim.claimed_at == 1000.0
    await end(*worker._jobs)
