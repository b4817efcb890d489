"""A pod and how it ends: its status judged whenever there is news of it."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.events import told_by_events
from consumer.executors.kubernetes.news import News
from consumer.executors.kubernetes.status import Pod, pod_of
from consumer.executors.kubernetes.verdict import Trouble, exit_of, trouble_of, waiting_for
from consumer.executors.kubernetes.watch import Informer
from consumer.model import Exit, Plan
from enqueue.record import Reason

log = logging.getLogger(__name__)

CONFIG_SECONDS = 10.0
"""How long a container that can't be set up may still recover: a Secret may be on its way."""
GONE_SECONDS = 30.0
"""How long, beyond its grace, a deleted pod that never started may take to go."""
STUCK_SECONDS = 120.0
"""How long, beyond its grace, a deleted pod may take to go before its node counts as lost."""
INSIST_FIRST, INSIST_CAP = 1.0, 30.0
"""Seconds between two tries of a call that the API doesn't answer."""
UNSEEN_SECONDS = 15.0
"""How often a pod is looked at that exists but isn't listed any more (somebody took its labels away)."""


class JudgedPod:
    """Knows the pod's last state, and its Exit once there is one."""

    def __init__(self, api: Api, informer: Informer, namespace: str, plan: Plan, pod: Pod, pull_grace: float) -> None:
        self._api, self._informer, self._namespace, self._plan = api, informer, namespace, plan
        self._pull_grace = pull_grace
        self._pod, self._uid = pod, pod.uid
        self._missing = self._gone = self._unseen = self._left = False
        self._began, self._deleted = pod.begun, False
        self._stopped: float | None = None
        self._secret_at: float | None = None
        self.news = News()
        self._begun_at, loop = time.monotonic(), asyncio.get_running_loop()
        self._end: asyncio.Future[Exit] = loop.create_future()
        self._judging: asyncio.Task[None] | None = None
        self._late = loop.call_later(plan.start_timeout, self._begin_judging)

    def begin(self) -> None:
        """Watch the pod from now on."""
        self._informer.listen(self._pod.name, self.heard)
        if (known := self._informer.get(self._pod.name)) is not None:
            self.heard(known, False)
        self._look_at_it()

    def heard(self, pod: Pod, gone: bool) -> None:
        """News from the informer. Of a pod that went while nobody watched it knows the name alone."""
        if pod.uid == self._uid:
            if not self._pod.over:  # what it said first of its end is the truth: later it may be deleted
                self._pod = pod
            self._missing, self._unseen = gone, False
            self._began, self._deleted = self._began or pod.begun, self._deleted or gone
        elif gone and not pod.uid:
            self._missing = True
        else:
            return
        self._look_at_it()

    def _look_at_it(self) -> None:
        """There is news."""
        try:
            # A task that judges decides alone: it may be giving up the pod, and knows why that is being deleted.
            judged = self._left or self._end.done() or self._judging is not None or self._judged()
        except Exception:
            judged = False  # the task meets it too, and tells it
        if not judged:
            self._begin_judging()
        self.news.tell()

    def _judged(self) -> bool:
        """Nothing but news can tell more: it has ended, just runs, or is on its way to its start."""
        if self._missing or self._unseen:
            return False
        end = exit_of(self._pod, gone=self._gone, stopped=self._stopped is not None)
        if end is not None:
            self._ends(end)
            return True
        if self._pod.deleting or self._stopped is not None:
            return False
        if self._pod.started:
            self._late.cancel()
            return True
        return trouble_of(self._pod) is None

    def _begin_judging(self) -> None:
        """By a task, since something must be asked or waited for."""
        if self._judging is None and not (self._left or self._end.done()):
            self._judging = asyncio.create_task(self._judge(), name=f"pod {self._pod.name}")

    def _ends(self, end: Exit) -> None:
        began = self._began and end.reason is not Reason.INIT_FAILED
        self._end.set_result(end if end.started or not began else replace(end, started=True))
        self._late.cancel()

    async def _judge(self) -> None:
        try:
            if (end := await self._verdict()) is None:
                return
            self._ends(end)
        except Exception as error:
            known = isinstance(error, ApiError)
            self._end.set_exception(ExecutorFault(str(error), started=self._began) if known else error)
            self._end.exception()  # `wait` tells it to whoever asks
        finally:
            self._judging = None
        self.news.tell()

    async def _verdict(self) -> Exit | None:
        """The end, or None as long as nothing but news can bring it."""
        seen: dict[Reason, float] = {}
        deleting: float | None = None
        fresh = False
        while True:
            if self._missing or self._unseen:
                await self._insist(self._look)
            pod, now = self._pod, time.monotonic()
            end = exit_of(pod, gone=self._gone, stopped=self._stopped is not None)
            if end is not None:
                return end
            wakes: list[float] = []
            if pod.deleting or self._stopped is not None:
                deleting = deleting or now
                wakes.append(deleting + (pod.grace or self._stopped or 0) + STUCK_SECONDS)
                if now >= wakes[0]:
                    return Exit(
                        reason=Reason.NODE_LOST,
                        message=f"the pod {pod.name} was deleted, but node {pod.node} doesn't say that it has ended",
                        started_at=pod.main.started_at if pod.main else None,
                        started=pod.started or pod.node is not None,
                    )
            elif not pod.started:
                limit, trouble, given = self._begun_at + self._plan.start_timeout, trouble_of(pod), math.inf
                if trouble is not None and trouble[0] is not Trouble.WAITS:
                    kind, reason, _ = trouble
                    since = seen.setdefault(reason, now)
                    if kind is Trouble.CONFIG and self._secret_at is not None and since < self._secret_at + 2:
                        since = seen[reason] = self._secret_at + 2  # the kubelet may not have seen it yet
                    given = since + self._grace_for(kind)
                if now >= min(limit, given):
                    if not fresh:  # we may have stood still, and it has started meanwhile
                        await self._insist(self._look)
                        fresh = True
                        continue
                    if trouble is not None and now >= given:
                        return await self._give_up(*trouble[1:])
                    reason = trouble[1] if trouble is not None else Reason.START_TIMEOUT
                    waited = f"not started after {self._plan.start_timeout:g} s: {waiting_for(pod)}"
                    if trouble is None and (told := await told_by_events(self._api, self._namespace, self._uid)):
                        waited = f"{waited}; {told}"
                    return await self._give_up(reason, waited)
                wakes.append(min(limit, given))
            if self._unseen:
                wakes.append(now + UNSEEN_SECONDS)
            if not wakes:
                return None
            await self.news.wait(max(0.0, min(wakes) - now))
            fresh = False

    def _grace_for(self, kind: Trouble) -> float:
        return {Trouble.PULL: self._pull_grace, Trouble.CONFIG: CONFIG_SECONDS}.get(kind, 0.0)

    async def _insist(self, call: Callable[[], Awaitable[None]]) -> None:
        """A call for as long as the API doesn't answer it, or doesn't let us: what runs is judged by nothing less."""
        pause, told = INSIST_FIRST, False
        while True:
            try:
                return await call()
            except ApiError as error:
                if not (error.passing or error.status in (401, 403)):
                    raise
                if not told:
                    log.warning("the pod %s is waited for: %s", self._pod.name, error)
                    told = True
            if self._pod.over and not self._missing:
                return None
            await self.news.wait(random.uniform(pause / 2, pause))
            pause = min(INSIST_CAP, pause * 2)

    async def _look(self) -> None:
        """A pod that isn't listed isn't gone until the API says so."""
        if exit_of(self._pod) is not None:
            return
        try:
            found = await self._api.request("GET", self._path, read=pod_of)
        except ApiError as error:
            if error.status != 404:
                raise
            found = Pod(self._pod.name, "")
        if found.uid == self._uid:
            self._unseen = self._missing or self._unseen
            self._pod, self._missing = found, False
            self._began = self._began or found.begun
        else:
            self._gone = True
            self._began = self._began or not self._deleted  # it may have begun after its last state that we know
        self.news.tell()

    async def _give_up(self, reason: Reason, message: str) -> Exit:
        """It doesn't start: delete it, and make sure that it hasn't started at the last moment."""
        await self._plan.confirm()  # else its new consumer decides
        self._stopped = max(1, math.ceil(self._plan.grace))
        await self._insist(functools.partial(self._delete, self._stopped))
        until = time.monotonic() + self._stopped + GONE_SECONDS
        while not (self._missing or self._pod.over) and (left := until - time.monotonic()) > 0:
            await self.news.wait(left)
        self._gone = self._gone or self._missing
        pod = self._pod
        end = exit_of(pod, gone=self._gone, stopped=True) or Exit()
        if pod.started and end.code == 0:
            return end
        unknown = not (self._gone or pod.over) and pod.node is not None
        code = end.code if pod.started else None  # else it is our own deletion's
        return replace(end, reason=reason, message=message, code=code, started=pod.started or unknown)

    async def _delete(self, grace: int) -> None:
        options = {"gracePeriodSeconds": grace, "preconditions": {"uid": self._uid}}
        try:
            await self._api.request("DELETE", self._path, body=options, read=answers.nothing)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    @property
    def _path(self) -> str:
        return path_of(self._namespace, "pods", self._pod.name)
