"""The executor on the fake API server: what it asks for, what it finds, what it makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from consumer.errors import ExecutorFault, Unrunnable
from consumer.executors import names
from consumer.executors.kubernetes.logs import DELETED
from enqueue.record import Reason
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import parts_of, plan_of, read

Open = Callable[..., Any]


async def runs_until_told(pod: FakePod) -> None:
    pod.schedule()
    await pod.secret()
    pod.run()
    pod.write(b"running\n")


async def within(awaitable: Any, seconds: float = 60) -> Any:
    return await asyncio.wait_for(awaitable, seconds)


async def test_a_plain_job_costs_three_requests(kube: FakeKube, open_executor: Open) -> None:
    executor = await open_executor()
    before = len(kube.ledger)
    execution = await executor.start(plan_of())
    assert await read(execution.logs()) == b"hello\n"
    end = await within(execution.wait())
    assert (end.code, end.reason, end.started) == (0, None, True)
    assert await execution.started() == end.started_at
    assert execution.where.node == "node-1"
    await execution.remove()
    assert kube.verbs(before) == ["create pods", "get pods/log", "delete pods"]
    assert kube.names("pods") == []


async def test_a_job_with_a_secret_costs_four_requests_and_leaves_nothing(kube: FakeKube, open_executor: Open) -> None:
    executor = await open_executor()
    before = len(kube.ledger)
    plan = plan_of(variables=[{"name": "T", "value": "hidden", "sensitive": True}], init={"commands": ["true"]})
    execution = await executor.start(plan)
    assert await read(execution.logs()) == b"init\nhello\n"
    assert (await within(execution.wait())).code == 0
    assert len(kube.names("secrets")) == 1
    await execution.remove()
    verbs = kube.verbs(before)
    assert verbs == ["create pods", "create secrets", "get pods/log", "get pods/log", "delete pods"]
    assert kube.names("pods") == kube.names("secrets") == []


async def test_a_create_whose_answer_is_lost_makes_one_pod(kube: FakeKube, open_executor: Open) -> None:
    executor = await open_executor()
    kube.fault("create pods", drop="after")
    execution = await executor.start(plan_of())
    assert (await within(execution.wait())).code == 0
    assert len(kube.created) == 1


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 429, "headers": {"Retry-After": "0"}}, {"drop": "before"}]
)
async def test_a_create_that_fails_for_a_while_is_tried_again(
    kube: FakeKube, open_executor: Open, fault: dict[str, Any]
) -> None:
    executor = await open_executor()
    kube.fault("create pods", times=2, **fault)
    execution = await executor.start(plan_of())
    assert (await within(execution.wait())).code == 0
    assert len(kube.created) == 1


async def test_a_second_consumer_adopts_the_running_pod(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    first, second = await open_executor("one"), await open_executor("two")
    started = await first.start(plan_of())
    await within(started.started())
    await started.detach()
    adopted = await second.start(plan_of())
    assert adopted.where.pod == started.where.pod
    kube.pods[adopted.where.pod].end(0)
    assert await read(adopted.logs()) == b"running\n"
    assert (await within(adopted.wait())).code == 0
    assert len(kube.created) == 1


async def test_racing_starts_make_one_pod(kube: FakeKube, open_executor: Open) -> None:
    executors = [await open_executor(f"c{i}") for i in range(5)]
    executions = await asyncio.gather(*(executor.start(plan_of()) for executor in executors))
    assert {(await within(e.wait())).code for e in executions} == {0}
    assert len(kube.created) == 1


async def test_a_running_pod_of_another_attempt_is_adopted(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    first, second = await open_executor("one"), await open_executor("two")
    started = await first.start(plan_of(attempt=1))
    await within(started.started())
    adopted = await second.start(plan_of(attempt=2))
    assert adopted.where.pod == started.where.pod
    assert len(kube.created) == 1


async def test_a_waiting_pod_of_another_attempt_gets_its_own_secret(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    first, second = await open_executor("one"), await open_executor("two")
    secret = [{"name": "T", "value": "x", "sensitive": True}]
    kube.fault("create secrets", delay=3600)
    starting = asyncio.create_task(first.start(plan_of(attempt=1, variables=secret)))
    await kube.until(lambda kube: kube.verbs().count("create secrets") == 3)  # two checks at the start, and this one
    starting.cancel()  # it died between pod and Secret
    await asyncio.gather(starting, return_exceptions=True)
    adopted = await second.start(plan_of(attempt=2, variables=secret))
    await within(adopted.started())
    assert kube.names("secrets") == [kube.pods[adopted.where.pod].annotations[names.SECRET]]
    assert len(kube.created) == 1


async def test_a_begun_job_is_only_ever_found(kube: FakeKube, open_executor: Open) -> None:
    executor = await open_executor()
    with pytest.raises(ExecutorFault) as caught:
        await executor.start(plan_of(begun=True))
    assert caught.value.started
    assert caught.value.reason is Reason.POD_DELETED
    assert kube.created == []


async def test_stop_ends_a_running_pod_with_its_exit(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    executor = await open_executor()
    execution = await executor.start(plan_of())
    await within(execution.started())
    before = len(kube.ledger)
    await execution.stop(3)
    await execution.stop(3)
    end = await within(execution.wait())
    assert (end.code, end.signal, end.reason, end.started) == (143, 15, None, True)
    assert await parts_of(execution.logs()) == [DELETED]  # nobody has read it while it was there
    await execution.remove()
    assert kube.verbs(before).count("delete pods") == 1


async def test_a_pod_deleted_by_hand(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    executor = await open_executor()
    execution = await executor.start(plan_of())
    await within(execution.started())
    kube.remove("pods", "jobs", execution.where.pod)  # forced: no final status is ever seen
    end = await within(execution.wait())
    assert (end.reason, end.started, end.code) == (Reason.POD_DELETED, True, None)
    await execution.remove()


async def test_a_pod_that_isnt_listed_isnt_gone(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    executor = await open_executor()
    execution = await executor.start(plan_of())
    await within(execution.started())
    pod = kube.pods[execution.where.pod]
    before = len(kube.ledger)
    execution.heard(execution._pod, True)  # the cache says gone, the API doesn't
    await kube.until(lambda kube: "get pods" in kube.verbs(before))
    pod.end(5)
    assert (await within(execution.wait())).code == 5


async def test_an_evicted_pod(kube: FakeKube, open_executor: Open) -> None:
    async def evicted(pod: FakePod) -> None:
        pod.schedule()
        pod.run()
        pod.disrupt()
        pod.end(143)

    kube.script = evicted
    executor = await open_executor()
    end = await within((await executor.start(plan_of())).wait())
    assert (end.reason, end.code, end.started) == (Reason.EVICTED, 143, True)


async def test_start_timeout_says_what_it_waited_for(kube: FakeKube, open_executor: Open) -> None:
    async def no_room(pod: FakePod) -> None:
        pod.unschedulable()

    kube.script = no_room
    executor = await open_executor()
    execution = await executor.start(plan_of(start_timeout=0.2))
    end = await within(execution.wait())
    assert (end.reason, end.started) == (Reason.UNSCHEDULABLE, False)
    assert "Insufficient cpu" in (end.message or "")
    assert kube.names("pods") == []
    assert await read(execution.logs()) == b""
    with pytest.raises(ExecutorFault, match="Insufficient cpu"):
        await within(execution.started())

    async def silent(pod: FakePod) -> None:
        pod.schedule()

    kube.script = silent
    end = await within((await executor.start(plan_of("job-2", start_timeout=0.2))).wait())
    assert (end.reason, end.started) == (Reason.START_TIMEOUT, False)
    assert "node-1" in (end.message or "")


async def test_an_image_that_cant_be_pulled_ends_after_its_grace(kube: FakeKube, open_executor: Open) -> None:
    async def backs_off(pod: FakePod) -> None:
        pod.schedule()
        pod.wait("ErrImagePull", "connection refused")
        pod.wait("ImagePullBackOff", "Back-off pulling image")

    kube.script = backs_off
    executor = await open_executor(image_pull_grace=0.1)
    end = await within((await executor.start(plan_of())).wait())
    assert (end.reason, end.started) == (Reason.IMAGE_PULL, False)
    assert "Back-off" in (end.message or "")


async def test_a_pull_that_recovers_is_no_failure(kube: FakeKube, open_executor: Open) -> None:
    async def recovers(pod: FakePod) -> None:
        pod.schedule()
        pod.wait("ErrImagePull", "timeout")
        await asyncio.sleep(0)
        pod.run()
        pod.end(0)

    kube.script = recovers
    executor = await open_executor(image_pull_grace=20)
    assert (await within((await executor.start(plan_of())).wait())).code == 0


@pytest.mark.parametrize("trouble", [None, "ErrImagePull"])
async def test_a_start_that_this_process_slept_through_is_seen_before_it_is_given_up(
    kube: FakeKube, open_executor: Open, trouble: str | None
) -> None:
    """After a SIGSTOP or a pause of the machine all limits have run out, and no news has been read yet."""
    begun: list[FakePod] = []

    async def waits(pod: FakePod) -> None:
        pod.schedule()
        if trouble:
            pod.wait(trouble, "timeout")
        begun.append(pod)

    kube.script = waits
    executor = await open_executor(image_pull_grace=0.5 if trouble else 30)
    execution = await executor.start(plan_of(start_timeout=30 if trouble else 0.5))
    await kube.until(lambda kube: bool(begun))
    while trouble and not (execution.container("main") and execution.container("main").reason):
        await within(execution.news.wait())
    executor._opened[1].unlisten(execution.where.pod, execution.heard)
    begun[0].run()
    async with asyncio.timeout(20):
        await execution.started()
    executor._opened[1].listen(execution.where.pod, execution.heard)
    begun[0].end(0)
    assert (await within(execution.wait())).code == 0
    assert [row.name for row in kube.ledger if row.verb == "delete pods"] == ["ls-check"]


async def test_a_refused_secret_takes_the_pod_back_and_shows_no_value(kube: FakeKube, open_executor: Open) -> None:
    executor = await open_executor()
    kube.fault("create secrets", status=422, message="Invalid value: 'hidden-value'")
    plan = plan_of(variables=[{"name": "T", "value": "hidden-value", "sensitive": True}])
    with pytest.raises(Unrunnable) as caught:
        await executor.start(plan)
    assert "hidden-value" not in str(caught.value)
    assert kube.names("pods") == []


async def test_an_api_that_is_away_for_a_while_changes_nothing(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs_until_told
    executor = await open_executor()
    execution = await executor.start(plan_of())
    await within(execution.started())
    await kube.stop()
    kube.pods[execution.where.pod].write(b"while away\n")
    kube.pods[execution.where.pod].end(0)
    await kube.start()
    assert await read(execution.logs()) == b"running\nwhile away\n"
    assert (await within(execution.wait())).code == 0


async def test_a_full_quota_is_no_fault_of_the_job(kube: FakeKube, open_executor: Open) -> None:
    executor = await open_executor()
    kube.fault("create pods", status=403, message='pods "x" is forbidden: exceeded quota: q, requested: pods=1')
    with pytest.raises(ExecutorFault, match="quota") as caught:
        await executor.start(plan_of())
    assert caught.value.reason is Reason.UNSCHEDULABLE
    kube.fault("create pods", status=403, message='pods "x" is forbidden: violates PodSecurity "restricted"')
    with pytest.raises(Unrunnable, match="policy"):
        await executor.start(plan_of())
