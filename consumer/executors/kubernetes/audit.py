"""The pods of a store's jobs, audited against what the store knows. Lists pods, nothing else."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from consumer.audit_kinds import Looked
from consumer.errors import SetupError
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.rights import sentence_of
from consumer.executors.kubernetes.status import Pod, slim
from consumer.executors.names import OURS, SOURCE
from consumer.model import AttemptKey, Standing
from consumer.settings import Kubernetes

PAGE = 500

Ask = Callable[[Sequence[AttemptKey]], Awaitable[Sequence[Standing]]]


async def look_at_pods(settings: Kubernetes, source: str, ask: Ask, looked: Looked) -> None:
    """Compare. `source`: the store's identity; pods of another one are nobody's business here. Raises SetupError."""
    access = await Access.load(settings)
    api = Api(access, rate=settings.rate, patience=3)
    try:
        pods = await _list(api, access.namespace, source)
    except ApiError as error:
        raise SetupError(sentence_of(error, access.namespace)) from None
    finally:
        await api.close()
    looked.count("pods", len(pods))
    there = {pod.name for pod in pods}
    for held in looked.held:
        if held.namespace == access.namespace and held.pod not in there:
            text = f"the job {held.id} of '{held.queue}' runs in the pod {held.pod}, which isn't there"
            looked.add("running_without_pod", held.id, text)
    ours = [(pod, pod.attempt) for pod in pods if pod.attempt is not None and not pod.deleting]
    standings = await ask([attempt for _, attempt in ours])
    compare([(*one, standing) for one, standing in zip(ours, standings, strict=True)], settings, time.time(), looked)


def compare(
    found: Iterable[tuple[Pod, AttemptKey, Standing]], settings: Kubernetes, now: float, looked: Looked
) -> None:
    """Each pod with what the store knows of its attempt. What has ended by itself gets two sweeps to be deleted."""
    patience = settings.keep_failed + 2 * settings.sweep_interval
    running: dict[tuple[str, str], list[str]] = defaultdict(list)
    for pod, attempt, standing in found:
        if standing is Standing.GONE:
            text = f"the pod {pod.name} is of the job {attempt.id}, of which nobody knows"
            looked.add("pod_without_job", pod.name, text)
        elif standing is not Standing.HELD and _ended_for(pod, now) > (patience if pod.over else 0):
            looked.add("pod_outlives_job", pod.name, f"the pod {pod.name} is of the job {attempt.id}, which has ended")
        if not pod.over:
            running[attempt.queue, attempt.id].append(pod.name)
    for (queue, job), names in running.items():
        if len(names) > 1:
            looked.add("two_pods", job, f"the job {job} of '{queue}' runs in {' and '.join(sorted(names))}")


def _ended_for(pod: Pod, now: float) -> float:
    ended = pod.main.ended_at if pod.over and pod.main else None
    return now - ended if ended is not None else float("inf")


async def _list(api: Api, namespace: str, source: str) -> list[Pod]:
    query = {"labelSelector": f"{OURS},{SOURCE}={source}", "limit": str(PAGE)}
    found: list[Pod] = []
    while True:
        page = await api.request("GET", path_of(namespace, "pods"), query=query)
        found += [slim(item) for item in page.get("items") or ()]
        more = (page.get("metadata") or {}).get("continue")
        if not more:
            return found
        query["continue"] = more
