"""Spans of an attempt, and the way of the trace from the producer through the queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import rq
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rq.serializers import JSONSerializer

from consumer.model import Claim, Exit, LogPosition, Settlement, Verdict
from consumer.queues.faktory_open import FaktoryWithRecords
from consumer.queues.rq import RqQueue
from consumer.recording import log_of, record_claimed, record_ended, record_running
from consumer.settings import Retention
from consumer.tracing import Tracing
from enqueue import Job, connect
from enqueue.record import Outcome, Status, Where
from enqueue.wire.faktory import build_job
from enqueue.wire.trace import carried
from support.rq_jobs import FAILURE, SUCCESS

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
JOB = Job(image="x", commands=["true"])
WHERE = Where(executor="kubernetes", namespace="jobs", pod="p", node="n")


@pytest.fixture
def spans() -> Iterator[tuple[Tracing, Any]]:
    exporter = InMemorySpanExporter()
    tracing = Tracing("me", "rq", exporter)

    def made() -> list[ReadableSpan]:
        tracing.provider.force_flush()
        return list(exporter.get_finished_spans())

    yield tracing, made
    tracing.close()


def settlement(outcome: Outcome, *, attempt: int = 1) -> Settlement:
    now = time.time()
    claim = Claim("j", "q", attempt, "t", JOB, queued_at=now - 10, claimed_at=now - 8)
    record = record_running(record_claimed(claim, "me", "kubernetes", ""), WHERE, now - 5)
    exit = Exit(started=True, started_at=now - 5, ended_at=now - 1)
    record = record_ended(record, outcome, Verdict.DONE, WHERE, exit, log_of("", LogPosition()), now)
    return Settlement(claim, Verdict.DONE, outcome, record)


def seconds(span: ReadableSpan) -> int:
    return round(((span.end_time or 0) - (span.start_time or 0)) / 1e9)


def test_an_attempt_is_a_tree_below_the_producers_span(spans: Any) -> None:
    tracing, made = spans
    tracing.carried = lambda claim: {"traceparent": PARENT}
    tracing.settled(settlement(SUCCESS))
    by_name = {span.name: span for span in made()}
    assert {name: seconds(span) for name, span in by_name.items()} == {
        "queue": 2, "process q": 8, "start": 3, "run": 4, "settle": 1
    }  # fmt: skip
    root = by_name["process q"]
    assert f"{root.context.trace_id:032x}" in PARENT
    assert f"{root.parent.span_id:016x}" == PARENT[36:52]
    assert {by_name[name].parent.span_id for name in by_name if name != root.name} == {root.context.span_id}
    assert root.kind is trace.SpanKind.CONSUMER
    assert root.attributes is not None
    assert root.attributes["messaging.message.id"] == "j"
    assert (root.attributes["k8s.pod.name"], root.attributes["process.exit.code"]) == ("p", 0)
    assert root.resource.attributes["service.name"] == "longshore"


def test_a_failure_is_an_error_and_a_trace_of_its_own_without_a_parent(spans: Any) -> None:
    tracing, made = spans
    tracing.settled(settlement(FAILURE, attempt=2))
    root = next(span for span in made() if span.name == "process q")
    assert root.parent is None
    assert root.status.status_code is trace.StatusCode.ERROR
    assert root.status.description == "exited with code 3"
    assert (root.attributes["error.type"], root.attributes["longshore.attempt"]) == ("exit_code", 2)
    assert "queue" not in [span.name for span in made()]


@pytest.mark.parametrize(
    "values", [None, {}, {"traceparent": 7}, {"traceparent": "x"}, {"traceparent": PARENT.replace("b7", "zz")},
               {"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"}, {"traceparent": PARENT + "x" * 300}]
)  # fmt: skip
def test_what_is_no_trace_context_is_as_if_it_were_not_there(values: Any) -> None:
    assert carried(values) == {}


async def test_the_producers_span_goes_with_the_job(redis_url: str, redis_client: redis.Redis) -> None:
    queue = RqQueue(redis_url, ("q",), consumer="c", max_bytes=10_000, retention=Retention(), patience=0.1)
    await queue.open()
    try:
        with connect(redis_url, queue="q") as producer:
            with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("order") as span:
                producer.enqueue(JOB)
                pushed = build_job(JOB, "q")
            producer.enqueue(JOB)
        rq.Queue("q", connection=redis_client, serializer=JSONSerializer).enqueue(
            "longshore.job", JOB.payload(), meta={"traceparent": PARENT, "mine": 1}
        )
        claims = await queue.claim(3)
        traces = [queue.carried(claim).get("traceparent", "") for claim in claims]
        assert traces[0][3:35] == f"{span.get_span_context().trace_id:032x}"
        assert traces[1:] == ["", PARENT]
        assert pushed["custom"]["traceparent"] == traces[0]
        fetched = Claim("j", "q", 1, "t", JOB, native=pushed)
        assert FaktoryWithRecords.carried(None, fetched) == {"traceparent": traces[0]}  # type: ignore[arg-type]
        await queue.records.write(claims[2], record_claimed(claims[2], "c", "null", ""))
        assert queue.carried(claims[2]) == {"traceparent": PARENT}, "our own words in meta leave it there"
    finally:
        await queue.close()


def test_the_status_of_a_cancelled_job_is_no_error(spans: Any) -> None:
    tracing, made = spans
    tracing.settled(settlement(Outcome(status=Status.CANCELLED, reason="requested")))
    root = next(span for span in made() if span.name == "process q")
    assert root.status.status_code is trace.StatusCode.UNSET
