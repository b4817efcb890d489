"""Budgets and the circuit: what an API server in trouble is spared, and that no job is claimed meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from consumer.executors.kubernetes import limits
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.tasks import end
from support.fakekube import FakeKube

PODS = path_of("jobs", "pods")


@pytest.fixture(autouse=True)
def _own_calls(kube: FakeKube) -> None:
    kube.counts = False  # what is asked here is no consumer's


async def test_creates_have_a_budget_of_their_own(kube: FakeKube) -> None:
    api = Api(Access(kube.url, "jobs"), rate=10_000, creates=0.001, patience=5)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    creates = [
        asyncio.create_task(api.request("POST", path_of("jobs", "secrets"), body=secret | {"metadata": {"name": name}}))
        for name in ("a", "b")
    ]
    await creates[0]
    await asyncio.gather(*(api.request("GET", PODS) for _ in range(50)))  # reads don't wait for the second one
    assert not creates[1].done()
    assert kube.verbs().count("create secrets") == 1
    await end(*creates)
    await api.close()


async def test_one_429_holds_all_calls_for_as_long_as_it_asks(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(Access(kube.url, "jobs"), rate=10_000, patience=5)
    held: list[float] = []
    monkeypatch.setattr(api._all, "hold", held.append)
    kube.fault("list pods", status=429, headers={"Retry-After": "3"})
    with pytest.raises(ApiError):
        await api.request("GET", PODS, patience=0)
    kube.fault("list pods", status=429, headers={"Retry-After": "900"})
    with pytest.raises(ApiError):
        await api.request("GET", PODS, patience=0)
    assert held == [3, 5]
    await api.close()


class Clock:
    """Stands in for `time` and `asyncio`: sleeping costs nothing, and is written down."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    monkeypatch.setattr(limits, "asyncio", clock)
    return clock


async def test_what_is_held_waits_and_then_does_not_come_all_at_once(clock: Clock) -> None:
    """Else a server with room for one refuses all the others, again and again."""
    budget = limits.Budget(100)
    budget.hold(0.2)
    for _ in range(3):
        await budget.take()
    assert clock.slept == pytest.approx([0.21, 0.22, 0.23])
    clock.now += 0.23
    await budget.take()
    assert clock.slept[3:] == pytest.approx([0.01])


async def test_a_burst_is_two_seconds_worth(clock: Clock) -> None:
    budget = limits.Budget(100)
    for _ in range(201):
        await budget.take()
    assert clock.slept == pytest.approx([0.01])
    clock.now += 1000
    for _ in range(202):
        await budget.take()
    assert clock.slept[1:] == pytest.approx([0.01, 0.02])
