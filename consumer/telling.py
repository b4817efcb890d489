"""What a job's Record is told while it waits, runs and is about to be stopped; and its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import TYPE_CHECKING, Any

from consumer.errors import ClaimCancelled, ClaimLost, ExecutorFault
from consumer.logs.follow import Follower
from consumer.model import Claim, Plan, Stop
from consumer.outcome import has_begun
from consumer.ports import Execution
from consumer.recording import record_claimed, record_overdue, record_running, record_waiting
from consumer.spill import spilled
from consumer.switch import Switch
from consumer.tasks import end
from enqueue.record import Record, Where
from enqueue.times import epoch
from enqueue.variables import Variables

if TYPE_CHECKING:
    from consumer.run import Tools

TELL_PAUSE = 1.0
"""Seconds between two Records of a job that goes on and has new variables."""
WAIT_PAUSE = 2.0
"""Seconds between two looks at what a start waits for."""
DOUBT = 30.0
"""Seconds for which a stop waits while nobody can say whether the claim is still ours: its queue is away."""

_NOWHERE = Where()


def claimed_record(claim: Claim, tools: Tools) -> Record:
    """The Record before the start: made when it is told, since thousands of jobs that go on would each hold theirs."""
    return record_claimed(claim, tools.settings.name, tools.executor.name, tools.records.stream_of(claim))


async def tell_waiting(claim: Claim, tools: Tools, follower: Follower, why: str, where: Where = _NOWHERE) -> None:
    """Tell the Record what the start waits for, and `where` it is, if there is anything of it. Raises ClaimLost."""
    await tools.records.write(claim, record_waiting(claimed_record(claim, tools), where, follower.mask(why)))


def _say(switch: Switch, lost: ClaimLost) -> None:
    """The claim isn't ours any more, or its queue wants the job cancelled."""
    switch.set(Stop.CANCEL if isinstance(lost, ClaimCancelled) else Stop.LOST)


async def watch(
    execution: Execution, plan: Plan, switch: Switch, tools: Tools, follower: Follower, claim: Claim
) -> None:
    """Tell the Record that the job runs, and have it told the job's variables as they come; set its deadline.

    Without trust in the node's clock.
    """
    try:
        started_at = await _started(execution, tools, follower, claim)
    except ExecutorFault:
        return  # `wait` tells it
    except ClaimLost as lost:
        _say(switch, lost)
        return
    if tools.meter is not None:
        tools.meter.started(claim)
    if plan.timeout is not None:
        # Clocks may be wrong: a node's, and ours, by the store's, which the former consumer went by as well. Of a start
        # that we saw we know better, and nothing ran before its first claim.
        former, now = epoch(claim.history.times.claimed) if claim.history else None, time.time() - tools.records.ahead
        elapsed = 0.0 if former is None else min(now - former, now - started_at)
        switch.due(plan.timeout - max(0.0, elapsed))

    try:
        await _tell(execution, switch, tools, follower, claim, started_at, follower.masked)
    except ClaimLost as lost:
        _say(switch, lost)
        return
    follower.changes.begin(functools.partial(_tell_changes, execution, switch, tools, follower, claim, started_at))


async def _started(execution: Execution, tools: Tools, follower: Follower, claim: Claim) -> float:
    """Waits for the start. Of one that takes long, the Record says what it waits for. Raises ExecutorFault, ClaimLost.

    An attempt that has begun under a former consumer stays as that one left it.
    """
    if not execution.waiting_for:
        return await execution.started()
    starting, said = asyncio.ensure_future(execution.started()), ""
    try:
        while not (await asyncio.wait({starting}, timeout=WAIT_PAUSE))[0]:
            why = execution.waiting_for
            if why and why != said and not has_begun(claim):
                said = why
                await tell_waiting(claim, tools, follower, why, execution.where)
        return starting.result()
    finally:
        await end(starting)


async def _tell_changes(
    execution: Execution, switch: Switch, tools: Tools, follower: Follower, claim: Claim, started_at: float
) -> None:
    """Tell the Record what the job has said, enqueue what it has asked for, and let some time go by."""
    try:
        await follower.store(functools.partial(_tell, execution, switch, tools, follower, claim, started_at))
        await tools.extras.follow_up(follower, 0.0)
        await asyncio.sleep(TELL_PAUSE)
    except ClaimLost as lost:
        _say(switch, lost)
        raise


async def _tell(
    execution: Execution,
    switch: Switch,
    tools: Tools,
    follower: Follower,
    claim: Claim,
    started_at: float,
    variables: dict[str, str],
) -> bool:
    """Tell the Record that the job runs, and what it has said; whether it could be told. Raises ClaimLost."""
    if switch.reason is not None:
        return False  # one comes soon that says why it is stopped
    said: dict[str, Any] = {"variables": Variables(variables), "notices": follower.notices}
    said |= {"progress": follower.progress, "children": follower.children}
    record = record_running(claimed_record(claim, tools), execution.where, started_at, said)
    await tools.records.write(claim, await spilled(tools.records, claim, record))
    return True


async def tell_overdue(execution: Execution, plan: Plan, tools: Tools, follower: Follower, claim: Claim) -> None:
    """Whoever goes on, should we die now, must know why there is nothing any more. (A cancel stands in the store.)"""
    record = record_running(claimed_record(claim, tools), execution.where, await execution.started())
    record = record_overdue(record, plan.timeout).model_copy(update={"variables": Variables(follower.masked)})
    with contextlib.suppress(TimeoutError, ClaimCancelled):
        async with asyncio.timeout(DOUBT):
            await tools.records.write(claim, await spilled(tools.records, claim, record))
