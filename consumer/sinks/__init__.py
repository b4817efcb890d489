"""Where logs go, by name: each a Sink. To add one: a file here, a line in this table, a parameter in its tests."""

from __future__ import annotations

from collections.abc import Callable

from consumer.ports import Sink


def _record() -> Callable[..., Sink]:
    from consumer.sinks.record import RecordSink

    return RecordSink


def _console() -> Callable[..., Sink]:
    from consumer.sinks.console import ConsoleSink

    return ConsoleSink


SINKS: dict[str, Callable[[], Callable[..., Sink]]] = {"record": _record, "console": _console}
"""Name -> a function that imports the sink and returns its class."""
