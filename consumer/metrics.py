"""What Prometheus is told: what jobs did as they did it, and how things stand when somebody asks.

Imported only if metrics are on. Labels are bounded: queues that are configured, closed words, HTTP codes. No job's id,
no producer's text. docs/metrics.md says what each series is for.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from consumer.model import Backlog, Claim, Measure, Settlement
from enqueue.record import HINTS
from enqueue.times import epoch

log = structlog.get_logger()

WAITS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
STARTS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 900)
RUNS = (0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 900, 1200, 3600, 14400, 86400)
"""Upper bounds of the histograms' buckets, in seconds."""
REASONS = frozenset(map(str, HINTS)) | {""}
_GAPS = """cap spool_full store_unavailable not_stored rotated pod_deleted unreadable not_read_to_its_end output_dropped
source_error processor_error"""
GAPS = frozenset(_GAPS.split())
OTHER = "other"
BACKLOG_SECONDS, BACKLOG_PATIENCE = 10.0, 3.0
"""How old an answer about the queues may be, and for how long a scrape waits for a new one."""
LAG_SECONDS, LAGS = 1.0, 60
"""The event loop is looked at so often; the worst of so many looks is told."""

MEASURES: dict[str, tuple[Any, str, *tuple[str, ...]]] = {
    "slots": (GaugeMetricFamily, "Jobs that this consumer may run at a time."),
    "slots_used": (GaugeMetricFamily, "Jobs that are being run."),
    "jobs_leaving": (GaugeMetricFamily, "Jobs that have ended, and whose pods are being removed."),
    "ready": (GaugeMetricFamily, "1 if /readyz says so."),
    "queue_up": (GaugeMetricFamily, "1 if the queue's server answered last."),
    "executor_up": (GaugeMetricFamily, "1 if the executor can start jobs."),
    "heartbeat_age_seconds": (GaugeMetricFamily, "Since the queue last took our heartbeat."),
    "event_loop_lag_seconds": (GaugeMetricFamily, "The longest that the event loop was held up in the last minute."),
    "log_lines": (CounterMetricFamily, "Lines of jobs' logs that were processed."),
    "log_bytes": (CounterMetricFamily, "Bytes of jobs' logs that were processed."),
    "log_waiting_bytes": (GaugeMetricFamily, "Bytes of logs that were read and not yet processed."),
    "log_lag_seconds": (GaugeMetricFamily, "For how long the log that waits the longest has waited."),
    "api_requests": (
        CounterMetricFamily,
        "Requests to the Kubernetes API, by HTTP code (0: no answer).",
        "verb",
        "resource",
        "code",
    ),
    "api_request_seconds": (
        CounterMetricFamily,
        "Seconds that these requests took, until the answer (or its head).",
        "verb",
        "resource",
    ),
    "api_retries": (CounterMetricFamily, "Requests to the Kubernetes API that were made again.", "verb", "resource"),
    "api_throttled_seconds": (CounterMetricFamily, "Seconds that requests waited for our own rate limit."),
    "watch_up": (GaugeMetricFamily, "1 while a watch of the pods is open."),
    "watch_age_seconds": (GaugeMetricFamily, "Since the watch last brought something (bookmarks come every minute)."),
    "watch_lists": (CounterMetricFamily, "Complete lists of the pods."),
    "watches": (CounterMetricFamily, "Watches of the pods that were opened."),
    "pods": (GaugeMetricFamily, "Pods of jobs that the watch knows, those of other consumers included."),
    "swept_pods": (CounterMetricFamily, "Pods that were left behind and that the sweeper deleted."),
    "leader": (GaugeMetricFamily, "1 for the consumer that holds the Lease.", "lease"),
    "replicas_wanted": (GaugeMetricFamily, "Replicas that the autoscaler wants (its leader only)."),
    "replicas": (GaugeMetricFamily, "Replicas that the Deployment asks for, as the autoscaler found them."),
    "audit_faults": (GaugeMetricFamily, "What the last audit found.", "kind", "sort"),
    "audit_partial": (GaugeMetricFamily, "1 if there was too much for the last audit to look at it all."),
    "audit_time_seconds": (GaugeMetricFamily, "When the last audit ended, in seconds since the epoch."),
    "queue_jobs": (GaugeMetricFamily, "Jobs that wait in the queue now.", "queue"),
    "queue_oldest_seconds": (GaugeMetricFamily, "Age of the job that has waited the longest.", "queue"),
    "queue_running": (GaugeMetricFamily, "Jobs of the queue that are claimed, by whichever consumer.", "queue"),
}
"""What is asked for when Prometheus asks, without `longshore_`: all that may stand there, with its labels."""


class Metrics:
    """The port `Meter`, and all else that /metrics shows."""

    def __init__(self, queues: Sequence[str], info: Mapping[str, str]) -> None:
        self.registry = CollectorRegistry()
        self._queues = frozenset(queues)
        self._phase: dict[str, tuple[str, str]] = {}
        self._sources: list[Callable[[], Iterable[Measure]]] = []
        self._backlog: Callable[[], Any] | None = None
        self._asked, self._found = -BACKLOG_SECONDS, dict[str, Backlog]()
        self._asking: asyncio.Task[None] | None = None
        self._lags: deque[float] = deque(maxlen=LAGS)
        self._children: dict[tuple[int, str], Histogram] = {}
        build = Info("longshore_build", "What runs here; always 1.", registry=self.registry)
        build.info({**info, "python": platform.python_version()})
        self._claims = self._counter("claims", "Jobs that this consumer claimed.", "queue")
        self._takeovers = self._counter("takeovers", "Claims of another consumer, or of a former life.", "queue")
        self._ended = self._counter("jobs_ended", "Attempts that ended, by their outcome.", "queue", "status", "reason")
        self._moves = self._counter("phase_transitions", "Jobs that went from phase to phase.", "queue", "from", "to")
        self._retries = self._counter("retries", "Attempts after which the job is queued again.", "queue", "fault")
        self._gaps = self._counter("log_gaps", "Gaps in logs of jobs that have ended.", "queue", "reason")
        self._jobs = Gauge("longshore_jobs", "Jobs held here, by phase.", ["queue", "phase"], registry=self.registry)
        self._wait = self._histogram("queue_wait", "From enqueued to claimed, of first attempts.", WAITS)
        self._start = self._histogram("start_latency", "From claimed to started, of what wasn't taken over.", STARTS)
        self._run = self._histogram("run", "From started to ended.", RUNS)
        self._whole = self._histogram("job", "From enqueued to the final end, all attempts included.", RUNS)
        ProcessCollector(registry=self.registry)
        self.registry.register(_Standing(self._measures))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"longshore_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"longshore_{name}_seconds", text, ["queue"], buckets=buckets, registry=self.registry)

    def _observe(self, histogram: Histogram, queue: str, seconds: float) -> None:
        child = self._children.get((id(histogram), queue))
        if child is None:
            child = self._children[id(histogram), queue] = histogram.labels(queue)
        child.observe(max(0.0, seconds))  # a node's clock, or a producer's, may be ahead of ours

    def _named(self, queue: str) -> str:
        return queue if queue in self._queues else OTHER

    # --- what jobs do

    def claimed(self, claim: Claim) -> None:
        """A claim begins here."""
        queue, before = self._named(claim.queue), claim.history
        again = before is not None and before.attempt == claim.attempt and before.status in ("starting", "running")
        phase = before.status.value if before is not None and again else "starting"
        self._phase[claim.token] = (queue, phase)
        self._jobs.labels(queue, phase).inc()
        self._claims.labels(queue).inc()
        if again:
            self._takeovers.labels(queue).inc()
            return
        self._moves.labels(queue, "queued", "starting").inc()
        if claim.attempt == 1 and claim.queued_at is not None:
            self._observe(self._wait, queue, (claim.claimed_at or time.time()) - claim.queued_at)

    def started(self, claim: Claim) -> None:
        """It runs."""
        queue, phase = self._phase.get(claim.token, ("", ""))
        if phase != "starting":
            return
        self._phase[claim.token] = (queue, "running")
        self._jobs.labels(queue, "starting").dec()
        self._jobs.labels(queue, "running").inc()
        self._moves.labels(queue, "starting", "running").inc()

    def settled(self, settlement: Settlement) -> None:
        """Its end is recorded, and the queue has been told."""
        claim, record, outcome = settlement.claim, settlement.record, settlement.outcome
        tries = [attempt.times for attempt in record.attempts] or [record.times]
        began, ended = epoch(tries[-1].started), epoch(tries[-1].ended)
        if began is not None:
            self.started(claim)  # one that was too short to be seen running
        queue, phase = self._phase.get(claim.token, (self._named(claim.queue), "starting"))
        reason = outcome.reason or ""
        self._ended.labels(queue, outcome.status.value, reason if reason in REASONS else OTHER).inc()
        self._moves.labels(queue, phase, record.status.value).inc()
        history = claim.history
        if began is not None:
            if history is None or history.attempt != claim.attempt:
                self._observe(self._start, queue, began - claim.claimed_at)
            if ended is not None:
                self._observe(self._run, queue, ended - began)
        if not record.status.final:
            self._retries.labels(queue, "infrastructure" if settlement.infrastructure else "job").inc()
        elif (queued := epoch(tries[0].queued)) is not None:
            self._observe(self._whole, queue, (ended or time.time()) - queued)
        for gap in record.log.gaps:
            said = str(gap.get("reason"))
            self._gaps.labels(queue, said if said in GAPS else OTHER).inc()

    def over(self, claim: Claim) -> None:
        """It is no longer held here."""
        if (held := self._phase.pop(claim.token, None)) is not None:
            self._jobs.labels(*held).dec()

    # --- how things stand

    def ask(self, source: Callable[[], Iterable[Measure]]) -> None:
        """Ask this one too, each time that Prometheus asks. Its names are those of MEASURES."""
        self._sources.append(source)

    def ask_queue(self, backlog: Callable[[], Any]) -> None:
        """Where to ask what waits in the queues; not oftener than every ten seconds."""
        self._backlog = backlog

    async def text(self, accept: str = "") -> tuple[bytes, str]:
        """The page, and its content type, in the form that `accept` (a header) asks for."""
        if self._backlog is not None and time.monotonic() - self._asked >= BACKLOG_SECONDS:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(self._backlog))
            await asyncio.wait({self._asking}, timeout=BACKLOG_PATIENCE)
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind

    async def _ask(self, backlog: Callable[[], Any]) -> None:
        try:
            async with asyncio.timeout(BACKLOG_SECONDS):
                self._found = dict(await backlog())
        except Exception as error:  # what isn't known isn't shown: an old figure would look like a new one
            self._found = {}
            log.debug("backlog_unknown", error=f"{type(error).__name__}: {error}")
        self._asked = time.monotonic()

    async def look_at_loop(self) -> None:
        """Measures how late the event loop is, until cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_SECONDS)
            self._lags.append(max(0.0, time.monotonic() - before - LAG_SECONDS))

    def _measures(self) -> Iterator[Measure]:
        yield Measure("event_loop_lag_seconds", max(self._lags, default=0.0))
        for queue, backlog in self._found.items():
            label = (("queue", queue),)
            yield Measure("queue_jobs", backlog.waiting, label)
            if backlog.running is not None:
                yield Measure("queue_running", backlog.running, label)
            if backlog.oldest is not None:
                yield Measure("queue_oldest_seconds", backlog.oldest, label)
        for source in self._sources:
            yield from source()


class _Standing(Collector):
    """Makes series of Measures."""

    def __init__(self, measures: Callable[[], Iterable[Measure]]) -> None:
        self._measures = measures

    def describe(self) -> Iterable[Any]:
        return [kind(f"longshore_{name}", text, labels=labels) for name, (kind, text, *labels) in MEASURES.items()]

    def collect(self) -> Iterable[Any]:
        families: dict[str, Any] = {}
        totals: Tally[tuple[str, tuple[tuple[str, str], ...]]] = Tally()
        for name, value, labels in self._measures():
            totals[name, labels] += value  # type: ignore[assignment]
        for (name, labels), value in totals.items():
            kind, text, *names = MEASURES[name]
            family = families.get(name)
            if family is None:
                family = families[name] = kind(f"longshore_{name}", text, labels=names)
            said = dict(labels)
            family.add_metric([said[label] for label in names], value)
        return families.values()
