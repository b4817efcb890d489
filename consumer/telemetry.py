"""Our own log and metrics: set up once, by the command."""

from __future__ import annotations

import logging
import sys

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from consumer.model import Claim
from enqueue.record import Outcome


def set_up_logging(level: str, format: str) -> None:
    """One line an event on standard error, for people or as JSON."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the other one shows variables, and so secrets
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class Metrics:
    """Counters of what ended, served at /metrics when a port is set."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ended = Counter(
            "longshore_jobs_ended",
            "Attempts that ended, by their outcome.",
            ["queue", "status", "reason"],
            registry=self.registry,
        )
        self.slots = Gauge("longshore_slots_used", "Jobs that are being run.", registry=self.registry)
        self.leaving = Gauge(
            "longshore_jobs_leaving", "Jobs that have ended, and whose pods are being removed.", registry=self.registry
        )

    def observe(self, claim: Claim, outcome: Outcome) -> None:
        """Count an attempt's end."""
        self._ended.labels(claim.queue, outcome.status.value, outcome.reason or "").inc()

    def serve(self, port: int) -> int:
        """Listen on this port (0: a free one); returns it."""
        server, _ = start_http_server(port, registry=self.registry)
        return int(server.server_port)
