"""Nothing of ours outlives its job: deletes pods whose jobs have ended and that nobody else will delete.

Each consumer sees to the pods that it settled itself. The one that holds the Lease sees to all others that carry the
identity of its own store of Records, which says what became of their jobs. Pods of another store, or of none, are never
touched, and nothing is touched while the store can't say. Secrets go with their pods.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.lease import Lease
from consumer.executors.kubernetes.status import Pod
from consumer.executors.kubernetes.watch import Informer
from consumer.model import Measure, Standing
from consumer.ports import Records
from consumer.settings import Kubernetes
from consumer.tasks import end
from enqueue.errors import QueueUnavailable

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds for which one pod is tried to be deleted, none once one was refused; the next round tries it again."""


class Leftovers:
    """Pods whose outcomes this consumer has settled and that may still be there."""

    def __init__(self, keep_failed: float) -> None:
        self._keep = keep_failed
        self._pods: dict[str, tuple[Pod, float]] = {}

    def settled(self, pod: Pod, *, failed: bool) -> bool:
        """The pod is to be deleted, sooner or later. True: now, by the caller, who says how it went."""
        kept = failed and pod.over and not pod.deleting and self._keep > 0
        self._pods[pod.uid] = (pod, time.monotonic() + self._keep if kept else math.inf)
        return not kept

    def undeleted(self, uid: str) -> None:
        """The caller couldn't delete it: it is due."""
        if found := self._pods.get(uid):
            self._pods[uid] = (found[0], time.monotonic())

    def __contains__(self, uid: str) -> bool:
        """Whether we see to it."""
        return uid in self._pods

    def deleted(self, uid: str) -> None:
        """It has been seen to."""
        self._pods.pop(uid, None)

    def due(self, most: int) -> list[Pod]:
        """Those whose time is over, and the oldest of those that are more than `most`."""
        now = time.monotonic()
        ordered = sorted(self._pods.values(), key=lambda entry: entry[1])
        kept = [(pod, until) for pod, until in ordered if until < math.inf]
        return [pod for i, (pod, until) in enumerate(kept) if until <= now or i < len(kept) - most]


@dataclass(frozen=True, slots=True)
class Times:
    """How long what was found is left alone, in seconds."""

    grace: float
    """After its end was settled: its own consumer deletes it."""
    orphaned: float
    """Between two looks that both find a pod without a job."""
    keep_failed: float
    most_failed: int


class Judge:
    """Decides which of the found pods are to go; remembers since when each has been found so."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._since: dict[tuple[str, bool], float] = {}

    def verdict(self, found: Iterable[tuple[Pod, Standing]], now: float, wall: float) -> list[Pod]:
        """The pods to delete, at `now` by the monotonic clock, `wall` seconds after the epoch.

        The wall clock only hastens the end of what has been settled.
        """
        seen: dict[tuple[str, bool], float] = {}
        doomed, kept = [], []
        for pod, standing in found:
            if standing is Standing.HELD:
                continue
            orphan = standing is Standing.GONE
            key = (pod.uid, orphan)
            since = seen[key] = self._since.get(key, now)
            age = now - since
            if orphan:
                if key in self._since and age >= self._times.orphaned:
                    doomed.append(pod)
                continue
            ended = pod.main.ended_at if pod.over and pod.main else None
            age = max(age, wall - ended if ended is not None else 0.0)
            if standing is Standing.FAILED and pod.over and age < self._times.keep_failed:
                kept.append((age, pod))
            elif age >= self._times.grace:
                doomed.append(pod)
        kept.sort(key=lambda entry: entry[0])
        self._since = seen
        return doomed + [pod for _, pod in kept[self._times.most_failed :]]


class Refusals:
    """Pods that the server didn't delete: they are told once, and come after all others, so that they stop nobody."""

    def __init__(self) -> None:
        self._told: dict[str, bool] = {}  # the longest ago first

    def __len__(self) -> int:
        return len(self._told)

    def last(self, pods: Sequence[Pod]) -> list[Pod]:
        """The same pods, those that were refused behind the others."""
        ranks = {uid: rank for rank, uid in enumerate(self._told, 1)}
        return sorted(pods, key=lambda pod: ranks.get(pod.uid, 0))

    def met(self, pod: Pod, error: ApiError) -> None:
        """This one was refused. Raises the error if it is no matter of this pod alone."""
        told = self._told.pop(pod.uid, False)
        for_all = error.status in (0, 401, 429, 502, 503) or error.forbidden is not None
        self._told[pod.uid] = told or not for_all
        if for_all:
            raise error
        if not told:
            log.warning("the pod %s can't be deleted, each sweep tries it again: %s", pod.name, error)

    def over(self, uid: str) -> None:
        """It is gone."""
        self._told.pop(uid, None)

    def keep(self, pods: Iterable[Pod]) -> None:
        """Forget all but these."""
        if self._told:
            there = {pod.uid for pod in pods}
            self._told = {uid: told for uid, told in self._told.items() if uid in there}


class Sweeper:
    """Sweeps every `kubernetes.sweep_interval` seconds, and at once when the Lease becomes ours."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        informer: Informer,
        leftovers: Leftovers,
        settings: Kubernetes,
        consumer: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._namespace, self._informer, self._leftovers = api, namespace, informer, leftovers
        self._settings, self._clock = settings, clock
        self.lease = Lease(api, namespace, settings.lease, consumer, settings.lease_seconds, clock=clock)
        every = settings.sweep_interval
        self._judge = Judge(Times(every / 2, every, settings.keep_failed, settings.keep_failed_pods))
        self._refusals = Refusals()
        self.sweeps = self.swept = 0

    async def run(self, records: Records) -> None:
        """Goes on until cancelled; then gives the Lease back."""
        self.lease.store = records.source
        campaign = asyncio.create_task(self.lease.run(), name="lease") if records.source else None
        try:
            while True:
                self.lease.acquired.clear()
                try:
                    await self.sweep(records)
                except (ExecutorFault, QueueUnavailable) as error:
                    log.info("nothing is swept now: %s", error)
                except Exception:
                    log.exception("sweeping failed; it is tried again")
                self.sweeps += 1
                try:
                    async with asyncio.timeout(self._settings.sweep_interval):
                        await self.lease.acquired.wait()
                except TimeoutError:
                    pass
        finally:
            if campaign is not None:
                await end(campaign)

    async def sweep(self, records: Records) -> None:
        """One round. Raises ApiError, QueueUnavailable."""
        self._refusals.keep(self._informer.pods())
        for pod in self._refusals.last(self._leftovers.due(self._settings.keep_failed_pods)):
            if await self._delete(pod, whole=False):
                self._leftovers.deleted(pod.uid)
        if not self.lease.held or not self._informer.connected.is_set():
            return
        pods = self._ours(records.source)
        keys = [pod.attempt for pod in pods if pod.attempt is not None]
        found = zip(pods, await records.standing(keys), strict=True)
        for pod in self._refusals.last(self._judge.verdict(found, self._clock(), time.time())):
            if self._may(pod) and await self._delete(pod, whole=True):
                self.swept += 1
                log.info("swept the pod %s, left of the job %s", pod.name, pod.attempt and pod.attempt.id)

    def measures(self) -> Iterator[Measure]:
        """Whether we are the one that sweeps, and what it found."""
        yield Measure("leader", self.lease.held, (("lease", "sweeper"),))
        yield Measure("swept_pods", self.swept)

    def _ours(self, source: str) -> Sequence[Pod]:
        """Pods of jobs of this store that no execution of this process holds."""
        return [
            pod
            for pod in self._informer.pods()
            if pod.source == source and pod.attempt and not pod.deleting and self._may(pod)
        ]

    def _may(self, pod: Pod) -> bool:
        """It is ours to sweep, now: time passes between the look and the deed."""
        return self.lease.held and not self._informer.listened(pod.name) and pod.uid not in self._leftovers

    async def _delete(self, pod: Pod, *, whole: bool) -> bool:
        """Delete this very pod, `whole`: unchanged since it was looked at. True if it is gone or going."""
        conditions = {"uid": pod.uid} | ({"resourceVersion": pod.version} if whole else {})
        options = {"preconditions": conditions} | ({"gracePeriodSeconds": 0} if pod.over else {})
        patience = 0.0 if self._refusals else PATIENCE
        try:
            path = path_of(self._namespace, "pods", pod.name)
            await self._api.request("DELETE", path, body=options, patience=patience, read=answers.nothing)
        except ApiError as error:
            if error.status == 409:
                return not whole
            if error.status != 404:
                self._refusals.met(pod, error)
                return False
        self._refusals.over(pod.uid)
        return True
