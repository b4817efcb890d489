"""What can be seen of a consumer from outside: its metrics and probes, on one port; nothing of it if none is set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from consumer.health import Health
from consumer.logs.follow import Desk
from consumer.model import Claim, Measure, Settlement
from consumer.monitor import Monitor, verdict
from consumer.ports import Executor, MeasuredExecutor, MeasuringQueue, Meter, Queue, TracedQueue
from consumer.settings import Settings
from consumer.tasks import end
from consumer.telemetry import release
from consumer.worker import Worker
from enqueue.backends import RQ_SCHEMES

if TYPE_CHECKING:
    from consumer.metrics import Metrics
    from consumer.tracing import Tracing

log = structlog.get_logger()


class Both:
    """Two Meters."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = meters

    def claimed(self, claim: Claim) -> None:
        """Tell both."""
        for meter in self._meters:
            meter.claimed(claim)

    def started(self, claim: Claim) -> None:
        """Tell both."""
        for meter in self._meters:
            meter.started(claim)

    def settled(self, settlement: Settlement) -> None:
        """Tell both."""
        for meter in self._meters:
            meter.settled(settlement)

    def over(self, claim: Claim) -> None:
        """Tell both."""
        for meter in self._meters:
            meter.over(claim)


class Observing:
    """Serves as soon as `open` was called: a consumer that waits for its queue says so."""

    def __init__(self, settings: Settings, executor: Executor) -> None:
        self._settings, self._executor = settings, executor
        self._health = Health(executor)
        self._monitor: Monitor | None = None
        self._metrics: Metrics | None = None
        self._looking: asyncio.Task[None] | None = None
        self._tracing: Tracing | None = None

    async def open(self) -> None:
        """Listen where the settings say. Raises SetupError."""
        kind = self._settings.queue_url.partition(":")[0]
        queue = "rq" if kind in RQ_SCHEMES else "faktory"
        if self._settings.tracing:
            from consumer.tracing import Tracing

            self._tracing = Tracing(self._settings.name, queue)
        if self._settings.metrics_port is None:
            return
        from consumer.metrics import Metrics  # only whoever measures pays

        info = {"version": release(), "executor": self._executor.name, "queue": queue}
        self._metrics = Metrics(self._settings.order.names, info)
        self._monitor = Monitor({"/metrics": self._page, "/healthz": self._live, "/readyz": self._ready})
        port = await self._monitor.listen(self._settings.metrics_address, self._settings.metrics_port)
        self._looking = asyncio.create_task(self._metrics.look_at_loop())
        log.info("metrics", port=port)

    @property
    def meter(self) -> Meter | None:
        """To be told what becomes of jobs; None: nobody measures."""
        if self._metrics is None or self._tracing is None:
            return self._metrics or self._tracing
        return Both(self._metrics, self._tracing)

    def waits_for(self, what: str) -> None:
        """It can't begin before this is there."""
        self._health.waiting_for = what

    def begun(self, worker: Worker, queue: Queue, desk: Desk) -> None:
        """It works from now on."""
        self._health.worker = worker
        if self._tracing is not None and isinstance(queue, TracedQueue):
            self._tracing.carried = queue.carried
        if self._metrics is None:
            return
        if isinstance(queue, MeasuringQueue):
            self._health.ask_queue = queue.backlog
            self._metrics.ask_queue(queue.backlog)
        self._metrics.ask(lambda: self._measures(worker))
        self._metrics.ask(desk.measures)
        if isinstance(self._executor, MeasuredExecutor):
            self._metrics.ask(self._executor.measures)

    def also(self, measures: Callable[[], Iterable[Measure]]) -> None:
        """Show these too."""
        if self._metrics is not None:
            self._metrics.ask(measures)

    async def close(self) -> None:
        """Answer no more."""
        if self._looking is not None:
            await end(self._looking)
        if self._monitor is not None:
            await self._monitor.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    def _measures(self, worker: Worker) -> Iterable[Measure]:
        health = self._health
        yield Measure("slots", worker.settings.concurrency)
        yield Measure("slots_used", worker.busy)
        yield Measure("jobs_leaving", worker.leaving)
        yield Measure("ready", not health.unready())
        yield Measure("queue_up", health.queue_up)
        yield Measure("executor_up", self._executor.trouble is None)
        yield Measure("heartbeat_age_seconds", health.silence)

    async def _page(self, accept: str) -> tuple[HTTPStatus, bytes, str]:
        assert self._metrics is not None
        return (HTTPStatus.OK, *await self._metrics.text(accept))

    async def _live(self, accept: str) -> tuple[HTTPStatus, bytes, str]:
        return verdict(await self._health.dead(), "alive")

    async def _ready(self, accept: str) -> tuple[HTTPStatus, bytes, str]:
        return verdict(self._health.unready(), "ready")
