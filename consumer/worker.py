"""The worker: slots, the claim loop, the heartbeat and the drain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

import structlog

from consumer.batch import Batcher
from consumer.errors import ClaimLost
from consumer.extras import NONE, Extras
from consumer.logs.follow import Follower
from consumer.model import Claim, Settlement, Signal, Stop
from consumer.ports import Executor, Meter, Queue, Records
from consumer.recording import crashed
from consumer.run import Tools, run_job
from consumer.settings import Settings
from consumer.switch import Switch
from consumer.tasks import Pace, end
from enqueue.errors import QueueUnavailable

log = structlog.get_logger()

Shutdown = Literal["detach", "drain", "finish"]
"""How a consumer leaves its running jobs."""

BEAT_INTERVAL = 5.0
"""Seconds between two heartbeats of a claim, and at most until a cancellation is noticed that wasn't announced."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks at an executor in trouble, a queue that gives nothing more, or full slots."""

SURE = 6.0
"""Seconds after a heartbeat in which no claim of ours can have passed to another consumer: they wait longer."""

_BUGS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

LAST_PATIENCE = 30.0
"""Seconds, beyond a job's own grace, for the last outcomes to be taken by the queue when we are to stop."""


def now() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Worker:
    """Runs what a queue gives on an executor, `settings.concurrency` jobs at a time."""

    def __init__(
        self,
        queue: Queue,
        records: Records,
        executor: Executor,
        settings: Settings,
        follower: Callable[[Claim], Follower],
        meter: Meter | None = None,
        watched: Callable[[str], None] = lambda job_id: None,
        extras: Extras | None = None,
    ) -> None:
        self.queue = queue
        self.records = records
        self.settings = settings
        self._meter, self._watched = meter, watched
        self._settling: Batcher[Settlement, None] = Batcher(self._settle)
        self._asking: Batcher[Claim, Signal | None] = Batcher(self._ask)
        self._tools = Tools(
            executor,
            records,
            settings,
            follower,
            self._settling.put,
            queue.requeues,
            self._confirm,
            self._over,
            meter,
            extras or NONE,
        )
        self._jobs: dict[asyncio.Task[None], tuple[Claim, Switch]] = {}
        self._beaten: dict[str, float] = {}
        self._pace = Pace()
        self._leaving: set[str] = set()
        self._freed = asyncio.Event()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._how: Shutdown = settings.shutdown
        self.heard = now()
        """When the queue last answered a heartbeat, by `now`."""
        self.trouble: str | None = None
        """Why nothing could be claimed last."""

    @property
    def busy(self) -> int:
        """Slots in use: a job that has ended in every respect, but for what is left of it, frees its slot.

        At most as many such jobs as there are slots: if removals hang, no more is begun.
        """
        return len(self._jobs) - min(len(self._leaving), self.settings.concurrency)

    @property
    def leaving(self) -> int:
        """Jobs that have ended, and whose executions are being removed."""
        return len(self._leaving)

    @property
    def stopped(self) -> bool:
        """It was told to stop."""
        return self._stop.is_set()

    def reload(self, settings: Settings) -> None:
        """Use these for jobs that begin later; those that run go on with what they began with."""
        self.settings = settings
        self._tools = replace(self._tools, settings=settings)
        if not self.stopped:
            self._how = settings.shutdown
        self._freed.set()

    def quiet(self) -> None:
        """Claim no more; what runs goes on, and so do we."""
        self.queue.stopping.set()

    def stop(self, how: Shutdown | None = None) -> None:
        """Claim no more, and end as the settings say, or as `how` does. A second call cuts the waiting short.

        detach: what can go on without us is left at once. drain: running jobs get the grace period. finish: they get
        all the time that they need.
        """
        self._how = how or self._how
        if self._stop.is_set() or how == "detach":
            self._hurry.set()
        self._stop.set()
        self.queue.stopping.set()

    async def run(self) -> None:
        """Works until `stop` is called; returns when every job has ended or was let go."""
        works = (self._beat, self._hear_cancellations, self._hear_watchers, self._obey_server)
        helpers = [asyncio.create_task(self._keep_going(work)) for work in works]
        try:
            await self._claim_loop()
            for claim in await self.queue.drain():
                self._launch(claim)
            await self._wind_down()
        finally:
            await end(*helpers, *self._jobs)

    async def _keep_going(self, work: Callable[[], Awaitable[None]]) -> None:
        """A helper that fails is told and begun again: without heartbeats we would lose every claim."""
        while True:
            try:
                await work()
                return
            except Exception:
                log.exception("helper_failed", helper=work.__name__)
            await asyncio.sleep(1)

    async def _claim_loop(self) -> None:
        delay, told = 0.2, False
        trouble: str | None = None
        while not self._stop.is_set():
            before, trouble = trouble, self._tools.executor.trouble
            if trouble is not None:
                if before is None:
                    log.warning("executor_unavailable", error=trouble, doing="claiming nothing until it is back")
                await self._first_of(self._stop.wait(), timeout=LOOK_INTERVAL)
                continue
            if before is not None:
                log.info("executor_back")
            free = self.settings.concurrency - self.busy
            if free <= 0 or self.queue.stopping.is_set():
                self._freed.clear()
                await self._first_of(self._freed.wait(), self._stop.wait(), timeout=LOOK_INTERVAL)
                continue
            try:
                claims = await self.queue.claim(free)
            except Exception as error:
                self.trouble = str(error) or type(error).__name__
                if not isinstance(error, QueueUnavailable):
                    log.exception("claim_failed")
                elif not told:
                    log.warning("queue_unavailable", error=str(error), doing="waiting for it; running jobs go on")
                    told = True
                await self._first_of(self._stop.wait(), timeout=delay)
                delay = min(5.0, delay * 2)
                continue
            if told:
                log.info("queue_back")
            delay, told, self.trouble = 0.2, False, None
            for claim in claims:
                self._launch(claim)

    def _launch(self, claim: Claim) -> None:
        if ahead := self.records.ahead:  # whoever goes on with it reckons from then, with a clock of his own
            claim = replace(claim, claimed_at=claim.claimed_at - ahead)
        switch = Switch()
        self._beaten[claim.token] = now()
        if self._meter is not None:
            self._meter.claimed(claim)
        task = asyncio.create_task(self._run(claim, switch), name=f"job {claim.id}")
        self._jobs[task] = (claim, switch)
        task.add_done_callback(self._ended)

    async def _run(self, claim: Claim, switch: Switch) -> None:
        structlog.contextvars.bind_contextvars(job=claim.id, queue=claim.queue)  # for each line about it from here on
        await self._pace.turn()  # meanwhile it is beaten, and can be cancelled, like any other
        try:
            outcome = await run_job(claim, self._tools, switch)
        except Exception as error:  # ours to mend
            log.exception("job_crashed_the_consumer_code", job=claim.id, queue=claim.queue)
            await self._give_up(claim, error)
            return
        if outcome is None:
            log.info("job_let_go", job=claim.id, queue=claim.queue, attempt=claim.attempt)
            return
        log.info(
            "job_ended", job=claim.id, queue=claim.queue, attempt=claim.attempt, status=outcome.status.value,
            reason=outcome.reason, exit_code=outcome.exit_code,
        )  # fmt: skip

    async def _give_up(self, claim: Claim, error: Exception) -> None:
        """A bug of ours must not leave a job without an end. What its queue refused stays there till its lease ends."""
        if not isinstance(error, _BUGS):
            return
        tools = self._tools
        try:
            stream = self.records.stream_of(claim)
            await tools.settle(crashed(claim, error, self.settings.name, tools.executor.name, stream, time.time()))
        except Exception:
            log.exception("job_left_unsettled", job=claim.id, queue=claim.queue)

    def _over(self, claim: Claim) -> None:
        self._leaving.add(claim.token)
        self._freed.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        claim, _ = self._jobs.pop(task)
        self._beaten.pop(claim.token, None)
        self._leaving.discard(claim.token)
        self._freed.set()
        if self._meter is not None:
            self._meter.over(claim)

    async def _settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        refused = await self.queue.settle(batch)
        for settlement in batch:
            error = refused.get(settlement.claim.token)
            if error is not None:
                level = log.warning if isinstance(error, ClaimLost) else log.error
                level("outcome_not_taken", job=settlement.claim.id, error=str(error))
            elif self._meter is not None:
                self._meter.settled(settlement)
        return [refused.get(settlement.claim.token) for settlement in batch]

    async def _beat(self) -> None:
        while True:
            await self._beat_these(list(self._jobs.values()))
            await asyncio.sleep(BEAT_INTERVAL)

    async def _beat_these(self, jobs: Sequence[tuple[Claim, Switch]]) -> None:
        sent = now()
        try:
            signals = await self.queue.beat([claim for claim, _ in jobs])
        except QueueUnavailable:
            return
        except Exception:  # whatever it is, the next beat is due: without any, the jobs would be taken from us
            log.exception("heartbeat_failed")
            return
        self.heard = now()
        for claim, switch in jobs:
            if claim.token in signals:
                switch.set(Stop.LOST if signals[claim.token] is Signal.LOST else Stop.CANCEL)
            if signals.get(claim.token) is not Signal.LOST and claim.token in self._beaten:
                self._beaten[claim.token] = sent

    async def _confirm(self, claim: Claim) -> None:
        """Raises ClaimLost if another consumer has the claim; costs nothing but after a pause of this process.

        One that was stopped for longer than others wait for its heartbeats must not act on what it knew before.
        """
        while now() - self._beaten.get(claim.token, 0.0) > SURE:
            with contextlib.suppress(QueueUnavailable):
                if await self._asking.put(claim) is Signal.LOST:
                    raise ClaimLost(f"job {claim.id} was taken over while this consumer stood still")
                return
            await asyncio.sleep(1)

    async def _ask(self, claims: Sequence[Claim]) -> Sequence[Signal | None]:
        """Heartbeats of these alone: after a pause all jobs ask at once."""
        sent, signals = now(), await self.queue.beat(claims)
        beaten = [claim.token for claim in claims if signals.get(claim.token) is not Signal.LOST]
        self._beaten.update((token, sent) for token in beaten if token in self._beaten)
        return [signals.get(claim.token) for claim in claims]

    async def _hear_cancellations(self) -> None:
        """What a message announces, a heartbeat confirms."""
        while True:
            try:
                async for job_id in self.records.cancellations():
                    named = [job for job in self._jobs.values() if job[0].id == job_id]
                    if named:
                        await self._beat_these(named)
            except Exception:  # such as a right that we don't have: the heartbeat finds cancellations as well
                log.exception("cancellations_not_heard")
            await asyncio.sleep(BEAT_INTERVAL)

    async def _hear_watchers(self) -> None:
        while True:
            try:
                async for job_id in self.records.watched():
                    self._watched(job_id)
            except Exception:  # such as a right that we don't have: then a log may come at its end
                log.exception("watchers_not_heard")
            await asyncio.sleep(BEAT_INTERVAL)

    async def _obey_server(self) -> None:
        await self.queue.terminated.wait()
        log.info("told_to_stop_by_the_queue")
        self.stop()

    async def _wind_down(self) -> None:
        """Running jobs are let go, for another consumer to go on with; where that can't be, they may end first."""
        if self._jobs and not self._hands_over:
            seconds = None if self._how == "finish" else self.settings.shutdown_grace
            log.info("waiting_for_jobs", jobs=len(self._jobs), seconds=seconds)
            await self._first_of(self._all_ended(), self._hurry.wait(), timeout=seconds)
        for _, switch in self._jobs.values():
            switch.set(Stop.SHUTDOWN)
        await self._first_of(self._all_ended(), timeout=self.settings.jobs.grace + LAST_PATIENCE)
        for claim, _ in self._jobs.values():  # their queue doesn't answer; its lease tells of them
            log.error("job_left_unsettled", job=claim.id, queue=claim.queue)

    @property
    def _hands_over(self) -> bool:
        executor = self._tools.executor
        anybody = executor.detachable and executor.portable and self.queue.hands_over
        return anybody and self._how == "detach"

    async def _all_ended(self) -> None:
        while self._jobs:
            await asyncio.wait(list(self._jobs))

    @staticmethod
    async def _first_of(*waits: object, timeout: float | None = None) -> None:
        tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
        try:
            await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(*tasks)
