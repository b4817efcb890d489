"""Our own log: set up once, by the command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog

from consumer.logs.mask import Mask, masked_here

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "exception": 40, "critical": 50}
_least = 0


def set_level(level: str) -> None:
    """The least important events that are told from now on."""
    global _least
    _least = _LEVELS[level]
    logging.getLogger("consumer").setLevel(_least)


def _important(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if _LEVELS.get(method, 50) < _least:
        raise structlog.DropEvent
    return event


def set_up_logging(level: str, format: str, secrets: Iterable[str] = ()) -> None:
    """One line an event on standard error, for people or as JSON; without our own `secrets` and those of the job."""
    mask = Mask(secrets)
    set_level(level)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the other one shows variables, and so secrets
        )
    )
    events: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]

    def render(logger: Any, name: str, event: structlog.typing.EventDict) -> str:
        return masked(mask, renderer(logger, name, event))

    structlog.configure(
        processors=[
            _important,
            _reported,
            *events,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),  # the level may change: `_important`
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)  # of modules and libraries that use Python's own logging
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_reported_if_ours, *events],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.getLogger().handlers = [handler]


Report = Callable[[str, BaseException], None]
_reports: list[Report] = []


def report_bugs(report: Report | None) -> None:
    """Who else is told of an error of ours that is told in our log with its traceback; None: nobody."""
    _reports[:] = [] if report is None else [report]


def _reported(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    found = event.get("exc_info")
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if _LEVELS.get(method, 50) >= _LEVELS["error"] and isinstance(error, BaseException):
        for report in _reports:
            report(str(event.get("event", "")), error)
    return event


def _reported_if_ours(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return _reported(logger, method, event) if event["_record"].name.startswith("consumer") else event


def release() -> str:
    """Our version."""
    try:
        return version("longshore")
    except PackageNotFoundError:
        return "unknown"


def masked(mask: Mask, rendered: object) -> str:
    """A rendered event without secrets."""
    text = rendered.decode("utf-8", "replace") if isinstance(rendered, bytes) else str(rendered)
    return masked_here(mask.mask_text(text))
