"""Which of the optional seams something has: asked for every job, where isinstance would be dear."""

from __future__ import annotations

from functools import cache
from typing import TypeGuard

from consumer.ports import (
    CollectingExecution,
    EditingProcessor,
    Execution,
    LinkedSink,
    Processor,
    Sink,
    StoringSink,
)


@cache
def _collects(kind: type) -> bool:
    return hasattr(kind, "outputs")


def is_collecting(execution: Execution) -> TypeGuard[CollectingExecution]:
    """It is a CollectingExecution."""
    return _collects(type(execution))


@cache
def _edits(kind: type) -> bool:
    return hasattr(kind, "edits")


def is_editing(processor: Processor) -> TypeGuard[EditingProcessor]:
    """It is an EditingProcessor."""
    return _edits(type(processor))


@cache
def _links(kind: type) -> bool:
    return hasattr(kind, "link") and hasattr(kind, "abandon")


def is_linked(sink: Sink) -> TypeGuard[LinkedSink]:
    """It is a LinkedSink; as quick as `is_storing`."""
    return _links(type(sink))


@cache
def _stores(kind: type) -> bool:
    return hasattr(kind, "position") and hasattr(kind, "missed")


def is_storing(sink: Sink | None) -> TypeGuard[StoringSink]:
    """It is a StoringSink; for every job, where isinstance with a protocol would be dear."""
    return sink is not None and _stores(type(sink))
