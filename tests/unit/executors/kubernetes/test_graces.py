"""A pod that can't start may still recover for a while: it isn't given up before, and not waited for afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from consumer.executors.kubernetes import judging
from enqueue.record import Reason
from support.fakekube import FakeKube
from support.fakekubelet import FakePod, succeeds
from support.kubernetes import plan_of

Open = Callable[..., Any]
WHY = {"ErrImagePull": Reason.IMAGE_PULL, "CreateContainerConfigError": Reason.CONFIG_ERROR}
SAYS = "this may pass"


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], dict[str, float]]:
    """So long may either trouble last; the settings that say so."""

    def set_to(seconds: float) -> dict[str, float]:
        monkeypatch.setattr(judging, "CONFIG_SECONDS", seconds)
        return {"image_pull_grace": seconds}

    return set_to


async def another_job(kube: FakeKube, executor: Any) -> None:
    """Lives its whole life: by then a pod that is given up at once has been deleted."""
    kube.script = succeeds
    other = await executor.start(plan_of("job-2"))
    assert (await other.wait()).code == 0
    await other.remove()


@pytest.mark.row(39, 40)
@pytest.mark.parametrize("trouble", WHY)
async def test_trouble_that_passes_within_its_grace_ends_nothing(
    kube: FakeKube, open_executor: Open, grace: Any, trouble: str
) -> None:
    async def waits(pod: FakePod) -> None:
        pod.schedule()
        pod.wait(trouble, SAYS)

    kube.script = waits
    executor = await open_executor(**grace(300))
    async with asyncio.timeout(60):
        execution = await executor.start(plan_of(start_timeout=300))
        pod = kube.pods[execution.where.pod]
        while trouble not in execution.waiting_for:
            await execution.news.wait()
        await another_job(kube, executor)
        assert not execution._end.done()
        assert pod.object is not None
        assert "deletionTimestamp" not in pod.object["metadata"]
        pod.run()
        pod.end(0)
        end = await execution.wait()
    assert (end.code, end.reason, end.started) == (0, None, True)


@pytest.mark.row(39, 40)
@pytest.mark.parametrize("trouble", WHY)
async def test_trouble_that_stays_ends_the_job_after_its_grace_and_not_before(
    kube: FakeKube, open_executor: Open, grace: Any, trouble: str
) -> None:
    began: list[float] = []

    async def waits(pod: FakePod) -> None:
        pod.schedule()
        began.append(time.monotonic())
        pod.wait(trouble, SAYS)

    kube.script = waits
    executor = await open_executor(**grace(0.3))
    async with asyncio.timeout(60):
        execution = await executor.start(plan_of(start_timeout=5))
        end = await execution.wait()
    assert time.monotonic() - began[0] >= 0.3
    assert (end.reason, end.started) == (WHY[trouble], False)
    assert end.message == f"{trouble}: {SAYS}"  # and not that it took too long to start
    assert kube.names("pods") == []
