"""Pods of former attempts and jobs: which are nothing to go on with, and which may still run all the same."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes import judging
from consumer.executors.kubernetes.status import Pod
from consumer.model import Plan
from enqueue.record import Reason, Where

LOOK_SECONDS = 15.0
"""Between two looks at a pod of which no news come."""


def given_up(pod: Pod, plan: Plan) -> bool:
    """A former attempt's, on a node that failed it: it was deleted and nobody there says that it has ended."""
    return pod.deleting and pod.node in plan.avoid


def stopped(pod: Pod, plan: Plan) -> bool:
    """Of an attempt that was told to have ended, and deleted since: its end is not another attempt's end."""
    return pod.deleting and pod.name.rpartition("-")[2] in map(str, plan.ended)


def may_run(pod: Pod, plan: Plan) -> bool:
    """Such a one whose node doesn't say yet that nothing of the job runs in it. Beside it no other one may begin."""
    runs = pod.started and not pod.over and pod.main is not None and pod.main.state != "terminated"
    return runs and stopped(pod, plan) and not given_up(pod, plan)


def left_behind(pod: Pod, plan: Plan) -> bool:
    """A former attempt's, which is nothing to go on with."""
    return given_up(pod, plan) or stopped(pod, plan)


def on_its_way_out(pod: Pod) -> bool:
    """Being deleted, with nothing left to learn from it: its name will be free. One that runs still has an end."""
    return pod.deleting and not pod.disruption and (pod.over or not pod.started)


def of_former_job(pod: Pod, plan: Plan) -> bool:
    """It runs, or ran, another job that had the same id before: its end isn't this job's."""
    return bool(pod.created and plan.created and pod.created != plan.created)


async def outwait(
    pod: Pod,
    plan: Plan,
    namespace: str,
    look: Callable[[str], Awaitable[Pod | None]],
    news: Callable[[str, float], Awaitable[None]],
) -> None:
    """Waits until it runs no more, no longer than for any deleted pod; the Record tells of it.

    Raises ExecutorFault: then its node is lost, and only the job's author knows whether it may run a second time.
    """
    until = time.monotonic() + pod.grace + judging.STUCK_SECONDS
    said = f"the pod {pod.name} of a former attempt was stopped, but node {pod.node} doesn't say that it has ended"
    await plan.waits(said)
    while (found := await look(pod.name)) is not None and found.uid == pod.uid and may_run(found, plan):
        if (left := until - time.monotonic()) <= 0:
            where = Where(namespace=namespace, pod=pod.name, node=pod.node)
            raise ExecutorFault(said, Reason.NODE_LOST, started=True, where=where)
        await news(pod.name, min(left, LOOK_SECONDS))
