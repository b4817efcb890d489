"""Exit -> Outcome -> Verdict: pure, each computed once, in that order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from consumer.errors import ExecutorFault, Unrunnable
from consumer.model import Claim, Exit, Settlement, Stop, Verdict, signal_name
from consumer.values import storable
from enqueue.record import (
    HINTS,
    Fault,
    Outcome,
    Reason,
    Record,
    Status,
    fault_of,
    infrastructure_failures,
)
from enqueue.variables import Variables

_KILLED: dict[int, str] = {
    signal.SIGKILL: "Nothing says who killed it; often it is the kernel, when a child process uses up "
    "resources.limits.memory: raise it, or look for kill and timeout commands in the job.",
    signal.SIGTERM: "Something asked the job to end, from inside or outside; a job that handles SIGTERM can say more.",
}
"""Better hints than the general one."""

_UNSTARTED_TRIES = 3
"""Tries for a job that the infrastructure failed before anything had started."""


def outcome_of(exit: Exit, stopped: Stop | None, timeout: float | None, variables: Mapping[str, str]) -> Outcome:
    """What the producer is told of an execution that ended, or was stopped by us for a reason."""
    outcome = _outcome(exit, stopped, timeout, variables)
    if exit.note is None:
        return outcome
    message = "; ".join(part for part in (outcome.message, exit.note) if part)
    return outcome.model_copy(update={"message": message})


def _outcome(exit: Exit, stopped: Stop | None, timeout: float | None, variables: Mapping[str, str]) -> Outcome:
    values = {**variables, **dict(exit.variables)}
    if stopped is Stop.CANCEL:
        return _ended(Status.CANCELLED, Reason.REQUESTED, _cancelled(exit.started), exit.code, values)
    if stopped is Stop.DEADLINE and not _in_time(exit, timeout):
        return _ended(Status.FAILED, Reason.DEADLINE, overdue(timeout), exit.code, values)
    if stopped is Stop.SHUTDOWN:
        message = "the consumer was stopped and ended the job"
        return _ended(Status.FAILED, Reason.CONSUMER_STOPPED, message, exit.code, values)
    if exit.reason is not None:
        return _ended(Status.FAILED, exit.reason, exit.message, exit.code, values)
    if exit.code == 0:
        return Outcome(status=Status.SUCCEEDED, exit_code=0, variables=Variables(values))
    if exit.signal:
        message = exit.message or f"killed by {signal_name(exit.signal)}"
        return _ended(Status.FAILED, Reason.SIGNAL, message, exit.code, values, _KILLED.get(exit.signal))
    message = exit.message or f"exited with code {exit.code}"
    return _ended(Status.FAILED, Reason.EXIT_CODE, message, exit.code, values)


def overdue(timeout: float | None) -> str:
    """What is said of a job that ran for too long."""
    return f"ran longer than its timeout of {timeout:g} s"


def _cancelled(started: bool) -> str:
    return "cancelled while it ran" if started else "cancelled while it was starting"


def _in_time(exit: Exit, timeout: float | None) -> bool:
    """It had ended before its deadline, as both moments tell by one clock: only its end was seen too late.

    Kubernetes tells them in whole seconds. An end by one of the signals that stop a job is ours, whatever clocks say.
    """
    if exit.signal in (signal.SIGTERM, signal.SIGKILL) and exit.reason is None:
        return False
    if exit.code is None or exit.started_at is None or exit.ended_at is None or timeout is None:
        return False
    return exit.ended_at - exit.started_at + 1 <= timeout


def outcome_of_fault(fault: Unrunnable | ExecutorFault, variables: Mapping[str, str] | None = None) -> Outcome:
    """What the producer is told of a job that couldn't be run, or whose execution got lost."""
    return _ended(Status.FAILED, fault.reason, str(fault), None, variables or {})


def outcome_of_nothing(stop: Stop | None, claim: Claim, variables: Mapping[str, str] | None = None) -> Outcome:
    """What the producer is told of a job that is to be stopped, and of which nothing is there (any more)."""
    before = claim.history if has_begun(claim) else None
    if stop is Stop.DEADLINE and before is not None:
        return _ended(Status.FAILED, Reason.DEADLINE, before.message, None, variables or {})
    message = _cancelled(True) if before is not None else "cancelled before it started"
    return _ended(Status.CANCELLED, Reason.REQUESTED, message, None, variables or {})


def _ended(
    status: Status,
    reason: Reason,
    message: str | None,
    code: int | None,
    variables: Mapping[str, str],
    hint: str | None = None,
) -> Outcome:
    return Outcome(
        status=status,
        reason=reason.value,
        message=message,
        hint=hint or HINTS[reason],
        exit_code=code,
        variables=Variables(variables),
    )


def masked(outcome: Outcome, mask: Callable[[str], str], variable: Callable[[str, str], str] | None = None) -> Outcome:
    """The same without secrets in message, result and variables, and storable; `variable` masks one by its name."""
    if not (outcome.message or outcome.variables or outcome.result):
        return outcome

    def clean(text: str) -> str:
        return mask(storable(text))

    return outcome.model_copy(
        update={
            "message": clean(outcome.message) if outcome.message else outcome.message,
            "variables": Variables(
                (name, variable(name, value) if variable else clean(value)) for name, value in outcome.variables.items()
            ),
            "result": _masked_value(outcome.result, clean),
        }
    )


def _masked_value(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(name): _masked_value(inner, mask) for name, inner in value.items()}
    return [_masked_value(inner, mask) for inner in value] if isinstance(value, list) else value


def verdict_of(outcome: Outcome, claim: Claim, *, started: bool, requeues: bool) -> tuple[Verdict, bool]:
    """What the queue is told, and whether a retry is on the infrastructure's account instead of the job's.

    `requeues`: this queue can give a job back without counting a failure.
    """
    if outcome.status is not Status.FAILED:
        return Verdict.DONE, False
    if outcome.reason in (Reason.INVALID_JOB, Reason.REFUSED, Reason.SEALED, Reason.RESULT_UNFIT):
        return Verdict.BURY, False
    if fault_of(outcome.reason) is Fault.INFRASTRUCTURE:
        own = claim.job.infrastructure_retries if claim.job else 0
        patient = outcome.reason in (Reason.START_TIMEOUT, Reason.UNSCHEDULABLE)
        allowed = own if started or patient else max(own, _UNSTARTED_TRIES - 1)
        if infrastructure_failures(claim.history) < allowed and (requeues or claim.retries_left > 0):
            return Verdict.RETRY, True
        return Verdict.BURY, False
    return (Verdict.RETRY, False) if claim.retries_left > 0 else (Verdict.BURY, False)


def has_begun(claim: Claim) -> bool:
    """This very attempt ran already under a former consumer, as its Record says."""
    before = claim.history
    return before is not None and before.attempt == claim.attempt and before.status is Status.RUNNING


def was_overdue(claim: Claim) -> bool:
    """A former consumer was about to stop this very attempt for its deadline, or has done so."""
    return has_begun(claim) and claim.history is not None and claim.history.reason == Reason.DEADLINE


def failure_text(
    record: Record, outcome: Outcome, verdict: Verdict, tail: Sequence[str], trace: Sequence[str] = ()
) -> str:
    """What the queue's web page shows of a failure: readable, the reason first; a function's traceback last."""
    attempt = record.attempts[-1] if record.attempts else None
    lines = [f"{outcome.reason or outcome.status}: {outcome.message or outcome.status.value}"]
    if outcome.hint:
        lines.append(f"Hint: {outcome.hint}")
    where = attempt.where if attempt else record.where
    place = [
        f"pod {where.namespace}/{where.pod}" if where.pod else None,
        f"container {where.container}" if where.container else None,
        f"node {where.node}" if where.node else None,
    ]
    named = ", ".join(part for part in (*place, f"executor {where.executor}", f"consumer {where.consumer}") if part)
    lines.append(
        f"Attempt {record.attempt}" + (", will be tried again" if verdict is Verdict.RETRY else "") + f": {named}"
    )
    if trace:
        lines += ["", *trace]
    elif tail:
        lines += ["", "The log's last line:" if len(tail) == 1 else f"The log's last {len(tail)} lines:", *tail]
    return storable("\n".join(lines))


def cancelled_settlement(settlement: Settlement) -> Settlement:
    """The same end, for a job that its queue has cancelled meanwhile: the first terminal write wins."""
    outcome = _ended(
        Status.CANCELLED,
        Reason.REQUESTED,
        _cancelled(settlement.record.times.started is not None),
        settlement.outcome.exit_code,
        settlement.outcome.variables,
    )
    record = settlement.record.model_copy(
        update={
            "status": outcome.status,
            "reason": outcome.reason,
            "message": outcome.message,
            "hint": outcome.hint,
            "variables": outcome.variables,
            "result": None,
        }
    )
    return replace(settlement, outcome=outcome, record=record, verdict=Verdict.DONE)
