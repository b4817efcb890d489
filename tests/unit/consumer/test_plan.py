"""Claim + settings -> Plan."""

from __future__ import annotations

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
