"""Which of the optional seams something has: asked for every job, where isinstance would be dear."""

from __future__ import annotations

from functools import cache
from typing import TypeGuard

from consumer.ports import (
    CollectingExecution,
    EditingProcessor,
    Execution,
    LastingExecution,
    LaterExecution,
    LinkedSink,
    Processor,
    ReplyingSink,
    Sink,
    StoringSink,
)


@cache
def _has(kind: type, *names: str) -> bool:
    return all(hasattr(kind, name) for name in names)


def is_collecting(execution: Execution) -> TypeGuard[CollectingExecution]:
    """It is a CollectingExecution."""
    return _has(type(execution), "outputs")


def is_begun_later(execution: Execution) -> TypeGuard[LaterExecution]:
    """It is a LaterExecution."""
    return _has(type(execution), "log_begins")


def is_lasting(execution: Execution) -> TypeGuard[LastingExecution]:
    """It is a LastingExecution."""
    return _has(type(execution), "log_lasts")


def is_editing(processor: Processor) -> TypeGuard[EditingProcessor]:
    """It is an EditingProcessor."""
    return _has(type(processor), "edits")


def is_linked(sink: Sink) -> TypeGuard[LinkedSink]:
    """It is a LinkedSink; as quick as `is_storing`."""
    return _has(type(sink), "link", "abandon")


def is_replying(sink: Sink) -> TypeGuard[ReplyingSink]:
    """It is a ReplyingSink."""
    return _has(type(sink), "unsent")


def is_storing(sink: Sink | None) -> TypeGuard[StoringSink]:
    """It is a StoringSink; for every job, where isinstance with a protocol would be dear."""
    return sink is not None and _has(type(sink), "position", "missed")
