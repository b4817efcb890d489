"""A log's entries, as they lie in its stream, read and verified; pure. The format is told in docs/payload.md."""

from __future__ import annotations

import codecs
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, pairwise
from typing import Any, Literal

from enqueue.record import Log, Record
from enqueue.wire.marks import unpacked
from enqueue.wire.records import EMPTY_DIGEST, digest_after

_MARKS = {
    "rotated": "the node has rotated it away before it could be read",
    "pod_deleted": "the pod was deleted before it could be read",
    "not_read_to_its_end": "what follows wasn't read in time",
}
"""A gap of unknown size, in its place in the log."""

_WHY = {
    "unread": "the job wrote more than could be read; its container runtime has lost the rest",
    "cap": "the log outgrew the operator's logs.max_bytes; its middle was dropped",
    "spool_full": "the store was away or too slow for longer than the consumer's memory lasts",
    "store_unavailable": "the store was away",
    "not_stored": "the store was still away when the job had ended",
    "rotated": "the node has rotated the log; nobody knows how much was lost",
    "pod_deleted": "the pod was gone before its log was read to its end",
    "unreadable": "the node couldn't give the end of the log",
    "not_read_to_its_end": "the end of the log didn't come in time",
    "output_dropped": "the job wrote more than process.output_bytes before anybody read it",
}
_UNSTORED = ("not_stored", "store_unavailable")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A part of a log. `notes`: remarks on what is missing before it; `cut`: the former entry ended within a line."""

    attempt: int
    data: bytes
    line: int
    """Number of its first line, from 1 in each attempt, missing lines included."""
    at: float | None = None
    """When it was stored, seconds since the epoch: at most about a second after it was written."""
    notes: tuple[str, ...] = ()
    cut: bool = False
    marks: tuple[tuple[int, float], ...] = ()
    """When its lines were written, if their source told: lines before, seconds since the epoch by the job's node."""
    step: str = "main"

    def since(self, moment: float) -> LogEntry | None:
        """What of it was written since then; stored since then, if nobody knows when it was written."""
        if not self.marks:
            return self if self.at is None or self.at >= moment else None
        first = next((line for line, at in self.marks if at >= moment), None)
        return None if first is None else self.less(first)

    def less(self, lines: int) -> LogEntry:
        """The same without so many lines at its beginning."""
        if not lines:
            return self
        at = 0
        for _ in range(lines):
            at = self.data.find(b"\n", at) + 1
        gone = [mark for mark in self.marks if mark[0] <= lines][-1:]
        marks = [(0, at) for _, at in gone] + [(line - lines, at) for line, at in self.marks if line > lines]
        return replace(self, data=self.data[at:], line=self.line + lines, notes=(), cut=False, marks=tuple(marks))

    def times(self) -> Iterator[float | None]:
        """Of each line: when it was written, or stored if nobody knows; without an end."""
        now, done = self.at, 0
        for (_, at), (after, _) in pairwise([*self.marks, (0, 0.0)]):
            now = at
            while done < after:
                yield now
                done += 1
        while True:
            yield now


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line without its newline, or in its place a `note` of ours on what is missing there."""

    attempt: int
    number: int
    data: bytes
    at: float | None = None
    """When it was written, by the clock of the job's node, or when it was stored, if its source tells no times."""
    note: str = ""
    step: str = "main"
    """Which step of the job wrote it."""

    @property
    def text(self) -> str:
        """The line as text; bytes that are no UTF-8 are replaced."""
        return self.note or self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class LogCheck:
    """How whole a log is. Sentences for people; `missing` is what the consumer has recorded as missing."""

    complete: str | None
    """`complete`, `no_gap_seen` or `gap`; None while the job goes on."""
    missing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    """What the store doesn't give back as it was put in."""


class _Attempt:
    """What is known of one attempt's log while its entries are read."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = self.lines = self.bytes = 0
        self.digest: bytes | None = EMPTY_DIGEST
        self.open = self.ended = False
        self.unsized = 0
        self._lost_lines = self._lost_bytes = 0
        self._cuts: dict[int, bytes | None] = {}  # lines before a jump of the ids -> the digest there
        self.problems: list[str] = []

    def read(self, sequence: int, fields: dict[bytes, bytes]) -> LogEntry:
        data = fields.get(b"d", b"")
        count = data.count(b"\n")
        lines, size = int(fields.get(b"l", self.lines + count)), int(fields.get(b"b", self.bytes + len(data)))
        missing = max(lines - count - self.lines, 0)
        self._lost_lines += missing
        self._lost_bytes += max(size - len(data) - self.bytes, 0)
        gaps = _gaps_in(fields)
        unsized = [gap for gap in gaps if "lines" not in gap]
        notes = [f"[longshore: {missing} lines dropped here]"] if missing else []
        notes += [_mark(str(gap.get("reason"))) for gap in unsized[self.unsized :]]
        self._verify(sequence, fields)
        step, marks = fields.get(b"s", b"main").decode("utf-8", "replace"), unpacked(fields.get(b"m"))
        number = lines - count + 1
        entry = LogEntry(self.number, data, number, _moment(fields), tuple(notes), self.open, marks, step)
        self.sequence, self.lines, self.bytes = sequence, lines, size
        self.unsized = max(len(unsized), self.unsized)
        self.open = not data.endswith(b"\n") if data else self.open and not notes
        if b"end" in fields:
            self._end(gaps)
        return entry

    def _verify(self, sequence: int, fields: dict[bytes, bytes]) -> None:
        before = fields.get(b"h")
        if sequence != self.sequence + 1:
            self._cuts[self.lines] = self.digest
        elif before is not None and self.digest is not None and before != self.digest:
            self.problems.append(f"entry {self.number}-{self.sequence} isn't what was stored")
        self.digest = digest_after(before, fields[b"d"]) if before is not None and b"d" in fields else before

    def _end(self, gaps: list[dict[str, Any]]) -> None:
        self.ended = True
        lines = self._lost_lines - sum(gap.get("lines", 0) for gap in gaps)
        size = self._lost_bytes - sum(gap.get("bytes", 0) for gap in gaps)
        if lines > 0 or size > 0:
            self.problems.append(f"{lines} lines ({size} bytes) that were stored are gone from the store")
        for gap in gaps:
            here = self._cuts.get(gap.get("after_line", -1))
            if here is not None and "digest" in gap and here.hex() != gap["digest"]:
                self.problems.append(f"entry before line {gap['after_line']} isn't what was stored")

    def against(self, log: Log) -> list[str]:
        """What doesn't fit the Record's word on this log."""
        unstored = any(gap.get("reason") in _UNSTORED for gap in log.gaps)
        if not self.ended:
            return [] if unstored or not log.entries else ["its end isn't in the store (any more)"]
        differs = self.digest is not None and log.digest is not None and self.digest.hex() != log.digest
        return ["its digest isn't that of the Record"] if differs and not self.problems else []


class LogReader:
    """Entries of a log's stream, one after the other; in the end, how whole they were."""

    def __init__(self) -> None:
        self._attempts: dict[int, _Attempt] = {}

    def read(self, entry: bytes, fields: dict[bytes, bytes]) -> LogEntry:
        """One entry: its id in the stream, and its fields."""
        attempt, _, sequence = entry.partition(b"-")
        number = int(attempt)
        known = self._attempts.setdefault(number, _Attempt(number))
        return known.read(int(sequence), fields)

    def check(self, record: Record) -> LogCheck:
        """How whole the log is by all that was read and the job's Record."""
        logs = {attempt.attempt: attempt.log for attempt in record.attempts if attempt.log is not None}
        if record.status.final:
            logs[record.attempt] = record.log
        missing: list[str] = []
        damaged: list[str] = []
        for number, log in sorted(logs.items()):
            name = f"attempt {number}: " if len(logs) > 1 else ""
            missing += [name + sentence for sentence in map(_sentence, log.gaps)]
            read = self._attempts.get(number)
            if read is not None:
                damaged += [name + problem for problem in (*read.problems, *read.against(log))]
            elif log.entries:
                damaged.append(f"{name}the log isn't in the store (any more)")
        for number, read in self._attempts.items():
            if number not in logs:
                damaged += read.problems
        complete = record.log.complete if record.status.final else None
        return LogCheck("gap" if damaged and complete else complete, tuple(missing), tuple(damaged))


class LogView:
    """What whoever reads a log wants of it, and in which form.

    `since`: seconds since the epoch, a moment, or how long ago. `tail`: of what is there at first, the last so many
    lines. `checked` is called once, at the end.
    """

    def __init__(
        self,
        form: Literal["bytes", "text", "lines"] = "bytes",
        *,
        since: float | datetime | timedelta | None = None,
        tail: int | None = None,
        checked: Callable[[LogCheck], None] | None = None,
    ) -> None:
        self.checked = checked
        self._form = form
        self._since = _seconds_of(since)
        self._tail = tail
        self._backlog: deque[LogEntry] | None = None if tail is None else deque()
        self._size = 0  # lines in it
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest: LogEntry | None = None  # a line that goes on

    @property
    def waiting(self) -> bool:
        """Nothing is shown before all that is there was read."""
        return self._backlog is not None

    def feed(self, entry: LogEntry) -> Iterable[Any]:
        """What is to be shown of one more entry."""
        if self._since is not None:
            if (later := entry.since(self._since)) is None:
                return ()
            entry = later
        if self._backlog is None:
            return self._shown(entry)
        self._backlog.append(entry)
        self._size += entry.data.count(b"\n")
        while self._backlog and self._size - self._backlog[0].data.count(b"\n") > (self._tail or 0):
            self._size -= self._backlog.popleft().data.count(b"\n")
        return ()

    def caught_up(self) -> Iterable[Any]:
        """All that was there at first has been read."""
        entries, self._backlog = self._backlog, None
        if not entries:
            return []
        if not self._tail:
            return []
        open_line = bool(entries[-1].data) and not entries[-1].data.endswith(b"\n")
        beyond = max(self._size + open_line - self._tail, 0)
        while entries and entries[0].data.count(b"\n") < beyond:
            beyond -= entries.popleft().data.count(b"\n")
        if entries:
            entries[0] = entries[0].less(beyond)
        return [item for entry in entries for item in self._shown(entry)]

    def finish(self) -> Iterable[Any]:
        """What was held back."""
        if self._form == "text" and (text := self._decoder.decode(b"", final=True)):
            return [text]
        rest = self._rest
        return self._lines(b"\n", rest, rest) if self._form == "lines" and rest is not None else ()

    def _shown(self, entry: LogEntry) -> list[Any]:
        if self._form == "lines":
            return self._lines_of(entry)
        notes = "".join(f"{note}\n" for note in entry.notes)
        raw = ("\n" * bool(notes and entry.cut) + notes).encode() + entry.data
        if self._form == "bytes":
            return [raw] if raw else []
        text = self._decoder.decode(raw)
        return [text] if text else []

    def _lines_of(self, entry: LogEntry) -> list[LogLine]:
        shown: list[LogLine] = []
        if entry.notes:
            shown += self.finish()
            shown += [LogLine(entry.attempt, entry.line, b"", entry.at, note) for note in entry.notes]
        if not entry.data:
            return shown
        before = self._rest
        if before is not None and (before.attempt, before.step) != (entry.attempt, entry.step):
            shown += self.finish()
            before = None
        return shown + self._lines(entry.data, before or replace(entry, data=b""), entry)

    def _lines(self, data: bytes, before: LogEntry, entry: LogEntry) -> list[LogLine]:
        *whole, rest = (before.data + data).split(b"\n")
        times, number, step = entry.times(), before.line, before.step
        first = next(times)  # of a line that goes on, its beginning's counts
        moments = chain([next(before.times()) if before.data else first], times)
        shown = [LogLine(before.attempt, number + n, line, next(moments), step=step) for n, line in enumerate(whole)]
        at = next(moments)
        self._rest = replace(before, data=rest, line=number + len(whole), notes=(), at=at, marks=()) if rest else None
        return shown


def _seconds_of(since: float | datetime | timedelta | None) -> float | None:
    """Seconds since the epoch; a timedelta is a time ago."""
    if isinstance(since, timedelta):
        return time.time() - since.total_seconds()
    return since.timestamp() if isinstance(since, datetime) else since


def _mark(reason: str) -> str:
    return f"[longshore: a part of the log may be missing here: {_MARKS.get(reason, reason)}]"


def _sentence(gap: dict[str, Any]) -> str:
    """A gap of the Record's, for people."""
    reason = str(gap.get("reason"))
    why = _WHY.get(reason, gap.get("message") or "an error of the consumer's")
    size = f"{gap.get('lines', 0)} lines ({gap.get('bytes', 0)} bytes)" if "lines" in gap else "an unknown part"
    where = "" if reason == "unread" else f" after line {gap.get('after_line', 0)}"
    return f"{size} missing{where}: {why} ({reason})"


def _moment(fields: dict[bytes, bytes]) -> float | None:
    return int(fields[b"t"]) / 1000 if b"t" in fields else None


def _gaps_in(fields: dict[bytes, bytes]) -> list[dict[str, Any]]:
    try:
        gaps = json.loads(fields.get(b"g", b"[]"))
    except ValueError:
        return []
    return [gap for gap in gaps if isinstance(gap, dict)] if isinstance(gaps, list) else []
