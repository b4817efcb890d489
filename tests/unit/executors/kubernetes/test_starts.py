"""Starts that come to nothing on the fake API server: what had begun, and whose fault it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumer.errors import ExecutorFault, SetupError
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.logs.follow import Follower
from consumer.model import Claim, Settlement, Stop
from consumer.queues.none import NoRecords
from consumer.run import Tools, run_job
from consumer.settings import Kubernetes, Settings
from consumer.switch import Switch
from enqueue.job import Job
from enqueue.record import Reason, Status
from support.consuming import until
from support.fakekube import FakeKube
from support.fakekubelet import FakePod, succeeds
from support.kubernetes import plan_of, read

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


async def stays_pending(pod: FakePod) -> None:
    pod.schedule()


@pytest.mark.parametrize(("seen", "begun"), [(True, False), (False, True)])
async def test_a_pod_that_goes_while_nobody_watches_may_have_begun(
    kube: FakeKube, open_executor: Open, seen: bool, begun: bool
) -> None:
    kube.script = stays_pending
    executor = await open_executor()
    execution = await executor.start(plan_of())
    name = execution.where.pod
    await until(lambda: (known := executor._parts()[1].get(name)) is not None and known.node is not None)
    if seen:
        kube.pods[name].vanish()
    else:
        kube.lose(name)
        kube.cut_watches()
        kube.compact()
    end = await ended(execution)
    assert (end.reason, end.code, end.started) == (Reason.POD_DELETED, None, begun)


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
        pod.write(b"no such table\n", "init")
        pod.end(4, step="init")

    kube.script = fails
    executor = await open_executor()
    execution = await executor.start(plan_of(init={"commands": ["migrate"]}))
    end = await ended(execution)
    assert (end.reason, end.code, end.started) == (Reason.INIT_FAILED, 4, False)
    assert await read(execution.logs()) == b"no such table\n"  # the only word of why it failed


async def test_a_missing_service_account_is_no_policy(kube: FakeKube, open_executor: Open) -> None:
    executor = await open_executor()
    why = 'error looking up service account jobs/runner: serviceaccount "runner" not found'
    kube.fault("create pods", status=403, message=f'pods "x" is forbidden: {why}')
    with pytest.raises(ExecutorFault, match="runner") as caught:
        await executor.start(plan_of())
    assert (caught.value.reason, caught.value.started) == (Reason.CONFIG_ERROR, False)


@pytest.mark.row(40)
@pytest.mark.parametrize("recovers", [True, False])
async def test_a_node_that_is_too_slow_is_waited_for_until_the_start_timeout(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch, recovers: bool
) -> None:
    seen = asyncio.Event()

    async def slow(pod: FakePod) -> None:
        pod.schedule()
        pod.wait("CreateContainerError", "context deadline exceeded")
        await seen.wait()
        pod.run()
        pod.end(0)

    monkeypatch.setattr("consumer.executors.kubernetes.judging.CONFIG_SECONDS", 0.0)
    kube.script = slow
    executor = await open_executor()
    execution = await executor.start(plan_of(start_timeout=30 if recovers else 0.3))
    if recovers:
        await until(lambda: "deadline exceeded" in execution.waiting_for)
        seen.set()
    end = await ended(execution)
    assert (end.code, end.reason) == ((0, None) if recovers else (None, Reason.START_TIMEOUT))
    if not recovers:
        assert end.message == "not started after 0.3 s: CreateContainerError: context deadline exceeded"


FULL = 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5'


async def through(executor: KubernetesExecutor, switch: Switch, settings: Kubernetes, **fields: Any) -> Any:
    """A job's outcome; None: it was let go."""

    async def settle(settlement: Settlement) -> None:
        pass

    job = Job.load({"image": "busybox", "commands": ["true"], **fields})
    claim = Claim("job-1", "default", 1, "token", job, claimed_at=time.time())
    whole = Settings(kubernetes=settings)

    def follower(claim: Claim) -> Follower:
        return Follower(claim, lambda claim, former: (), whole.logs)

    tools = Tools(executor, NoRecords(), whole, follower, settle, requeues=True)
    return await asyncio.wait_for(run_job(claim, tools, switch), 30)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.start.START_PAUSE", 0.02)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("what", ["create pods", "create secrets"])
async def test_a_full_quota_is_waited_for_until_it_had_to_start(
    kube: FakeKube, open_executor: Open, settings: Callable[..., Any], what: str
) -> None:
    executor = await open_executor()
    kube.fault(what, status=403, message=FULL, times=5)
    secret = [{"name": "TOKEN", "value": "hidden", "sensitive": True}]
    assert (await through(executor, Switch(), settings(), variables=secret)).succeeded
    assert kube.names("pods") == kube.names("secrets") == []
    kube.fault(what, status=403, message=FULL, times=1000)
    outcome = await through(executor, Switch(), settings(), variables=secret, start_timeout=0.3)
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.UNSCHEDULABLE)
    assert "limited: pods=5" in outcome.message
    assert kube.names("pods") == []


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("why", "status"), [(Stop.CANCEL, Status.CANCELLED), (Stop.SHUTDOWN, None)])
async def test_whoever_waits_for_room_can_be_stopped(
    kube: FakeKube, open_executor: Open, settings: Callable[..., Any], why: Stop, status: Status | None
) -> None:
    executor = await open_executor()
    kube.fault("create pods", status=403, message=FULL, times=10_000)
    switch = Switch()
    running = asyncio.create_task(through(executor, switch, settings()))
    await kube.until(lambda kube: kube.creates > 5)
    switch.set(why)
    outcome = await running
    assert (outcome and outcome.status) == status
    assert kube.created == []


@pytest.mark.usefixtures("_quick")
async def test_a_job_whose_pods_name_another_store_holds_waits_for_it(
    kube: FakeKube, open_executor: Open, settings: Callable[..., Any]
) -> None:
    kube.script = stays_pending
    executor = await open_executor()
    theirs = await executor.start(replace(plan_of(), source="another"))
    outcome = await through(executor, Switch(), settings(), start_timeout=0.3)
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.UNSCHEDULABLE)
    assert f"{theirs.where.pod}, whose name is needed, is of a job of another store" in outcome.message
    asked = kube.creates
    running = asyncio.create_task(through(executor, Switch(), settings()))
    await kube.until(lambda kube: kube.creates > asked + 5)
    kube.script = succeeds
    kube.pods[theirs.where.pod].vanish()
    assert (await running).succeeded
    assert len(kube.created) == 2


async def test_what_can_be_no_namespace_is_said(kube: FakeKube, settings: Callable[..., Any]) -> None:
    with pytest.raises(SetupError, match="'Bad/NS' can't be the name of a namespace"):
        await KubernetesExecutor(settings(namespace="Bad/NS"), "c").open()


async def test_a_pod_that_ended_without_its_start_is_not_told_as_begun(kube: FakeKube, open_executor: Open) -> None:
    """Else its Record says `running`, and whoever goes on takes the pod that was given up for a lost one."""

    async def has_no_image(pod: FakePod) -> None:
        pod.schedule()
        pod.wait("InvalidImageName", "couldn't parse image name")

    kube.script = has_no_image
    executor = await open_executor()
    execution = await executor.start(plan_of())
    with pytest.raises(ExecutorFault) as caught:
        await asyncio.wait_for(execution.started(), 20)
    assert not caught.value.started
    assert (await ended(execution)).reason is Reason.IMAGE_PULL
