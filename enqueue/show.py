"""Records and Outcomes for people's eyes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from enqueue.record import Attempt, Outcome, Output, Progress, Record, Status
from enqueue.terminal import shown

COLOURS = {
    Status.QUEUED: "cyan",
    Status.STARTING: "blue",
    Status.RUNNING: "blue",
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "yellow",
}


def print_record(record: Record) -> None:
    """All that is known of a job, a line each."""
    rows: list[tuple[str, object]] = [
        ("id", record.id),
        ("queue", record.queue),
        ("status", Text(record.status.value, style=COLOURS[record.status])),
        ("attempt", record.attempt or None),
        ("progress", _progress(record.progress)),
        ("tags", " ".join(record.tags)),
        ("parent", record.parent),
        ("enqueued", " ".join(record.children)),
        *_outcome_rows(record),
    ]
    rows += [(name, value) for name, value in record.times.model_dump(exclude_none=True).items()]
    rows += [(name, value) for name, value in record.where.model_dump(exclude_none=True).items()]
    if record.log.lines:
        lines = "1 line" if record.log.lines == 1 else f"{record.log.lines} lines"
        rows.append(("log", f"{lines}, {record.log.bytes} bytes, {record.log.complete}"))
    rows += [(f"log in {link.sink}", _place(link.url, link.problem)) for link in record.log.links]
    rows += [(f"output {_plain(output.name)}", _plain(_place(output.url, output.problem))) for output in record.outputs]
    for earlier in record.attempts[:-1] if record.status.final else record.attempts:
        rows.append((f"attempt {earlier.attempt}", _attempt(earlier)))
    _print(rows)


def _place(url: str | None, problem: str | None) -> str:
    return ": ".join(part for part in (url, problem) if part) or "written"


def print_outputs(outputs: Sequence[Output]) -> None:
    """The files that a job left, a line each."""
    table = Table(box=None, pad_edge=False)
    for name in ("name", "bytes", "where"):
        table.add_column(name, header_style="dim", overflow="fold")
    for output in outputs:
        size = "" if output.size is None else f"{output.size:,}"
        table.add_row(Text(_plain(output.name)), size, Text(_plain(_place(output.url, output.problem))))
    Console(highlight=False).print(table)


def _plain(text: str) -> str:
    """A job chooses the names of its files: nothing in them may steer a terminal."""
    return shown(text.encode("utf-8", "replace"), colours=False).decode("utf-8", "replace")


def _progress(progress: Progress | None) -> str | None:
    return None if progress is None else f"{progress.percent:g} % {progress.message or ''}".rstrip()


def _attempt(attempt: Attempt) -> str:
    """A former attempt: how it ended, when and where, and what to do about it."""
    end = ": ".join(part for part in (attempt.status.value, attempt.reason, attempt.message) if part)
    code = None if attempt.exit_code is None else f"exit code {attempt.exit_code}"
    times, where = attempt.times, attempt.where
    since = f"{times.started or 'not started'} to {times.ended}"
    known = {"pod": where.pod, "container": where.container, "node": where.node}
    place = [f"{what} {name}" for what, name in known.items() if name]
    about = ", ".join(part for part in (code, since, *place) if part)
    return "\n".join(part for part in (end, about, attempt.hint) if part)


class Bar:
    """A bar on standard error from a job's first word of its progress on; gone when the wait is over."""

    def __init__(self, console: Console | None = None) -> None:
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        self._bar = Bars(*columns, console=console or Console(stderr=True), transient=True)
        self._task: TaskID | None = None

    def show(self, record: Record) -> None:
        """Take over what the Record says."""
        if record.progress is None:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=100)
        text = escape(record.progress.message or "")
        self._bar.update(self._task, completed=record.progress.percent, description=text)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()


def print_list(records: list[Record]) -> None:
    """Jobs, a line each."""
    table = Table(box=None, pad_edge=False)
    for name in ("id", "queue", "status", "reason", "progress", "queued", "tags"):
        table.add_column(name, header_style="dim", overflow="fold")
    for record in records:
        progress = "" if record.progress is None or record.status.final else f"{record.progress.percent:g} %"
        queued = (record.times.queued or "").partition(".")[0]
        status = Text(record.status.value, style=COLOURS[record.status])
        table.add_row(record.id, record.queue, status, record.reason, progress, queued, " ".join(record.tags))
    Console(highlight=False).print(table)


def print_outcome(outcome: Outcome, console: Console | None = None) -> None:
    """An Outcome, a line each."""
    rows: list[tuple[str, object]] = [
        ("status", Text(outcome.status.value, style=COLOURS[outcome.status])),
        *_outcome_rows(outcome),
    ]
    _print(rows, console)


def _outcome_rows(source: Record | Outcome) -> list[tuple[str, object]]:
    return [
        ("reason", source.reason),
        ("message", source.message),
        ("hint", source.hint),
        ("exit code", source.exit_code),
        *((f"variable {name}", value) for name, value in source.variables.items()),
        *((notice.level, notice.text) for notice in source.notices),
        ("result", None if source.result is None else json.dumps(source.result, ensure_ascii=False)),
    ]


def _print(rows: list[tuple[str, object]], console: Console | None = None) -> None:
    """Names and values in two columns; long values aren't wrapped, so that other programs can read them."""
    console = console or Console(highlight=False)
    rows = [(name, value) for name, value in rows if value not in (None, "")]
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        text = value if isinstance(value, Text) else Text(str(value).replace("\n", "\n" + " " * width))
        console.print(Text.assemble((name.ljust(width), "dim"), text), soft_wrap=True)
