"""One pod from its start to its removal. Its status decides everything; nothing is asked while it runs but its log."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.judging import JudgedPod
from consumer.executors.kubernetes.logs import Streams, follow
from consumer.executors.kubernetes.outputs import Handover, Shelf
from consumer.executors.kubernetes.secret import Secret
from consumer.executors.kubernetes.status import Container, Pod
from consumer.executors.kubernetes.steps import StepLog
from consumer.executors.kubernetes.sweep import Leftovers
from consumer.executors.kubernetes.verdict import waiting_for
from consumer.executors.kubernetes.watch import Informer
from consumer.model import Exit, Gap, LogPart, OutputPart, Plan
from consumer.tasks import end as end_task
from enqueue.record import Where


class PodExecution(JudgedPod):
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
        shelf: Shelf,
    ) -> None:
        super().__init__(api, informer, namespace, plan, pod, pull_grace)
        self._leftovers, self._streams = leftovers, streams
        self._handover = Handover(api, f"{self._path}/log", lambda: self.ended, shelf) if plan.job.outputs else None
        self._removed = False
        self.watched_until = 0.0

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

    async def log_begins(self) -> None:
        """Waits until the log is to be read: until then a follower needs to hold nothing for it."""
        source = StepLog(self, "init" if self._plan.job.init else "main")
        try:
            while not (source.ended() or source.watched() or (source.readable() and self._streams.room(self.news))):
                await self.news.wait()
        finally:
            self._streams.leave(self.news)

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

    def heard(self, pod: Pod, gone: bool) -> None:
        """News from the informer."""
        super().heard(pod, gone)
        if self._handover is not None and (main := self._pod.main) is not None and main.state == "terminated":
            self._handover.begin()

    def outputs(self) -> AsyncIterator[OutputPart]:
        """What the collector of the ended pod has handed over. Raises ValueError if the job didn't ask for outputs."""
        if self._handover is None:
            raise ValueError("the job has no outputs")
        return self._handover.parts()

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
        self._late.cancel()
        if self._judging is not None:
            await end_task(self._judging)
        if self._handover is not None:
            await self._handover.close()
        self.news.tell()

    async def ensure_secret(self, secret: Secret) -> None:
        """Create the pod's Secret, if it has one. Raises ApiError.

        Once there, it is right: it is immutable, and no other pod has had one of its name. That of a former pod of
        the same name is still there for a moment after that pod. (A pod of an older release names none: there both
        have one name.)
        """
        if not secret.data:
            return
        self._secret_at = time.monotonic()
        try:
            path, body = path_of(self._namespace, "secrets"), secret.owned_by(self._uid)
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
