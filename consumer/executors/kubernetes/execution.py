"""One pod from its start to its removal. Its status decides everything; nothing is asked while it runs but its log."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.events import told_by_events
from consumer.executors.kubernetes.logs import Streams, follow
from consumer.executors.kubernetes.manifest import Manifest
from consumer.executors.kubernetes.news import News
from consumer.executors.kubernetes.outputs import read_outputs
from consumer.executors.kubernetes.status import Container, Pod, pod_of
from consumer.executors.kubernetes.steps import StepLog
from consumer.executors.kubernetes.sweep import Leftovers
from consumer.executors.kubernetes.verdict import Trouble, exit_of, trouble_of, waiting_for
from consumer.executors.kubernetes.watch import Informer
from consumer.model import Exit, Gap, LogPart, OutputPart, Plan
from consumer.tasks import end as end_task
from enqueue.record import Reason, Where

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


class PodExecution:
    """A pod that was created or adopted. Needs `begin` once."""

    def __init__(
        self,
        api: Api,
        informer: Informer,
        namespace: str,
        plan: Plan,
        pod: Pod,
        *,
        pull_grace: float,
        leftovers: Leftovers,
        streams: Streams,
    ) -> None:
        self._api, self._informer, self._namespace = api, informer, namespace
        self._plan, self._leftovers = plan, leftovers
        self._graces = {Trouble.NOW: 0.0, Trouble.PULL: pull_grace, Trouble.CONFIG: CONFIG_SECONDS}
        self._streams = streams
        self._pod, self._uid = pod, pod.uid
        self._missing = self._gone = self._unseen = self._removed = self._left = False
        self._began = pod.begun
        self._stopped: float | None = None
        self._secret_at: float | None = None
        self.watched_until = 0.0
        self.news = News()
        self._begun_at = time.monotonic()
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._judging: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Watch the pod from now on."""
        self._informer.listen(self._pod.name, self.heard)
        if (known := self._informer.get(self._pod.name)) is not None:
            self.heard(known, False)
        self._look_at_it()

    def heard(self, pod: Pod, gone: bool) -> None:
        """News from the informer."""
        if pod.uid == self._uid:
            if not self._pod.over:  # what it said first of its end is the truth: later it may be deleted
                self._pod = pod
            self._missing, self._unseen = gone, False
            self._began = self._began or pod.begun
        elif gone and not pod.uid:
            self._missing = True
        else:
            return
        self._look_at_it()

    @property
    def where(self) -> Where:
        """Namespace, pod and, once known, node."""
        return Where(
            executor="kubernetes",
            namespace=self._namespace,
            pod=self._pod.name,
            node=self._pod.node,
            consumer=self._plan.consumer,
        )

    @property
    def waiting_for(self) -> str:
        """What the pod waits for: the scheduler's word, an image, a Secret."""
        return "" if self._pod.started else waiting_for(self._pod)

    async def logs(self, after: str = "") -> AsyncGenerator[LogPart, None]:
        """The init step's log, then the main step's, as they wrote them."""
        steps = ("init", "main") if self._plan.job.init else ("main",)
        reached = after.partition(" ")[0]
        for step in steps:
            source = StepLog(self, step)
            begin = after if step == reached else ""
            async with contextlib.aclosing(
                follow(self._api, self._namespace, self._pod.name, step, source, self._streams, begin)
            ) as parts:
                async for part in parts:
                    if isinstance(part, Gap) and (step, reached) == ("init", "main"):
                        continue  # a former consumer has read it
                    yield part

    def outputs(self) -> AsyncIterator[OutputPart]:
        """What the collector of the ended pod has handed over."""
        return read_outputs(self._api, self._namespace, self._pod.name)

    def watched(self, seconds: float) -> None:
        """Somebody reads the log as it is written, for so long."""
        self.watched_until = time.monotonic() + seconds
        self.news.tell()

    async def started(self) -> float:
        """Waits until the main step runs or has ended; seconds since the epoch by the node's clock.

        Raises ExecutorFault if the pod has ended without it: nobody may take it for a job that has begun.
        """
        while True:
            if self._pod.started and self._pod.main is not None:
                return self._pod.main.started_at or time.time()
            if self._end.done():
                end = self._end.result()
                if not end.started:
                    raise ExecutorFault(end.message or "it has ended before its start", started=False)
                return end.started_at or end.ended_at or time.time()
            await self.news.wait()

    async def wait(self) -> Exit:
        """The pod's Exit. Raises ExecutorFault if the API can't be asked."""
        while not self._end.done():
            await self.news.wait()
        return self._end.result()

    async def stop(self, grace: float) -> None:
        """Delete the pod: TERM now, KILL after `grace` seconds (at least 1). Raises ApiError."""
        seconds = max(1, math.ceil(grace))
        if self._gone or self._pod.over or (self._stopped is not None and self._stopped <= seconds):
            return
        before, self._stopped = self._stopped, seconds
        try:
            await self._insist(functools.partial(self._delete, seconds))
        except BaseException:
            self._stopped = before  # so that it may be asked for again
            raise
        self._look_at_it()

    async def remove(self, *, failed: bool = False) -> None:
        """Delete the pod and with it its Secret, unless it `failed` and is to be kept for now. Raises ApiError."""
        await self.detach()
        if self._removed or self._gone or (self._missing and self._pod.over):
            return
        if not self._leftovers.settled(self._pod, failed=failed):
            return
        try:
            if self._pod.over:
                await self._delete(0)
            elif not self._pod.deleting:
                await self._delete(max(1, math.ceil(self._plan.grace)))
        except BaseException:
            self._leftovers.undeleted(self._uid)
            raise
        self._removed = True
        self._leftovers.deleted(self._uid)

    async def detach(self) -> None:
        """Let go of the pod; it runs on."""
        self._informer.unlisten(self._pod.name, self.heard)
        self._left = True
        if self._judging is not None:
            await end_task(self._judging)
        self.news.tell()

    async def ensure_secret(self, manifest: Manifest) -> None:
        """Create the pod's Secret, if it has one. Once there, it is right: it is immutable. Raises ApiError."""
        if not manifest.secret_data:
            return
        self._secret_at = time.monotonic()
        try:
            path, body = path_of(self._namespace, "secrets"), manifest.secret(self._uid)
            await self._api.request("POST", path, body=body, read=answers.nothing)
        except ApiError as error:
            if error.status == 409:
                return
            if error.forbidden or error.passing or error.status == 404 or "exceeded quota" in error.message:
                raise
            # The API repeats values that it doesn't like.
            raise ApiError(error.status, error.code, f"the Secret {self._pod.name} was refused: {error.code}") from None

    def container(self, step: str) -> Container | None:
        """The state of the step's container."""
        return self._pod.main if step == "main" else self._pod.init

    @property
    def ended(self) -> bool:
        """Nothing runs in this pod any more, or we know no better."""
        return self._missing or self._gone or self._pod.over or self._end.done() or self._left

    def _look_at_it(self) -> None:
        """There is news. Judge it, unless that goes on or is over; a pod that just runs needs nobody who waits."""
        self.news.tell()
        if self._judging is None and not (self._left or self._end.done()):
            self._judging = asyncio.create_task(self._judge(), name=f"pod {self._pod.name}")

    async def _judge(self) -> None:
        try:
            if (end := await self._verdict()) is None:
                return
            began = self._began and end.reason is not Reason.INIT_FAILED
            self._end.set_result(replace(end, started=end.started or began))
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
                if trouble is not None and trouble[0] in self._graces:
                    kind, reason, _ = trouble
                    since = seen.setdefault(reason, now)
                    if kind is Trouble.CONFIG and self._secret_at is not None and since < self._secret_at + 2:
                        since = seen[reason] = self._secret_at + 2  # the kubelet may not have seen it yet
                    given = since + self._graces[kind]
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
