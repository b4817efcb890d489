"""One job from claim to verdict. `run_job` tells the whole story; `supervise` is where its ends meet."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from weakref import ref

import structlog

from consumer.errors import ClaimLost, ExecutorFault, Unrunnable, internal
from consumer.extras import NONE, Extras
from consumer.follow_up import PATIENCE
from consumer.logs.follow import Follower
from consumer.logs.mask import current
from consumer.model import Claim, Exit, LogPosition, Plan, Settlement, Stop
from consumer.outcome import (
    failure_text,
    has_begun,
    masked,
    outcome_of,
    outcome_of_fault,
    outcome_of_nothing,
    verdict_of,
    was_overdue,
)
from consumer.plan import plan_of, unwanted
from consumer.ports import Execution, Executor, Meter, Records
from consumer.recording import log_of, record_ended
from consumer.returned import returned
from consumer.settings import Settings
from consumer.spill import spilled
from consumer.start import NotStarted, start
from consumer.switch import LetGo, Switch
from consumer.tasks import Beside, end
from consumer.telling import DOUBT, claimed_record, tell_overdue, tell_waiting, watch
from consumer.wishes import refused_wishes
from enqueue.record import Outcome, Reason, Status, Where

log = structlog.get_logger()

STOP_PATIENCE = 60.0
"""Seconds, beyond its grace, until a job that was stopped is given up: its node may be gone."""
STOP_PAUSE = 2.0
"""Seconds until a stop that the infrastructure didn't take is asked for again."""


async def surely_ours(claim: Claim) -> None:
    """Nobody else can have the claim."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What running a job needs, handed down by the worker."""

    executor: Executor
    records: Records
    settings: Settings
    follower: Callable[[Claim], Follower]
    settle: Callable[[Settlement], Awaitable[None]]
    requeues: bool
    confirm: Callable[[Claim], Awaitable[None]] = surely_ours
    over: Callable[[Claim], None] = lambda claim: None
    """Told when the queue has taken a job's end and nothing of it runs any more; what is left is to tidy up."""
    meter: Meter | None = None
    extras: Extras = NONE


async def run_job(claim: Claim, tools: Tools, switch: Switch) -> Outcome | None:
    """Run one claimed job to its recorded end. None: it was let go, so there is nothing to tell.

    claim -> plan -> start -+-> log
                            +-> wait -> outcome -> verdict -> record + settle -> remove
    """
    claim, unfit = tools.extras.unseal(claim)
    follower, execution, exit, trace = tools.follower(claim), None, None, ""
    said: dict[str, Any] = {}
    where = Where()
    current.set(ref(follower.secrets))
    if claim.cancelled:
        switch.set(Stop.CANCEL)
    elif was_overdue(claim):
        switch.set(Stop.DEADLINE)
    try:
        try:
            if switch.reason is Stop.CANCEL and not _may_run(claim):
                outcome = outcome_of_nothing(Stop.CANCEL, claim)
            elif unfit is not None:
                raise unfit
            else:
                name, source = tools.settings.name, tools.records.source
                confirm = functools.partial(tools.confirm, claim)
                begun, may_run = has_begun(claim), _may_run(claim)
                plan = plan_of(
                    claim, tools.settings.jobs, name, begun=begun, looked_for=may_run, source=source, confirm=confirm,
                    waits=functools.partial(tell_waiting, claim, tools, follower),
                )  # fmt: skip
                refused = _refusal(plan, claim, tools)
                if refused is not None and not may_run:
                    raise refused
                await tools.records.write(claim, claimed_record(claim, tools))
                execution = await start(plan, tools.executor, switch, refused)
                if pod := execution.where.pod:
                    structlog.contextvars.bind_contextvars(pod=pod)
                exit, stopped = await supervise(execution, plan, switch, tools, follower, claim)
                if plan.job.outputs is not None:
                    said["outputs"] = await tools.extras.collect(claim, execution, follower.mask)
                outcome = outcome_of(exit, stopped, plan.timeout, follower.variables)
                if plan.returns and not tools.executor.silent:
                    outcome, trace = returned(outcome, follower.shipped)
        except NotStarted:
            outcome = outcome_of_nothing(switch.reason, claim, follower.variables)
        except (ClaimLost, LetGo):
            raise
        except Exception as error:
            fault = _fault_of(error, claim)
            await follower.finish(5)
            outcome, where = outcome_of_fault(fault, follower.variables), getattr(fault, "where", None) or where
            exit = exit or Exit(started=isinstance(fault, ExecutorFault) and fault.started)
        if follower.cut or (execution is None and _may_run(claim) and not tools.executor.silent):
            stands = await tools.records.end_unread(claim)
            if stands.entries or has_begun(claim):
                follower.left(stands)
        await tools.extras.follow_up(follower, PATIENCE)
        outcome = masked(outcome, follower.mask, follower.mask_variable)
        outcome = outcome.model_copy(update={"notices": follower.notices}) if follower.notices else outcome
        verdict, infrastructure = verdict_of(
            outcome, claim, started=exit is not None and exit.started, requeues=tools.requeues
        )
        where = execution.where if execution else where
        position = follower.position()
        follower.tell(exit.progress if exit is not None else None)
        if (progress := follower.progress) is not None:
            said["progress"] = progress
        if follower.children:
            said["children"] = follower.children
        record = claimed_record(claim, tools)
        record = record.model_copy(update=said) if said else record
        written = exit.written if exit is not None else None
        told = log_of(record.log.stream, position, follower.links, written)
        outcome = outcome.model_copy(update={"log": told})
        record = record_ended(record, outcome, verdict, where, exit, told, time.time())
        lines = follower.mask(trace).splitlines()
        text = failure_text(record, outcome, verdict, follower.tail, lines) if outcome.status is Status.FAILED else ""
        record = await spilled(tools.records, claim, record)
        settlement = Settlement(claim, verdict, outcome, record, text, infrastructure, follower.unsent)
        await tools.settle(settlement)
        if outcome.status is Status.FAILED:
            tools.extras.failed(settlement, lines or follower.tail)
    except (ClaimLost, LetGo):
        await _let_go(execution, tools.executor, switch, tools.settings.jobs.grace)
        await follower.abandon()
        return None
    except Exception:  # the queue refused the end: whoever gets the claim next reads it from what is left
        if execution is not None:
            await execution.detach()
        raise
    if execution is not None:
        if ended := exit is not None and exit.ended_at is not None:
            tools.over(claim)
        await _remove(execution, claim, outcome, ended=ended, grace=tools.settings.jobs.grace)
    return outcome


async def supervise(
    execution: Execution, plan: Plan, switch: Switch, tools: Tools, follower: Follower, claim: Claim
) -> tuple[Exit, Stop | None]:
    """Where end, deadline, cancel, shutdown and lost claim meet; returns with the log read to its end."""
    watching = Beside(functools.partial(watch, execution, plan, switch, tools, follower, claim))
    ending: asyncio.Future[Exit] | None = None
    try:
        if not tools.executor.silent:
            again = claim.history is not None and claim.history.attempt == claim.attempt
            follower.start(execution, await tools.records.resume(claim) if again else LogPosition())
        exit, stopped = None, None
        with switch.interrupting():
            exit = await execution.wait()
        await watching.end()
        await follower.changes.end()
        if exit is None:
            ending = asyncio.ensure_future(execution.wait())
            await asyncio.sleep(0)
            stopped = None if ending.done() else switch.reason  # its own end may have come at the same moment
            if stopped is Stop.LOST or (stopped is Stop.SHUTDOWN and tools.executor.detachable):
                raise LetGo
            if stopped is Stop.DEADLINE and not was_overdue(claim):
                await tell_overdue(execution, plan, tools, follower, claim)
            if stopped is not None:
                await _stop(execution, plan, ending)
            exit = await _exit_of(ending, stopped)
        if stopped is None and _was_stopped(claim, switch.reason, exit):
            stopped = switch.reason
        await follower.finish(30)
        return exit, stopped
    finally:
        await watching.end()
        await follower.changes.end()
        if ending is not None:
            await end(ending)
        switch.over()


def _was_stopped(claim: Claim, stop: Stop | None, exit: Exit) -> bool:
    """It was over when we found it: a former consumer has stopped it for this, or the end looks as if it had."""
    if stop is Stop.DEADLINE:
        return was_overdue(claim)
    by_stop = exit.reason is Reason.POD_DELETED or exit.signal in (signal.SIGTERM, signal.SIGKILL)
    return stop is Stop.CANCEL and claim.cancelled and _may_run(claim) and by_stop


async def _stop(execution: Execution, plan: Plan, ending: asyncio.Future[Exit]) -> None:
    """Stop it, also if the infrastructure doesn't answer at once, and wait for its end within reason."""
    until = time.monotonic() + plan.grace + STOP_PATIENCE
    while True:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DOUBT):
                    await plan.confirm()
            await execution.stop(plan.grace)
            await asyncio.wait({ending}, timeout=max(0.0, until - time.monotonic()))
            return
        except ExecutorFault as fault:
            left = until - time.monotonic()
            if ending.done() or left <= 0:
                return
            log.warning("not_stopped", job=plan.id, error=str(fault), doing="trying again")
            await asyncio.wait({ending}, timeout=min(STOP_PAUSE, left))


async def _exit_of(ending: asyncio.Future[Exit], stopped: Stop | None) -> Exit:
    """How it ended. Of what we stopped ourselves we know why it ended, even if nobody saw how."""
    if not ending.done():
        return Exit(message="it couldn't be seen to end", note="it couldn't be seen to end")
    try:
        return await ending
    except ExecutorFault as fault:
        if stopped is None:
            raise
        return Exit(started=fault.started, note=f"it couldn't be seen to end: {fault}")


def _fault_of(error: Exception, claim: Claim) -> Unrunnable | ExecutorFault:
    """A fault as it is; anything else is a bug of ours, told in the log, and the job may have run."""
    if isinstance(error, (Unrunnable, ExecutorFault)):
        return error
    log.error("internal_error", job=claim.id, queue=claim.queue, exc_info=error)
    return internal(error)


def _may_run(claim: Claim) -> bool:
    """A former consumer may have started this very attempt."""
    before = claim.history
    started = (Status.STARTING, Status.RUNNING)
    return before is not None and before.attempt == claim.attempt and before.status in started


def _refusal(plan: Plan, claim: Claim, tools: Tools) -> Unrunnable | None:
    """What the operator doesn't allow, or this executor can't honour, if it is to be started now.

    It says nothing of what runs: that was allowed when it began. Raises ExecutorFault for what must not run again.
    """
    if _may_run(claim) and not tools.executor.detachable:
        former = claim.history.where.consumer if claim.history else None
        raise ExecutorFault(f"consumer {former} died while it ran the job", Reason.CONSUMER_LOST, started=True)
    wishes = refused_wishes(plan.job, tools.settings, tools.executor)
    problems = [*unwanted(claim, tools.settings.jobs), *wishes, *tools.executor.refuse(plan)]
    return Unrunnable.of(problems) if problems else None


async def _let_go(execution: Execution | None, executor: Executor, switch: Switch, grace: float) -> None:
    if execution is None:
        return
    if executor.detachable:
        await execution.detach()
        return
    await execution.stop(grace)
    with contextlib.suppress(ExecutorFault):
        await execution.wait()
    await execution.remove()


async def _remove(execution: Execution, claim: Claim, outcome: Outcome, *, ended: bool, grace: float) -> None:
    try:
        if not ended:  # its outcome is settled, so it must not go on
            await execution.stop(grace)
            with contextlib.suppress(Exception):  # how it ended has been told
                async with asyncio.timeout(grace + STOP_PATIENCE):
                    await execution.wait()
        await execution.remove(failed=outcome.status is Status.FAILED)
    except ExecutorFault as fault:
        log.warning("not_removed", job=claim.id, error=str(fault), **execution.where.model_dump(exclude_none=True))
