"""From a Plan to an Execution: several tries, which cancel, shutdown and a lost claim interrupt at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import replace

import structlog

from consumer.errors import ExecutorFault, Unrunnable
from consumer.model import Plan, Stop
from consumer.ports import Execution, Executor
from consumer.switch import LetGo, Switch
from enqueue.record import Reason

log = structlog.get_logger()

START_TRIES = 3
"""Tries of a start that the infrastructure refused before anything ran."""
START_PAUSE, START_PAUSE_CAP = 0.5, 10.0
"""Seconds between them, doubled each time."""
DOWN_PAUSE_CAP = 30.0
"""The same while the executor can start nothing."""
INTERRUPT_SECONDS = 2.0
"""What a start may still take when it is to be stopped: most are done by then, and there is nothing to find out."""
LOOK_SECONDS = 10.0
"""How long one look for what an interrupted start left may take."""


class NotStarted(Exception):
    """The job is to be stopped, and there is nothing of it: it hasn't started, or is gone again."""


async def start(plan: Plan, executor: Executor, switch: Switch, refused: Unrunnable | None = None) -> Execution:
    """Start it, with more than one try. Raises Unrunnable, ExecutorFault, NotStarted, LetGo.

    What is `refused`, or to be stopped already (a former consumer may have done so, and died), is only looked for.
    """
    if refused is None or plan.begun:
        return await _started(plan, executor, switch)
    try:
        return await _started(replace(plan, begun=True), executor, switch)
    except ExecutorFault as fault:
        if fault.started:  # it says that there is none
            raise refused from None
        raise


async def _started(plan: Plan, executor: Executor, switch: Switch) -> Execution:
    """It, after as many tries as it takes.

    A lack of room, such as a full quota, may last as long as a start may, and so may what fails at this job alone. An
    executor that can start nothing at all is waited for: that is no job's failure.
    """
    began, pause, tries = time.monotonic(), START_PAUSE, 0
    alone: float | None = None
    before = switch.reason
    if before in (Stop.CANCEL, Stop.DEADLINE):
        return await _found(plan, executor)
    while True:
        if switch.reason in (Stop.SHUTDOWN, Stop.LOST) and executor.detachable:
            raise LetGo
        try:
            execution = await _interruptible(plan, executor, switch)
            if execution is not None:
                return execution
            why = ExecutorFault("the consumer was stopped while it started the job", Reason.CONSUMER_STOPPED)
        except ExecutorFault as fault:
            tries, why = tries + 1, fault
            now = time.monotonic()
            alone = (alone or now) if fault.reason is Reason.START_TIMEOUT else None  # others would have been started
            full = fault.reason is Reason.UNSCHEDULABLE and now - began < plan.start_timeout
            full = full or (alone is not None and now - alone < plan.start_timeout)
            # Another start may have worked since.
            down = fault.down or (executor.trouble is not None and alone is None)
            if fault.started or (tries >= START_TRIES and not (full or down)):
                raise
            if tries == 1 or not (full or down):
                log.warning("start_failed", job=plan.id, error=str(fault), tries=tries, doing="trying again")
            await _pause(pause, switch)
            pause = min(DOWN_PAUSE_CAP if down else START_PAUSE_CAP, pause * 2)
        if switch.reason is Stop.CANCEL:
            return await _found(plan, executor)
        if switch.reason is not None and (executor.detachable or switch.reason is Stop.LOST):
            raise LetGo from None  # whoever takes the claim over finds what was started, or may be luckier
        if switch.reason is not None:
            raise why


async def _interruptible(plan: Plan, executor: Executor, switch: Switch) -> Execution | None:
    """One try; None if it took too long for a switch that says stop. What it did by then can be found again."""
    with switch.interrupting(INTERRUPT_SECONDS):
        return await executor.start(plan)
    return None


async def _found(plan: Plan, executor: Executor) -> Execution:
    """What tries without an answer left, to be stopped like any other. Raises NotStarted if there is nothing.

    Until that is known the job isn't told to be cancelled: something of it might run afterwards.
    """
    if not executor.detachable:
        raise NotStarted
    pause = START_PAUSE
    while True:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await executor.start(replace(plan, begun=True))
        except ExecutorFault as fault:
            if fault.started:  # it says that there is none
                raise NotStarted from None
        except TimeoutError:
            pass
        await _pause(pause)
        pause = min(DOWN_PAUSE_CAP, pause * 2)


async def _pause(seconds: float, switch: Switch | None = None) -> None:
    """Waits about so long, or until the switch says stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(random.uniform(seconds / 2, seconds)):
            await (switch or asyncio.Event()).wait()
