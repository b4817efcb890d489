"""Starts that come to nothing on the fake API server: what had begun, and whose fault it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from consumer.errors import ExecutorFault, SetupError
from consumer.executors.kubernetes.executor import KubernetesExecutor
from enqueue.record import Reason
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import plan_of

Open = Callable[..., Any]


async def stays_in_init(pod: FakePod) -> None:
    pod.schedule()
    pod.run("init")


async def ended(execution: Any) -> Any:
    return await asyncio.wait_for(execution.wait(), 20)


async def test_a_pod_that_goes_while_its_init_step_runs_had_begun(kube: FakeKube, open_executor: Open) -> None:
    kube.script = stays_in_init
    executor = await open_executor()
    execution = await executor.start(plan_of(init={"commands": ["migrate"]}))
    await kube.until(lambda kube: kube.pods[execution.where.pod].state("init") == "running")
    kube.pods[execution.where.pod].vanish()
    end = await ended(execution)
    assert (end.reason, end.code, end.started) == (Reason.POD_DELETED, None, True)


async def test_an_init_step_that_takes_too_long_had_begun(kube: FakeKube, open_executor: Open) -> None:
    kube.script = stays_in_init
    executor = await open_executor()
    end = await ended(await executor.start(plan_of(init={"commands": ["migrate"]}, start_timeout=0.2)))
    assert (end.reason, end.code, end.started) == (Reason.START_TIMEOUT, None, True)
    assert "init step still runs" in (end.message or "")


async def test_an_init_step_that_fails_is_the_jobs_own_failure_before_its_start(
    kube: FakeKube, open_executor: Open
) -> None:
    async def fails(pod: FakePod) -> None:
        pod.schedule()
        pod.run("init")
        pod.end(4, step="init")

    kube.script = fails
    executor = await open_executor()
    end = await ended(await executor.start(plan_of(init={"commands": ["migrate"]})))
    assert (end.reason, end.code, end.started) == (Reason.INIT_FAILED, 4, False)


async def test_a_missing_service_account_is_no_policy(kube: FakeKube, open_executor: Open) -> None:
    executor = await open_executor()
    why = 'error looking up service account jobs/runner: serviceaccount "runner" not found'
    kube.fault("create pods", status=403, message=f'pods "x" is forbidden: {why}')
    with pytest.raises(ExecutorFault, match="runner") as caught:
        await executor.start(plan_of())
    assert (caught.value.reason, caught.value.started) == (Reason.CONFIG_ERROR, False)


async def test_what_can_be_no_namespace_is_said(kube: FakeKube, settings: Callable[..., Any]) -> None:
    with pytest.raises(SetupError, match="'Bad/NS' can't be the name of a namespace"):
        await KubernetesExecutor(settings(namespace="Bad/NS"), "c").open()
