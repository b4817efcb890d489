"""Puts the consumer together. The only module that names implementations.

    queues.claim -> plan -> executor.start -+-> logs.pipeline -> sinks.record ----> Record
                    (pure)                  +-> wait -> outcome -> verdict -> record + settle -> executor.remove
                    Unrunnable / ExecutorFault ---------^          (pure)     (one script on RQ; Faktory: record first)

A restart starts in the middle: what a dead consumer held is claimed again as the same attempt, `executor.start` finds
what runs, and the flow goes on from there. No step may be needed twice, every step may be tried twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from consumer.errors import ExecutorFault
from consumer.executors import make_autoscaler, make_executor
from consumer.extras import Extras
from consumer.follow_up import FollowUps
from consumer.logs.follow import Desk, Follower
from consumer.model import Claim
from consumer.observing import Observing
from consumer.outputs import Collector
from consumer.own_secrets import own_secrets
from consumer.ports import (
    Executor,
    MeasuringQueue,
    Meter,
    Queue,
    Records,
    Reloading,
    ReplyingQueue,
    SweepingExecutor,
    TellingRecords,
)
from consumer.queues import open_queue
from consumer.reload import Live
from consumer.sentry import Sentry
from consumer.settings import DEFAULT_FILE, Settings
from consumer.sinks import SinkSet, Stores, output_target
from consumer.tasks import end
from consumer.telemetry import report_bugs, set_level
from consumer.unseal import Keys
from consumer.worker import Shutdown, Worker
from enqueue.errors import QueueUnavailable, UsageError
from enqueue.job import Job

if TYPE_CHECKING:
    from enqueue.aio import AsyncProducer

log = structlog.get_logger()
T = TypeVar("T")


async def run_consumer(
    settings: Settings,
    stop: asyncio.Event | None = None,
    read: Callable[[], Settings] | None = None,
    path: Path = DEFAULT_FILE,
) -> None:
    """Run jobs until SIGTERM or SIGINT (or `stop`). Raises SetupError, UsageError for what can't ever work.

    `read`: reads the settings anew, from `path` among others, after SIGHUP.
    """
    executor = make_executor(settings)
    observing = Observing(settings, executor)
    secrets = own_secrets(settings, os.environ)
    allow_open_files(512 + 8 * settings.concurrency)
    stopping = stop or asyncio.Event()
    worker: Worker | None = None
    quieted = asyncio.Event()

    def end_by(how: Shutdown | None = None) -> None:
        stopping.set()
        if worker is not None:
            worker.stop(how)

    def quiet() -> None:
        log.info("quiet", doing="claiming nothing more; TERM ends the consumer")
        quieted.set()
        if worker is not None:
            worker.quiet()

    def apply(new: Settings) -> None:
        if worker is None:
            raise UsageError("the consumer is still starting")
        for part in (executor, worker.queue):
            if isinstance(part, Reloading):
                part.reload(new)
        worker.reload(new)
        set_level(new.log_level)
        allow_open_files(512 + 8 * new.concurrency)

    live = Live(settings, read or (lambda: settings), apply, path)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, live.reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end_by)
    loop.add_signal_handler(signal.SIGTSTP, quiet)
    loop.add_signal_handler(signal.SIGUSR1, end_by, "finish")
    loop.add_signal_handler(signal.SIGQUIT, end_by, "detach")
    async with contextlib.AsyncExitStack() as opened_so_far:
        extras = _extras(settings, secrets, opened_so_far)
        await observing.open()
        opened_so_far.push_async_callback(observing.close)
        await _until(stopping, "executor", executor.open)
        opened_so_far.push_async_callback(executor.close)
        observing.waits_for("the queue")
        opened = await _until(stopping, "queue", lambda: open_queue(settings, portable=executor.portable))
        if opened is None:
            return
        queue, records = opened
        if isinstance(records, TellingRecords):
            records.trouble = lambda: executor.trouble
        desk = Desk(settings.logs.memory, secrets)
        worker = make_worker(queue, records, executor, settings, desk, observing.meter, extras)
        observing.begun(worker, queue, desk)
        log.info(
            "consumer_started",
            name=settings.name,
            queues=list(settings.queues),
            executor=executor.name,
            concurrency=settings.concurrency,
        )
        if quieted.is_set():
            worker.quiet()
        if stopping.is_set():
            worker.stop()
        helpers = [asyncio.create_task(_stop_when(stopping, worker))]
        if isinstance(executor, SweepingExecutor):
            helpers.append(asyncio.create_task(executor.sweep(records), name="sweeper"))
        if settings.reload_interval:
            helpers.append(asyncio.create_task(live.watch(settings.reload_interval), name="settings"))
        if settings.audit.interval:
            from consumer.auditing import Auditor  # only whoever audits pays

            auditor = Auditor(settings)
            observing.also(auditor.measures)
            helpers.append(asyncio.create_task(auditor.run(), name="auditor"))
        try:
            if settings.scaling.deployment is not None and isinstance(queue, MeasuringQueue):
                scaler = make_autoscaler(settings, queue, lambda: worker.settings.concurrency, lambda: worker.busy)
                await scaler.open()
                observing.also(scaler.measures)
                helpers.append(asyncio.create_task(scaler.run(), name="autoscaler"))
            await worker.run()
        finally:
            await end(*helpers)
            await queue.close()
    log.info("consumer_stopped", name=settings.name)


def _extras(settings: Settings, secrets: Collection[str], leaving: contextlib.AsyncExitStack) -> Extras:
    """Keys of sealed variables, the queue for what jobs enqueue, a store for outputs, Sentry. Raises SetupError."""
    keys = Keys(settings.jobs.seal_keys)
    keys.load()
    producer: AsyncProducer | None = None

    async def put(job: Job, queue: str, key: str) -> str:
        nonlocal producer
        if producer is None:
            from enqueue import aio  # most jobs enqueue nothing

            producer = aio.connect(settings.queue_url, records=settings.records_url)
            leaving.push_async_callback(producer.close)
        return (await producer.enqueue(job, queue=queue, key=key)).id

    extras = Extras(unseal=keys.open, follow_up=lambda follower, patience: follower.enqueue(put, patience))
    if (target := output_target(settings)) is not None:
        extras = replace(extras, collect=Collector(settings.outputs, target).collect)
    dsn = settings.sentry.dsn.get_secret_value() if settings.sentry.dsn else os.environ.get("SENTRY_DSN")
    if not dsn:
        return extras
    sentry = Sentry(dsn, settings.sentry, settings.name, secrets)
    report_bugs(sentry.bug)
    leaving.push_async_callback(asyncio.to_thread, sentry.close)
    leaving.callback(report_bugs, None)
    return replace(extras, failed=sentry.failed)


def make_worker(
    queue: Queue,
    records: Records,
    executor: Executor,
    settings: Settings,
    desk: Desk,
    meter: Meter | None = None,
    extras: Extras | None = None,
) -> Worker:
    """A worker whose logs go where the settings and its jobs say."""
    replying = queue if isinstance(queue, ReplyingQueue) else None  # asked once: that is dear

    sinks = SinkSet(Stores(lambda: worker.settings, records, replying))

    def follower(claim: Claim) -> Follower:
        jobs = worker.settings.jobs
        return Follower(
            claim, sinks, worker.settings.logs, desk, FollowUps(jobs.enqueue_to, jobs.enqueue_max, claim.queue)
        )

    worker = Worker(queue, records, executor, settings, follower, meter, desk.watched, extras)
    sinks.prepare()
    return worker


def allow_open_files(wanted: int) -> None:
    """Each job needs a few (pipe, process, directory): raise our soft limit as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("few_open_files", allowed=allowed, wanted=wanted, fix="ulimit -n, or a lower concurrency")


async def _stop_when(stopping: asyncio.Event, worker: Worker) -> None:
    await stopping.wait()
    if not worker.stopped:
        worker.stop()


async def _until(stopping: asyncio.Event, what: str, attempt: Callable[[], Awaitable[T]]) -> T | None:
    """Try until the server is there; None if we were told to stop meanwhile."""
    delay, told = 0.2, False
    while not stopping.is_set():
        try:
            return await attempt()
        except (QueueUnavailable, ExecutorFault) as error:
            if not told:
                log.warning(f"{what}_unavailable", error=str(error), doing="waiting for it")
                told = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await stopping.wait()
        delay = min(5.0, delay * 2)
    return None
