"""Pods of other stores' jobs in our namespace: ids may be equal there, and what such a pod does says nothing of ours.

A pod names the store of its job's Records (`names.SOURCE`). One that names none is taken for ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from consumer.errors import ExecutorFault
from consumer.executors import names
from consumer.executors.kubernetes.status import Pod
from consumer.model import Plan
from enqueue.record import Reason


def is_foreign(pod: Pod, plan: Plan) -> bool:
    """It runs, or ran, a job of another store: never to be adopted, judged or deleted by us."""
    return bool(pod.source) and pod.source != plan.source


def ours_among(pods: Iterable[Pod], plan: Plan) -> list[Pod]:
    """Those that aren't foreign. Raises ExecutorFault if a foreign one runs the very job that is to be started.

    The same job in the producer's own words, down to the moment of its making: a store that was emptied or moved, and
    has a new identity, would else run it twice.
    """
    found = []
    for pod in pods:
        if not is_foreign(pod, plan):
            found.append(pod)
        elif not (plan.begun or pod.over) and _same(pod, plan):
            raise in_the_way(pod, f"the pod {pod.name} runs this very job for another store of Records")
    return found


def _same(pod: Pod, plan: Plan) -> bool:
    return bool(plan.created) and pod.created == plan.created and pod.digest == plan.job.digest()


def in_the_way(pod: Pod, what: str = "") -> ExecutorFault:
    """As for a lack of room: the start is tried again for as long as it may take."""
    what = what or f"the pod {pod.name}, whose name is needed, is of a job of another store with the same id and queue"
    advice = "give each store's consumers a namespace of their own (kubernetes.namespace), or wait until it is gone"
    return ExecutorFault(f"{what} (label {names.SOURCE}: {pod.source}): {advice}", Reason.UNSCHEDULABLE)
