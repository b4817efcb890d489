"""A pod that doesn't start is given up and deleted: what its deletion looks like never replaces the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from enqueue.record import Reason
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import plan_of

Open = Callable[..., Any]


async def has_a_bad_image(pod: FakePod) -> None:
    pod.schedule()
    pod.wait("InvalidImageName", "couldn't parse the image's name")


async def is_never_set_up(pod: FakePod) -> None:
    pod.schedule()


async def finds_no_room(pod: FakePod) -> None:
    pod.unschedulable()


@pytest.mark.parametrize(
    ("script", "reason", "says"),
    [
        (has_a_bad_image, Reason.IMAGE_PULL, "couldn't parse the image's name"),
        (is_never_set_up, Reason.START_TIMEOUT, "not started after 0.1 s"),
        (finds_no_room, Reason.UNSCHEDULABLE, "Insufficient cpu"),
    ],
)
async def test_news_of_its_deletion_leaves_the_reason_for_which_it_is_given_up(
    kube: FakeKube, open_executor: Open, script: Any, reason: Reason, says: str
) -> None:
    kube.script = script
    executor = await open_executor()
    before = len(kube.ledger)
    kube.fault("delete pods", status=503, times=1000)  # the deletion is on its way for as long as we want
    execution = await executor.start(plan_of(start_timeout=20 if script is has_a_bad_image else 0.1))
    async with asyncio.timeout(20):
        await kube.until(lambda kube: "delete pods" in kube.verbs(before))
        kube.pods[execution.where.pod].status(phase="Failed")  # as a kubelet, or the garbage collector of pods, says
        while not execution._pod.over:
            await execution.news.wait()
        kube.faults.clear()
        end = await execution.wait()
    assert (end.reason, end.started, end.code) == (reason, False, None)
    assert says in (end.message or "")
    await execution.remove()
    assert kube.names("pods") == []
