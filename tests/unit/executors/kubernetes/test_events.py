"""Why a pod doesn't start: its events are asked for once, and only where its status tells nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from consumer.executors.kubernetes.events import summary
from enqueue.record import Reason
from support.fakekube import FakeKube
from support.kubernetes import plan_of

Open = Callable[..., Any]


def event(reason: str, message: str, seconds: int, **more: Any) -> dict[str, Any]:
    return {"type": "Warning", "reason": reason, "message": message} | (
        more or {"lastTimestamp": f"2026-11-21T08:00:{seconds:02}Z"}
    )


def test_the_last_warnings_are_told() -> None:
    assert summary([]) == ""
    assert summary([event("Pulled", "fine", 1) | {"type": "Normal"}, event("FailedScheduling", "0/3 nodes", 2)]) == ""
    told = summary(
        [
            event("FailedMount", "old", 5),
            event("FailedAttachVolume", "older", 1),
            event("FailedMount", 'secret "a"\n not found', 9),
            event("FailedCreatePodSandBox", "no runtime", 0, eventTime="2026-11-21T08:00:07.000000Z"),
        ]
    )
    assert told == 'FailedMount: secret "a" not found; FailedCreatePodSandBox: no runtime'
    assert len(summary([event("FailedMount", "x" * 5000, 1)])) == 400


def asked(kube: FakeKube) -> int:
    """How often the events of a pod were asked for."""
    return sum("involvedObject.uid" in request.query.get("fieldSelector", "") for request in kube.ledger)


def stuck(kube: FakeKube) -> None:
    """Pods get a node, and then only an event."""

    async def script(pod: Any) -> None:
        pod.schedule()
        told = event("FailedCreatePodSandBox", 'no runtime for "gvisor" is configured', 3)
        meta = {"namespace": "jobs", "name": f"{pod.name}.1"}
        kube.store("ADDED", "events", told | {"metadata": meta, "involvedObject": {"uid": pod.uid}})

    kube.script = script


async def test_a_start_that_times_out_says_what_the_events_say(kube: FakeKube, open_executor: Open) -> None:
    stuck(kube)
    executor = await open_executor()
    execution = await executor.start(plan_of(start_timeout=0.2))
    end = await execution.wait()
    assert end.reason is Reason.START_TIMEOUT
    assert "FailedCreatePodSandBox: no runtime for" in (end.message or "")
    assert asked(kube) == 1


async def test_without_the_right_the_status_alone_speaks(kube: FakeKube, open_executor: Open) -> None:
    stuck(kube)
    executor = await open_executor()
    kube.fault("list events", status=403, message='User "consumer" cannot list resource "events"', times=5)
    end = await (await executor.start(plan_of(start_timeout=0.2))).wait()
    assert end.reason is Reason.START_TIMEOUT
    assert (end.message or "").endswith("node node-1 is setting it up (PodInitializing)")
    assert asked(kube) == 1


@pytest.mark.parametrize("told", ["unschedulable", "image"])
async def test_where_the_status_tells_nobody_asks(kube: FakeKube, open_executor: Open, told: str) -> None:
    async def script(pod: Any) -> None:
        if told == "unschedulable":
            pod.unschedulable()
            return
        pod.schedule()
        pod.wait("InvalidImageName", "couldn't parse")

    kube.script = script
    executor = await open_executor()
    end = await (await executor.start(plan_of(start_timeout=0.2))).wait()
    assert end.reason in (Reason.UNSCHEDULABLE, Reason.IMAGE_PULL)
    assert asked(kube) == 0
