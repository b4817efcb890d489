"""Pods that the API server doesn't let the sweeper delete stop it from deleting no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from consumer.executors.kubernetes.api import ApiError
from consumer.executors.kubernetes.status import Pod
from consumer.executors.kubernetes.sweep import Refusals, Sweeper
from consumer.model import AttemptKey, Standing
from consumer.queues.none import NoRecords
from support.fakekube import FakeKube
from support.fakekube_http import status
from support.kubernetes import plan_of

Open = Callable[..., Any]
JOBS = ("a", "b", "c")
DENIED = 'admission webhook "keep" denied the request: it is protected'
NO_RIGHT = 'pods "a" is forbidden: User "consumer" cannot delete resource "pods" in API group ""'


class Ended(NoRecords):
    """All jobs have ended."""

    source = "our-store"

    async def standing(self, attempts: Sequence[AttemptKey]) -> Sequence[Standing]:
        return [Standing.ENDED for _ in attempts]


def refuses(kube: FakeKube, name: str, code: int, message: str) -> list[str]:
    """The server says no to the deletion of this pod; the names of all whose deletion was asked for."""
    real, asked = kube._delete, list[str]()

    def delete(row: Any, item: Any, body: bytes) -> Any:
        asked.append(row.name)
        return status(code, "Forbidden", message) if row.name == name else real(row, item, body)

    kube._delete = delete  # type: ignore[method-assign]
    return asked


async def settled(kube: FakeKube, executor: Any) -> list[str]:
    """The names of pods whose outcomes were settled, and that couldn't be deleted then."""
    names = []
    for job in JOBS:
        execution = await executor.start(replace(plan_of(job), source=Ended.source))
        await asyncio.wait_for(execution.wait(), 20)
        executor._leftovers.settled(execution._pod, failed=False)
        executor._leftovers.undeleted(execution._pod.uid)
        await execution.detach()
        names.append(execution.where.pod)
    return names


def sweeper_of(executor: Any, **fields: Any) -> Sweeper:
    api, informer, namespace = executor._parts()
    return Sweeper(api, namespace, informer, executor._leftovers, executor._settings, "c", **fields)


@pytest.mark.parametrize(("code", "message"), [(403, DENIED), (500, "failed calling webhook: EOF"), (422, "no")])
async def test_a_settled_pod_that_cant_be_deleted_is_told_once_and_stops_nobody(
    kube: FakeKube, open_executor: Open, caplog: pytest.LogCaptureFixture, code: int, message: str
) -> None:
    executor = await open_executor(patience=0)
    bad, *_ = await settled(kube, executor)
    asked = refuses(kube, bad, code, message)
    sweeper = sweeper_of(executor)
    for _ in range(3):
        await sweeper.sweep(NoRecords())
        assert kube.names("pods") == [bad]
    assert asked.count(bad) >= 3, "it is tried again"
    assert caplog.text.count("can't be deleted") == 1
    del kube._delete  # type: ignore[attr-defined]
    await sweeper.sweep(NoRecords())
    assert kube.names("pods") == []


async def test_a_found_pod_that_cant_be_deleted_stops_nobody(kube: FakeKube, open_executor: Open) -> None:
    dead = await open_executor("dead")
    bad, *_ = await settled(kube, dead)
    await dead.close()
    executor, now = await open_executor("living", sweep_interval=3600, lease_seconds=1e6), 5000.0
    sweeper = sweeper_of(executor, clock=lambda: now)
    refuses(kube, bad, 403, DENIED)
    for _ in range(3):
        await sweeper.lease.step()
        await sweeper.sweep(Ended())
        now += 3601
    assert kube.names("pods") == [bad]
    assert sweeper.swept == 2


async def test_what_no_pod_can_help_ends_the_round_and_the_next_begins_with_another_one(
    kube: FakeKube, open_executor: Open, caplog: pytest.LogCaptureFixture
) -> None:
    executor = await open_executor()
    bad, *_ = await settled(kube, executor)
    asked = refuses(kube, bad, 403, NO_RIGHT)
    sweeper = sweeper_of(executor)
    with pytest.raises(ApiError, match="cannot delete"):
        await sweeper.sweep(NoRecords())
    assert asked == [bad]
    with pytest.raises(ApiError, match="cannot delete"):
        await sweeper.sweep(NoRecords())
    assert kube.names("pods") == [bad]
    assert "can't be deleted" not in caplog.text


def test_the_pod_that_was_refused_last_comes_last_and_is_forgotten_when_it_is_gone() -> None:
    refusals, pods = Refusals(), [Pod(name, name) for name in "abcd"]
    for pod in (pods[1], pods[0], pods[1]):
        refusals.met(pod, ApiError(403, "Forbidden", DENIED))
    assert [pod.name for pod in refusals.last(pods)] == ["c", "d", "a", "b"]
    refusals.keep(pods[1:])
    assert [pod.name for pod in refusals.last(pods)] == ["a", "c", "d", "b"]
    refusals.over("b")
    assert not refusals
