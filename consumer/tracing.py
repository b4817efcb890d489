"""Spans of each attempt, for OpenTelemetry: from the producer's own span through queue, start and run to its end.

    process <queue>  from claim to settled; its parent is the span that the job carries
      queue          before it, from the enqueueing until the first claim
      start, run, settle

They are made when the attempt has been settled, from the times in its Record: so a job that several consumers had one
after the other has one set of spans, and a consumer that dies leaves none half made. Where they go is said by
OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from consumer.errors import SetupError
from consumer.model import Claim, Settlement
from enqueue.record import Attempt, Status
from enqueue.times import epoch

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

FLUSH_SECONDS = 3.0
"""For so long the last spans are sent when the consumer stops."""
_TEXT = 1000


class Tracing:
    """A Meter that makes spans. `exporter`: OTLP over HTTP if none is given. Raises SetupError if a package is missing.

    `carried`: what a claim carries of its trace, to be set before the first job.
    """

    def __init__(self, consumer: str, system: str, exporter: SpanExporter | None = None) -> None:
        try:
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter()
        except ModuleNotFoundError as error:
            raise SetupError(f"tracing: needs {error.name}: pip install 'longshore[tracing]'") from None
        resource = Resource.create({"service.instance.id": consumer})
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "longshore"}))
        self.provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self.provider.get_tracer("longshore")
        self._read = TraceContextTextMapPropagator().extract
        self._system = system
        self.carried: Callable[[Claim], Mapping[str, str]] = lambda claim: {}

    def claimed(self, claim: Claim) -> None:
        """Its times are in the Record."""

    def started(self, claim: Claim) -> None:
        """Its times are in the Record."""

    def over(self, claim: Claim) -> None:
        """Whoever settles it makes its spans."""

    def settled(self, settlement: Settlement) -> None:
        """Make the spans of this attempt. What they say of the outcome is masked, as in the Record."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        claim, record, outcome, now = settlement.claim, settlement.record, settlement.outcome, time.time()
        ended = (a for a in record.attempts if a.attempt == claim.attempt)
        attempt = next(
            ended, Attempt(attempt=claim.attempt, status=outcome.status, times=record.times, where=record.where)
        )
        claimed = epoch(attempt.times.claimed) or claim.claimed_at or now
        parent = self._read(dict(self.carried(claim)))
        said = _attributes(claim, self._system) | _ended(settlement, attempt)
        name = f"process {claim.queue}"
        root = self._tracer.start_span(name, parent, SpanKind.CONSUMER, said, start_time=_ns(claimed))
        inside, moment = set_span_in_context(root, parent), claimed
        if claim.queued_at is not None and claim.attempt == 1 and claim.queued_at < claimed:
            self._span("queue", claim.queued_at, claimed, inside)
        steps = {"start": attempt.times.started, "run": attempt.times.ended if attempt.times.started else None}
        for step, until in steps.items():
            if (end := epoch(until)) is not None:
                end = min(max(end, moment), now)  # a node's clock may be wrong
                self._span(step, moment, end, inside)
                moment = end
        self._span("settle", moment, now, inside)
        if outcome.status is Status.FAILED:
            root.set_status(StatusCode.ERROR, (outcome.message or "")[:_TEXT])
        root.end(_ns(now))

    def _span(self, name: str, start: float, end: float, parent: Any) -> None:
        self._tracer.start_span(name, parent, start_time=_ns(start)).end(_ns(end))

    def close(self) -> None:
        """Send what is left, within a few seconds."""
        ending = threading.Thread(target=self.provider.shutdown, daemon=True)
        ending.start()
        ending.join(FLUSH_SECONDS)


def _attributes(claim: Claim, system: str) -> dict[str, Any]:
    return {
        "messaging.system": system,
        "messaging.operation.type": "process",
        "messaging.destination.name": claim.queue,
        "messaging.message.id": claim.id,
        "longshore.attempt": claim.attempt,
    }


def _ended(settlement: Settlement, attempt: Attempt) -> dict[str, Any]:
    outcome, where = settlement.outcome, attempt.where
    found = {
        "longshore.status": outcome.status.value,
        "longshore.verdict": settlement.verdict.value,
        "error.type": outcome.reason if outcome.status is Status.FAILED else None,
        "process.exit.code": outcome.exit_code,
        "k8s.namespace.name": where.namespace,
        "k8s.pod.name": where.pod,
        "host.name" if where.pod is None else "k8s.node.name": where.node,
    }
    return {name: value for name, value in found.items() if value is not None}


def _ns(moment: float) -> int:
    return int(moment * 1e9)
