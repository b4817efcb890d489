"""The sweeper on the fake API server: what it deletes, what it leaves alone, and that only one does."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.status import Container, Pod
from consumer.executors.kubernetes.sweep import Judge, Leftovers, Sweeper, Times
from consumer.executors.kubernetes.watch import Informer
from consumer.model import AttemptKey, Standing
from consumer.queues.none import NoRecords
from enqueue.errors import QueueUnavailable
from support.consuming import until
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import plan_of

SOURCE = "our-store"
Open = Callable[..., Any]


class Store(NoRecords):
    """Records that say what a test wants."""

    source = SOURCE

    def __init__(self, **standings: Standing) -> None:
        self.standings = {name.replace("_", "-"): standing for name, standing in standings.items()}
        self.away = False
        self.asked: list[AttemptKey] = []

    async def standing(self, attempts: Sequence[AttemptKey]) -> Sequence[Standing]:
        self.asked += attempts
        if self.away:
            raise QueueUnavailable("away")
        return [self.standings.get(attempt.id, Standing.HELD) for attempt in attempts]


async def runs_on(pod: FakePod) -> None:
    pod.schedule()
    pod.run()


async def leave(kube: FakeKube, open_executor: Open, job_id: str, source: str = SOURCE, **fields: Any) -> str:
    """A pod whose consumer was killed before it deleted it; ended, unless the kubelet's script says otherwise."""
    executor: KubernetesExecutor = await open_executor("dead")
    execution = await executor.start(replace(plan_of(job_id, **fields), source=source))
    await asyncio.wait_for(execution.started(), 20)
    if kube.script is not runs_on:
        await asyncio.wait_for(execution.wait(), 20)
    await executor.close()
    return str(execution.where.pod)


class Team:
    """Consumers that sweep, each with an executor; `round` lets one of them sweep once."""

    def __init__(self, open_executor: Open, **settings: Any) -> None:
        self._open, self._settings = open_executor, {"sweep_interval": 3600, "lease_seconds": 1e6} | settings
        self._numbers = itertools.count(1)
        self.now = 5000.0

    async def join(self) -> tuple[KubernetesExecutor, Sweeper]:
        name = f"consumer-{next(self._numbers)}"
        executor = await self._open(name, **self._settings)
        api, informer, namespace = executor._parts()
        settings = executor._settings
        return executor, Sweeper(api, namespace, informer, executor._leftovers, settings, name, clock=lambda: self.now)

    async def round(self, sweeper: Sweeper, store: Store) -> None:
        """The Lease, if it is to be had; then one sweep, and the clock moves past the next one's time."""
        await sweeper.lease.step()
        await sweeper.sweep(store)
        self.now += 3601


@pytest.fixture
def team(open_executor: Open) -> Team:
    return Team(open_executor)


async def seen(informer: Informer, kube: FakeKube, *names: str) -> None:
    await kube.until(lambda kube: informer.connected.is_set() and all(informer.get(n) for n in names))


async def test_a_settled_pod_that_was_left_behind_goes(kube: FakeKube, open_executor: Open, team: Team) -> None:
    pod = await leave(kube, open_executor, "job-1", variables=[{"name": "T", "value": "x", "sensitive": True}])
    store = Store(job_1=Standing.ENDED)
    _, sweeper = await team.join()
    await team.round(sweeper, store)
    assert kube.names("pods") == [pod], "its own consumer has a moment to delete it"
    await team.round(sweeper, store)
    assert kube.names("pods") == kube.names("secrets") == []
    assert store.asked == [AttemptKey("job-1", "default", 1)] * 2


async def test_what_is_held_elsewhere_is_left_alone_for_ever(kube: FakeKube, open_executor: Open, team: Team) -> None:
    pod = await leave(kube, open_executor, "job-1")
    _, sweeper = await team.join()
    for _ in range(5):
        await team.round(sweeper, Store(job_1=Standing.HELD))
    assert kube.names("pods") == [pod]


async def test_a_running_orphan_goes_when_it_was_found_so_twice(
    kube: FakeKube, open_executor: Open, team: Team
) -> None:
    kube.script = runs_on
    pod = await leave(kube, open_executor, "job-1")
    store = Store(job_1=Standing.GONE)
    _, sweeper = await team.join()
    await team.round(sweeper, store)
    store.standings["job-1"] = Standing.HELD  # it was a moment of weakness
    await team.round(sweeper, store)
    store.standings["job-1"] = Standing.GONE
    await team.round(sweeper, store)
    assert kube.names("pods") == [pod]
    await team.round(sweeper, store)
    assert kube.names("pods") == []


@pytest.mark.parametrize("source", ["another-store", ""])
async def test_pods_of_another_store_are_never_touched(
    kube: FakeKube, open_executor: Open, team: Team, source: str
) -> None:
    pod = await leave(kube, open_executor, "job-1", source=source)
    store = Store(job_1=Standing.GONE)
    _, sweeper = await team.join()
    for _ in range(4):
        await team.round(sweeper, store)
    assert kube.names("pods") == [pod]
    assert store.asked == []


async def test_a_pod_that_only_looks_like_ours_is_never_touched(
    kube: FakeKube, open_executor: Open, team: Team
) -> None:
    pod = await leave(kube, open_executor, "job-1")
    copied = kube.stored("pods", "jobs", pod)
    assert copied is not None
    meta = {**copied["metadata"], "name": "by-hand", "uid": "another"}
    kube.store("ADDED", "pods", {**copied, "metadata": meta})
    executor, sweeper = await team.join()
    await seen(executor._parts()[1], kube, pod, "by-hand")
    for _ in range(3):
        await team.round(sweeper, Store(job_1=Standing.GONE))
    assert kube.names("pods") == ["by-hand"]


async def test_while_the_store_is_away_nothing_is_touched(kube: FakeKube, open_executor: Open, team: Team) -> None:
    pod = await leave(kube, open_executor, "job-1")
    store = Store(job_1=Standing.GONE)
    store.away = True
    _, sweeper = await team.join()
    for _ in range(3):
        with pytest.raises(QueueUnavailable):
            await team.round(sweeper, store)
        team.now += 3601
    assert kube.names("pods") == [pod]


async def test_what_this_process_holds_is_not_even_asked_about(kube: FakeKube, open_executor: Open, team: Team) -> None:
    kube.script = runs_on
    executor, sweeper = await team.join()
    execution = await executor.start(replace(plan_of("job-1"), source=SOURCE))
    await asyncio.wait_for(execution.started(), 20)
    store = Store(job_1=Standing.GONE)
    for _ in range(3):
        await team.round(sweeper, store)
    assert kube.names("pods") == [execution.where.pod]
    assert store.asked == []


async def test_of_three_consumers_one_sweeps(kube: FakeKube, open_executor: Open, team: Team) -> None:
    await leave(kube, open_executor, "job-1")
    store = Store(job_1=Standing.ENDED)
    sweepers = [(await team.join())[1] for _ in range(3)]
    before = len(kube.ledger)
    for _ in range(3):
        for sweeper in sweepers:
            await team.round(sweeper, store)
    assert kube.names("pods") == []
    assert kube.verbs(before).count("delete pods") == 1
    assert [sweeper.lease.held for sweeper in sweepers].count(True) == 1


async def test_a_leader_that_slept_does_nothing_when_it_wakes(kube: FakeKube, open_executor: Open, team: Team) -> None:
    pod = await leave(kube, open_executor, "job-1")
    store = Store(job_1=Standing.ENDED)
    _, sweeper = await team.join()
    await team.round(sweeper, store)
    team.now += 1e6  # its own clock tells it that the Lease may be another's by now
    before = len(kube.ledger)
    await sweeper.sweep(store)
    assert kube.names("pods") == [pod]
    assert kube.verbs(before) == []


async def test_a_pod_that_has_changed_since_it_was_looked_at_stays(
    kube: FakeKube, open_executor: Open, team: Team
) -> None:
    """A sleeper that can't know that its Lease is lost does no harm: the API compares uid and version."""
    pod = await leave(kube, open_executor, "job-1")
    store = Store(job_1=Standing.ENDED)
    executor, sweeper = await team.join()
    informer = executor._parts()[1]
    known = informer.get(pod)
    assert known is not None
    await team.round(sweeper, store)
    informer._pods[pod] = replace(known, version="1")
    await team.round(sweeper, store)
    informer._pods[pod] = replace(known, uid="another")
    team.now += 3601
    await team.round(sweeper, store)
    await team.round(sweeper, store)
    assert kube.names("pods") == [pod]
    assert kube.verbs().count("delete pods") >= 2


async def test_a_failed_pod_is_kept_and_then_goes(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(pod: FakePod) -> None:
        pod.schedule()
        pod.run()
        pod.end(3)

    kube.script = fails
    team = Team(open_executor, keep_failed=100_000)
    executor, sweeper = await team.join()
    execution = await executor.start(replace(plan_of("job-1"), source=SOURCE))
    await asyncio.wait_for(execution.wait(), 20)
    await execution.remove(failed=True)
    await sweeper.sweep(Store())
    assert kube.names("pods") == [execution.where.pod], "its own consumer keeps it"
    _, other = await team.join()
    await team.round(other, Store(job_1=Standing.FAILED))
    await team.round(other, Store(job_1=Standing.FAILED))
    assert kube.names("pods") == [execution.where.pod], "so does the one that sweeps"
    later = time.monotonic() + 100_001
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await sweeper.sweep(NoRecords())
    assert kube.names("pods") == []
    before = len(kube.ledger)
    await sweeper.sweep(NoRecords())
    assert kube.verbs(before) == []


async def test_a_good_one_isnt_kept(kube: FakeKube, open_executor: Open) -> None:
    executor, _ = await Team(open_executor, keep_failed=600).join()
    execution = await executor.start(plan_of())
    await asyncio.wait_for(execution.wait(), 20)
    await execution.remove(failed=False)
    assert kube.names("pods") == []


async def test_a_pod_that_couldnt_be_deleted_is_tried_again_without_any_lease(
    kube: FakeKube, open_executor: Open
) -> None:
    executor, sweeper = await Team(open_executor, patience=0).join()
    execution = await executor.start(plan_of())
    await asyncio.wait_for(execution.wait(), 20)
    kube.fault("delete pods", status=500)
    with pytest.raises(Exception, match="injected"):
        await execution.remove()
    assert kube.names("pods") == [execution.where.pod]
    await sweeper.sweep(NoRecords())
    assert kube.names("pods") == []


async def test_the_loop_sweeps_at_once_when_it_leads_and_gives_the_lease_back(
    kube: FakeKube, open_executor: Open
) -> None:
    pod = await leave(kube, open_executor, "job-1")
    executor: KubernetesExecutor = await open_executor("one", sweep_interval=0.05, lease_seconds=30)
    await seen(executor._parts()[1], kube, pod)
    store = Store(job_1=Standing.ENDED)
    store.away = True
    sweeping = asyncio.create_task(executor.sweep(store))
    await until(lambda: len(store.asked) > 1)  # an error doesn't end it
    store.away = False
    await kube.until(lambda kube: kube.names("pods") == [])
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    lease = kube.stored("leases", "jobs", "longshore-sweeper")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""


async def test_without_records_there_is_no_campaign(kube: FakeKube, open_executor: Open) -> None:
    executor: KubernetesExecutor = await open_executor("one", sweep_interval=0.01)
    before = len(kube.ledger)
    api, informer, namespace = executor._parts()
    sweeper = Sweeper(api, namespace, informer, Leftovers(0), executor._settings, "one")
    sweeping = asyncio.create_task(sweeper.run(NoRecords()))
    await until(lambda: sweeper.sweeps > 2)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    assert kube.verbs(before) == []


def ended(uid: str, at: float | None = None) -> Pod:
    main = Container("terminated", code=1, ended_at=at)
    return Pod(uid, uid, phase="Failed", main=main, attempt=AttemptKey(uid, "q", 1))


def test_a_pod_under_deletion_by_its_own_execution_is_due_to_nobody_else() -> None:
    leftovers, pod = Leftovers(keep_failed=0), ended("a")
    assert leftovers.settled(pod, failed=True)
    assert leftovers.due(0) == []
    assert "a" in leftovers
    leftovers.undeleted("a")
    assert leftovers.due(0) == [pod]
    leftovers.deleted("a")
    assert (leftovers.due(0), "a" in leftovers) == ([], False)


def test_the_oldest_kept_pods_go_first() -> None:
    judge = Judge(Times(30, 60, keep_failed=1000, most_failed=2))
    pods = [ended(name, at) for name, at in (("young", 990.0), ("old", 900.0), ("oldest", 500.0), ("over", -100.0))]
    doomed = judge.verdict([(pod, Standing.FAILED) for pod in pods], now=0, wall=1000)
    assert [pod.name for pod in doomed] == ["over", "oldest"]


@pytest.mark.parametrize("skew", [-600.0, 600.0])
def test_a_wrong_clock_never_touches_what_isnt_settled(skew: float) -> None:
    judge = Judge(Times(30, 60, keep_failed=0, most_failed=0))
    pod = ended("a", 1000.0)
    for now in (0.0, 59.0):
        assert judge.verdict([(pod, Standing.GONE)], now, 1000.0 + skew) == []
    assert judge.verdict([(pod, Standing.HELD)], 59.5, 1000.0 + skew) == []
    assert judge.verdict([(pod, Standing.GONE)], 61.0, 1000.0 + skew) == [], "found so for the first time again"
    assert judge.verdict([(pod, Standing.GONE)], 121.0, 1000.0 + skew) == [pod]


def test_a_running_pod_of_a_settled_attempt_gets_its_grace_by_our_own_clock() -> None:
    judge = Judge(Times(30, 60, keep_failed=1000, most_failed=5))
    pod = Pod("a", "a", phase="Running", attempt=AttemptKey("a", "q", 1))
    assert judge.verdict([(pod, Standing.FAILED)], 0.0, 1e9) == []
    assert judge.verdict([(pod, Standing.FAILED)], 31.0, 1e9) == [pod]
