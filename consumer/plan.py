"""Claim + settings -> Plan: pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from consumer.errors import Unrunnable
from consumer.model import Claim, Plan, unquestioned
from consumer.settings import Jobs
from consumer.typed import TypedJob
from enqueue.record import Fault, Reason, Record, fault_of

_AVOIDED = 20


def plan_of(
    claim: Claim,
    jobs: Jobs,
    consumer: str,
    *,
    begun: bool = False,
    source: str = "",
    confirm: Callable[[], Awaitable[None]] = unquestioned,
) -> Plan:
    """All that an executor needs to run this claim.

    The Job's own timeout wins over the queue's, which wins over the operator's default. Raises Unrunnable for a claim
    whose payload is no valid Job, or one that asks for more grace than the operator allows.
    """
    if claim.job is None:
        raise Unrunnable(claim.problem or "the payload can't be read")
    if claim.refusal is not None and not begun:
        raise Unrunnable(claim.refusal, Reason.REFUSED)
    job = claim.job
    most = max(jobs.grace, jobs.grace_max)
    if job.grace is not None and job.grace > most:
        raise Unrunnable(f"grace: {job.grace:g} is more than the {most:g} seconds allowed here", Reason.REFUSED)
    return Plan(
        id=claim.id,
        queue=claim.queue,
        attempt=claim.attempt,
        consumer=consumer,
        job=job,
        timeout=job.timeout or claim.timeout or jobs.timeout,
        start_timeout=job.start_timeout or jobs.start_timeout,
        grace=jobs.grace if job.grace is None else job.grace,
        begun=begun,
        confirm=confirm,
        source=source,
        created=claim.created,
        handed=job.handed if isinstance(job, TypedJob) else (),
        returns=isinstance(job, TypedJob) and job.returns,
        profile=job.profile if isinstance(job, TypedJob) else None,
        avoid=_failed_nodes(claim.history),
    )


def _failed_nodes(history: Record | None) -> tuple[str, ...]:
    """Where the infrastructure failed former attempts: each node once, the last ones of many."""
    attempts = history.attempts if history else ()
    if not attempts:
        return ()
    nodes = [a.where.node for a in attempts if a.where.node and fault_of(a.reason) is Fault.INFRASTRUCTURE]
    return tuple(dict.fromkeys(reversed(nodes)))[:_AVOIDED]
