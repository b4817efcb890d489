"""Claim + settings -> Plan: pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from consumer.errors import Unrunnable
from consumer.model import Claim, Plan, unquestioned, untold
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
    looked_for: bool = False,
    source: str = "",
    confirm: Callable[[], Awaitable[None]] = unquestioned,
    waits: Callable[[str], Awaitable[None]] = untold,
) -> Plan:
    """All that an executor needs to run this claim.

    The Job's own timeout wins over the queue's, which wins over the operator's default. Raises Unrunnable for a claim
    whose payload is no valid Job, or one that `unwanted` tells of; but not for the latter if it has `begun`, or is
    `looked_for` first: what runs goes on with what it began with.
    """
    if claim.job is None:
        raise Unrunnable(claim.problem or "the payload can't be read")
    if not (begun or looked_for) and (problems := unwanted(claim, jobs)):
        raise Unrunnable.of(problems)
    job, attempts = claim.job, claim.history.attempts if claim.history else ()
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
        ended=tuple(a.attempt for a in attempts if a.attempt < claim.attempt),
        waits=waits,
    )


def unwanted(claim: Claim, jobs: Jobs) -> list[tuple[Reason, str]]:
    """Why this claim isn't to be started here, whatever would run it."""
    found = [] if claim.refusal is None else [(Reason.REFUSED, claim.refusal)]
    grace, most = claim.job.grace if claim.job else None, max(jobs.grace, jobs.grace_max)
    if grace is not None and grace > most:
        found.append((Reason.REFUSED, f"grace: {grace:g} is more than the {most:g} seconds allowed here"))
    return found


def _failed_nodes(history: Record | None) -> tuple[str, ...]:
    """Where the infrastructure failed former attempts: each node once, the last ones of many."""
    attempts = history.attempts if history else ()
    if not attempts:
        return ()
    nodes = [a.where.node for a in attempts if a.where.node and fault_of(a.reason) is Fault.INFRASTRUCTURE]
    return tuple(dict.fromkeys(reversed(nodes)))[:_AVOIDED]
