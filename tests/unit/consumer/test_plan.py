"""Claim + settings -> Plan."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.errors import Unrunnable
from consumer.model import Claim
from consumer.plan import plan_of
from consumer.settings import Jobs
from enqueue.job import Job
from enqueue.record import Attempt, Reason, Record, Status, Where


def attempt(number: int, reason: Reason, node: str | None) -> Attempt:
    return Attempt(attempt=number, status=Status.FAILED, reason=reason, where=Where(node=node))


def avoided(*attempts: Attempt) -> tuple[str, ...]:
    history = Record(id="j", attempts=attempts)
    return plan_of(Claim("j", "q", 9, "t", Job(commands=["true"]), history=history), Jobs(), "me").avoid


def test_nodes_where_the_infrastructure_failed_are_avoided() -> None:
    assert plan_of(Claim("j", "q", 1, "t", Job(commands=["true"])), Jobs(), "me").avoid == ()
    assert avoided(
        attempt(1, Reason.NODE_LOST, "n1"),
        attempt(2, Reason.EXIT_CODE, "n2"),
        attempt(3, Reason.EVICTED, "n3"),
        attempt(4, Reason.UNSCHEDULABLE, None),
        attempt(5, Reason.EVICTED, "n1"),
    ) == ("n1", "n3")


def test_many_of_them_are_the_last_ones() -> None:
    nodes = avoided(*(attempt(i, Reason.EVICTED, f"n{i}") for i in range(1, 50)))
    assert (len(nodes), nodes[0], nodes[-1]) == (20, "n49", "n30")


def grace_of(jobs: Jobs, **fields: Any) -> float:
    job = Job.load({"image": "a", "commands": ["x"], **fields})
    return plan_of(Claim("id", "default", 1, "token", job), jobs, "consumer-1").grace


def test_a_jobs_grace_wins_up_to_the_operators_bound() -> None:
    assert grace_of(Jobs(grace=7)) == 7
    assert grace_of(Jobs(), grace=0) == 0
    assert grace_of(Jobs(grace_max=60), grace=60) == 60
    assert grace_of(Jobs(grace=90, grace_max=60), grace=90) == 90
    with pytest.raises(Unrunnable, match="grace: 61 is more than the 60 seconds allowed here") as caught:
        grace_of(Jobs(grace_max=60), grace=61)
    assert caught.value.reason is Reason.REFUSED
