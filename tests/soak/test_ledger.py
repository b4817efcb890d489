"""The soak's judges find what is wrong, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from soak.ledger import Ledger
from soak.replicas import GROWTH, Lifetime, Replicas
from support.history import Event, What


def seen(what: What, at: float = 0.0, **fields: Any) -> Event:
    return Event(at, what, "job", **fields)


def record(at: float, status: str, *ends: str) -> Event:
    attempts = [{"attempt": number, "status": end} for number, end in enumerate(ends, 1)]
    return seen(What.RECORD, at, value={"status": status, "attempts": attempts})


CLAIMED = seen(What.CLAIMED, 1, name="job:t", value="holder")
RELEASED = seen(What.RELEASED, 4, name="job:t")
OTHER = Event(2, What.CLAIMED, "other", name="other:t", value="holder")
TOLD = seen(What.TOLD, 3)
POD = seen(What.CREATED, attempt=1, uid="one")


@pytest.mark.parametrize(
    ("events", "broken"),
    [
        ([CLAIMED, POD, record(2, "succeeded", "succeeded"), TOLD, RELEASED], ""),
        ([CLAIMED, TOLD, record(2, "succeeded", "succeeded")], ""),  # two witnesses, two orders
        ([TOLD, RELEASED], ""),  # claimed before we looked
        ([CLAIMED, RELEASED, OTHER], ""),
        ([POD, POD], ""),
        ([POD, seen(What.CREATED, attempt=2, uid="two")], ""),
        ([POD, seen(What.CREATED, attempt=1, uid="two")], "I2"),
        ([record(1, "succeeded", "succeeded"), record(2, "failed", "succeeded")], "I3"),
        ([record(1, "queued", "failed"), record(2, "succeeded", "succeeded", "succeeded")], "I3"),
        ([CLAIMED, TOLD], "I4"),
        ([CLAIMED, TOLD, record(4, "succeeded", "succeeded")], "I4"),
        ([CLAIMED, record(2, "succeeded", "succeeded"), TOLD, seen(What.LOG, 5)], "I4"),
        ([CLAIMED, OTHER], "I8"),
    ],
)
def test_each_broken_invariant_is_told(events: list[Event], broken: str) -> None:
    ledger = Ledger(slots=1)
    for event in events:
        ledger.append(event)
    found = list(ledger.wrongs({"job"}, set(), set()))
    assert [text[:2] for text in found] == ([broken] if broken else [])
    assert not ledger


def test_what_was_missed_is_held_against_nobody() -> None:
    ledger = Ledger(slots=1)
    ledger += [CLAIMED]
    ledger.resumed()
    ledger += [TOLD, OTHER]
    assert list(ledger.wrongs({"job", "other"}, set(), set())) == []


@pytest.mark.parametrize(("growth", "flat"), [(0.0, True), (GROWTH - 1, True), (GROWTH + 1, False)])
def test_growth_is_told(growth: float, flat: bool) -> None:
    samples = [(float(second), 80.0 + growth * (second > 400), 20) for second in range(0, 600, 5)]
    group = Replicas.__new__(Replicas)
    group.lifetimes = [Lifetime("one", 1, 0.0, samples), Lifetime("short", 2, 0.0, samples[-3:])]
    assert len(list(group.grown(4))) == (0 if flat else 1)
