"""Leadership on the fake API server. Each consumer has a clock of its own, which the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError
from consumer.executors.kubernetes.lease import Lease
from support.fakekube import FakeKube

NAME = "longshore-sweeper"


class Clock:
    """A monotonic clock that stands still until it is moved; no two consumers' clocks agree."""

    def __init__(self, start: float) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now


Make = Callable[..., tuple[Lease, Clock]]


@pytest.fixture
def make(api: Api) -> Make:
    made: list[Lease] = []

    def one(seconds: float = 30) -> tuple[Lease, Clock]:
        clock = Clock(1000.0 ** len(made))
        made.append(Lease(api, "jobs", NAME, f"consumer-{len(made)}", seconds, clock=clock))
        return made[-1], clock

    return one


def stored(kube: FakeKube) -> dict[str, Any]:
    found = kube.stored("leases", "jobs", NAME)
    assert found is not None
    return dict(found["spec"])


def shift(kube: FakeKube, **spec: Any) -> None:
    """Somebody else writes the Lease."""
    found = kube.stored("leases", "jobs", NAME)
    assert found is not None
    kube.store("MODIFIED", "leases", {**found, "metadata": dict(found["metadata"]), "spec": found["spec"] | spec})


async def test_one_of_three_holds_it_and_the_others_ask_once_a_round(kube: FakeKube, make: Make) -> None:
    leases = [make()[0] for _ in range(3)]
    await asyncio.gather(*(lease.step() for lease in leases))
    [leader] = [lease for lease in leases if lease.held]
    assert stored(kube)["holderIdentity"] == leader.holder
    assert stored(kube)["leaseTransitions"] == 0
    before = len(kube.ledger)
    for lease in leases:
        await lease.step()
    assert sorted(kube.verbs(before)) == ["get leases", "get leases", "update leases"]
    assert [lease.held for lease in leases].count(True) == 1


async def test_a_holder_of_another_store_is_told_of_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It sweeps nothing of ours."""
    (first, _), (second, _), (third, _) = make(), make(), make()
    first.store = third.store = "one"
    second.store = "other"
    for lease in (first, second, third, second):
        await lease.step()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert f"the Lease {NAME} is held by a consumer of another store: nobody may sweep for ours" in told[0]


async def test_a_holder_that_falls_silent_is_followed_by_another(kube: FakeKube, make: Make) -> None:
    (first, one), (second, two) = make(), make()
    await first.step()
    await second.step()
    two.now += 29.9
    await second.step()
    assert first.held
    assert not second.held
    two.now += 0.2
    await second.step()
    assert second.held
    assert stored(kube)["leaseTransitions"] == 1
    one.now += 20  # what the first one doesn't know yet, its own clock tells it
    assert not first.held
    await first.step()
    assert not first.held
    assert stored(kube)["holderIdentity"] == second.holder


async def test_it_stops_to_count_before_anybody_may_take_it(kube: FakeKube, make: Make) -> None:
    lease, clock = make()
    await lease.step()
    kube.fault("update leases", status=500, times=100)
    for passed in (5, 10, 4.9):
        clock.now += passed
        with pytest.raises(ApiError):
            await lease.step()
        assert lease.held
    clock.now += 0.2
    assert not lease.held


async def test_the_times_in_it_mean_nothing(kube: FakeKube, make: Make) -> None:
    (first, _), (second, two) = make(), make()
    await first.step()
    shift(kube, renewTime="1999-01-01T00:00:00.000000Z", acquireTime="1999-01-01T00:00:00.000000Z")
    await second.step()
    assert not second.held, "ten years late by its own words, and renewed a moment ago by ours"
    shift(kube, renewTime="2999-01-01T00:00:00.000000Z")
    await second.step()
    two.now += 30.1
    await second.step()
    assert second.held, "ahead of time by its own words, and silent by ours"


async def test_a_stolen_lease_is_noticed_and_campaigned_for_again(kube: FakeKube, make: Make) -> None:
    lease, clock = make()
    await lease.step()
    shift(kube, holderIdentity="thief")
    await lease.step()
    assert not lease.held
    clock.now += 30.1
    await lease.step()
    assert lease.held
    assert stored(kube)["holderIdentity"] == lease.holder


async def test_a_lease_that_was_deleted_is_made_again(kube: FakeKube, make: Make) -> None:
    lease, _ = make()
    await lease.step()
    kube.remove("leases", "jobs", NAME)
    await lease.step()
    assert lease.held
    assert stored(kube)["holderIdentity"] == lease.holder


@pytest.mark.parametrize("drop", ["before", "after"])
async def test_a_renewal_whose_answer_is_lost_costs_nothing(kube: FakeKube, make: Make, drop: str) -> None:
    lease, _ = make()
    await lease.step()
    kube.fault("update leases", drop=drop, times=2)  # aiohttp itself tries once more
    with pytest.raises(ApiError):
        await lease.step()
    assert lease.held
    await lease.step()
    assert lease.held
    assert stored(kube)["leaseTransitions"] == 0


async def test_of_two_that_see_it_free_one_gets_it(kube: FakeKube, make: Make) -> None:
    (first, _), (second, two), (third, three) = make(), make(), make()
    await first.step()
    await asyncio.gather(second.step(), third.step())
    two.now += 31
    three.now += 31
    await asyncio.gather(second.step(), third.step())
    assert [second.held, third.held].count(True) == 1
    assert stored(kube)["leaseTransitions"] == 1


async def test_a_campaign_gives_it_back_at_its_end(kube: FakeKube, api: Api) -> None:
    first, second = (Lease(api, "jobs", NAME, name, 30) for name in ("one", "two"))
    running = asyncio.create_task(first.run())
    await asyncio.wait_for(first.acquired.wait(), 30)
    await second.step()
    assert not second.held
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert stored(kube)["holderIdentity"] == ""
    await second.step()
    assert second.held


async def test_a_campaign_goes_on_after_a_loss_and_after_errors(kube: FakeKube, api: Api) -> None:
    kube.fault("create leases", status=503)
    lease = Lease(api, "jobs", NAME, "one", 0.6)
    running = asyncio.create_task(lease.run())
    await asyncio.wait_for(lease.acquired.wait(), 20)
    lease.acquired.clear()
    shift(kube, holderIdentity="thief", leaseDurationSeconds=1)
    await asyncio.wait_for(lease.acquired.wait(), 20)
    assert stored(kube)["holderIdentity"] == lease.holder
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_client_that_the_server_refuses_holds_nothing(kube: FakeKube) -> None:
    kube.forbidden |= {"get leases"}
    api = Api(Access(kube.url, "jobs"))
    lease = Lease(api, "jobs", NAME, "one", 30)
    with pytest.raises(ApiError, match="cannot get"):
        await lease.step()
    assert not lease.held
    await api.close()
