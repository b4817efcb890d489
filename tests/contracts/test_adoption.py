"""What every executor does whose executions outlive their consumer. Only ports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.errors import ExecutorFault, Unrunnable
from consumer.ports import Executor
from enqueue.record import Reason
from support.executors import FOREVER, Harness, named, opened, read


@pytest.fixture
async def next_one(detachable: Harness) -> AsyncIterator[Executor]:
    """The executor of the next consumer."""
    assert detachable.another is not None
    executor = detachable.another()
    await executor.open()
    yield executor
    while detachable.executions:  # while both executors still have their connections
        await detachable.executions.pop().remove()
    await executor.close()


@pytest.fixture(params=named("null"))
async def detachable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    """Every executor whose executions outlive their consumer."""
    async with opened(request.param, tmp_path) as made:
        assert made.executor.detachable
        yield made


async def test_what_runs_is_adopted_with_its_whole_log(detachable: Harness, next_one: Executor) -> None:
    plan = detachable.plan(commands=["trap 'echo bye; exit 3' TERM", "echo ready", FOREVER])
    execution = await detachable.executor.start(plan)
    async with contextlib.aclosing(execution.logs()) as first:
        assert await anext(part async for part in first if isinstance(part, bytes)) == b"ready\n"
    started = await execution.started()
    await execution.detach()
    adopted = await next_one.start(replace(plan, begun=True))
    detachable.executions.append(adopted)
    assert await adopted.started() == pytest.approx(started, abs=1)
    log = b""
    async for chunk in adopted.logs():
        log += chunk if isinstance(chunk, bytes) else b""
        await adopted.stop(30)
    exit = await adopted.wait()
    assert (exit.code, exit.started) == (3, True)
    assert log.startswith(b"ready\n")
    assert log.endswith(b"bye\n")


async def test_an_end_that_nobody_watched_is_found(detachable: Harness, next_one: Executor) -> None:
    plan = detachable.plan(commands=["echo alone", "exit 4"])
    execution = await detachable.executor.start(plan)
    ended = await execution.wait()
    await execution.detach()
    adopted = await next_one.start(replace(plan, begun=True))
    detachable.executions.append(adopted)
    found, log = await asyncio.gather(adopted.wait(), read(adopted))
    assert (found.code, found.started, log) == (4, True, b"alone\n")
    assert found.ended_at == ended.ended_at
    await adopted.remove()
    assert await detachable.leftovers() == []


async def test_a_redelivered_job_is_not_run_twice(detachable: Harness, next_one: Executor) -> None:
    plan = detachable.plan(commands=["echo once; sleep 1"])
    first, second = await asyncio.gather(detachable.executor.start(plan), next_one.start(plan))
    detachable.executions += [first, second]
    logs = await asyncio.gather(read(first), read(second))
    assert logs == [b"once\n", b"once\n"]
    assert await first.wait() == await second.wait()
    await first.detach()


async def test_another_job_under_the_same_id_is_refused(detachable: Harness, next_one: Executor) -> None:
    plan = detachable.plan(commands=["sleep 600"])
    detachable.executions.append(await detachable.executor.start(plan))
    other = replace(plan, job=detachable.plan(commands=["echo other"]).job)
    with pytest.raises(Unrunnable, match="same id") as caught:
        await next_one.start(other)
    assert caught.value.reason is Reason.REFUSED


async def test_an_id_that_is_used_again_is_a_new_job(detachable: Harness, next_one: Executor) -> None:
    plan = replace(detachable.plan(commands=["echo one"]), created="2026-01-01T00:00:00Z")
    former = await detachable.executor.start(plan)
    ended = await former.wait()
    await former.detach()  # its outcome is settled, but nobody came to remove it
    again = await next_one.start(replace(plan, created="2026-01-02T00:00:00Z"))
    detachable.executions.append(again)
    found, log = await asyncio.gather(again.wait(), read(again))
    assert (found.code, log) == (0, b"one\n")
    assert (again.where.pod, found.ended_at) != (former.where.pod, ended.ended_at)


async def test_a_former_job_of_the_same_id_that_runs_is_neither_adopted_nor_ended(
    detachable: Harness, next_one: Executor
) -> None:
    plan = replace(detachable.plan(commands=["sleep 600"]), created="2026-01-01T00:00:00Z")
    former = await detachable.executor.start(plan)
    detachable.executions.append(former)
    await former.started()
    with pytest.raises(ExecutorFault, match="still runs") as caught:
        await next_one.start(replace(plan, created="2026-01-02T00:00:00Z"))
    assert not caught.value.started
    await former.stop(0)
    assert (await former.wait()).started


async def test_a_begun_job_that_is_not_found_has_started(detachable: Harness) -> None:
    with pytest.raises(ExecutorFault) as caught:
        await detachable.executor.start(replace(detachable.plan(commands=["true"]), begun=True))
    assert caught.value.started
    assert await detachable.leftovers() == []
