"""How far a container's log was read, and what of a new connection is new: pure, and exact over any cuts.

Every line comes with the kubelet's timestamp in nanoseconds, but `sinceTime` counts whole seconds, and neither clocks
nor the order of two streams are to be trusted: a resumed log begins with lines that were already read, and only their
number tells how many. A connection since second T begins with as many old lines as were read from T on, in the same
order. If the first of them doesn't come again, the node has rotated the log; then only timestamps are left to go by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from consumer.executors.kubernetes.stamped import Clock, Text, marks_in
from consumer.model import Gap, LogPart, Marks, Place, Times

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_STAMP_LENGTH = 36
_NOT_THE_PODS = re.compile(
    rb"unable to retrieve container logs|rpc error: |failed to (?:watch|create fsnotify|try res)"
)
LONG_LINE = 64 * 1024
"""A line that grows longer than this is handed on before its end."""

ROTATED = Gap("rotated", message="the node has rotated the log: lines may be missing")


JUMP_SECONDS = 5
"""Kubelets look every 10 s at what is to be rotated: whoever lags may be led past a whole file, without a word."""


@dataclass(frozen=True, slots=True)
class Jump:
    """The next line came so much later than the one before it: a silence, or a file that was passed over."""

    second: int
    """Of the line before."""


@dataclass(slots=True)
class _Second:
    """The lines of one second: the first one's timestamp, and how many were read."""

    first: bytes
    lines: int = 0


_Parts = list[Text | Gap | Place | Jump]


class Position:
    """Where we are in one container's log, over all its connections; `step` names the container in its places.

    `after`: a place that a former reader reached. What precedes it is handed on again, then the place itself.
    """

    def __init__(self, step: str = "main", after: str = "") -> None:
        self._step, self._after = step, after
        self._first, self._total = b"", 0  # the log's first timestamp, and the lines read since
        self._stamp, self._run = b"", 0  # the last line's timestamp, and how many lines in a row had it
        self._part_stamp, self._part = b"", 0  # an unfinished line's timestamp, and the bytes of it that were handed on
        self._recent: dict[int, _Second] = {}  # the last two, in the order of their first lines
        self._clock = Clock()
        self._now = _Second(b"")  # the last line's
        self._jump: Jump | None = None
        self._latest = b""  # the last line's second, as written
        self._patterns = b"", re.compile(b""), re.compile(b"")  # of the beginnings of lines of that second
        self._floor = -1  # up to this second, it isn't known which lines were read
        self._floor_at = b""  # the last second, as written, that raised it
        self._stepped = False
        self._last_second = 0
        if after:
            total, first, stamp, run = after.split(" ")[1:]
            self._first, self._total, self._stamp, self._run = first.encode(), int(total), stamp.encode(), int(run)
            self._floor = self.second
        self._shown = 0  # lines that were handed on again
        self.begin()

    @property
    def since(self) -> str | None:
        """The `sinceTime` of the next connection; None: from the beginning."""
        second = max(self._recent, default=0) - 1
        if self._stepped or second <= self._floor:
            return None
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def second(self) -> int:
        """The last line's time in whole seconds since the epoch; 0: there was none."""
        return _moment(self._stamp)[0]

    @property
    def place(self) -> Place | None:
        """Where we are, if that is between two lines and all before is read."""
        if self._part or self._left or self._after or not self._stamp:
            return None
        words = (self._first.decode(), self._stamp.decode())
        return Place(f"{self._step} {self._total} {words[0]} {words[1]} {self._run}")

    @property
    def within_a_line(self) -> bool:
        """The last line lacks its newline."""
        return bool(self._rest or self._part)

    @property
    def behind(self) -> bool:
        """This connection hasn't brought again what was read before: there may be more that it hasn't brought."""
        return bool(self._left)

    @property
    def refused(self) -> bool:
        """The kubelet had words of its own instead of a log."""
        return self._refused or _NOT_THE_PODS.match(self._rest) is not None

    def distrust(self) -> None:
        """The node's clock was set back: only the whole log will do."""
        self._stepped = True

    def begin(self) -> None:
        """A new connection, from `since` on: what was read before will come again."""
        self._rest = b""
        self._open: bytes | None = None  # the timestamp of a long line that goes on
        self._open_old = False
        self._skip = 0  # bytes of an unfinished line that come again
        self._seen = 0
        self._by_time = False
        self._whole = self.since is None
        if self._whole:
            self._left, self._anchor = self._total, self._first
        else:
            self._left = sum(second.lines for second in self._recent.values())
            self._anchor = next(iter(self._recent.values())).first
        self._refused = False

    def feed(self, chunk: bytes) -> list[LogPart | Jump]:
        """What is new in a chunk: bytes without timestamps, Times before them."""
        data = self._rest + chunk if self._rest else chunk
        at, end, slow = 0, data.rfind(b"\n") + 1, 0
        self._rest = data[end:]
        parts: _Parts = []
        while at < end:
            short = self._open is None and not self._left and not self._part
            if short and at >= slow and self._latest and data.startswith(self._latest, at):
                last = max(data.rfind(b"\n" + self._latest, at, end), at - 1) + 1
                stop = data.find(b"\n", last) + 1
                if self._run_of(data[at:stop], last - at, parts):
                    at = stop
                    continue
                slow = stop
            stop = data.find(b"\n", at) + 1
            line, at = data[at : stop - 1], stop
            if short:
                stamp, text = _split(line)
                if stamp:
                    self._count(stamp)
                    if self._jump is not None:
                        parts.append(self._jump)
                        self._jump = None
                    _add(parts, text + b"\n", 1, self._mark(stamp))
                    continue
            self._piece(line, parts, ends=True)
        if self._rest and (self._open is not None or len(self._rest) > LONG_LINE):
            self._piece(self._rest, parts, ends=False)
            self._rest = b""
        return _handed(parts, self._step)

    def _run_of(self, block: bytes, last: int, parts: _Parts) -> bool:
        """Adds the text of whole lines that are all of the last line's second, as most are; False if they aren't.

        `last`: where the last of them begins. What `_count` does for a line is done for all at once.
        """
        if self._patterns[0] != self._latest:
            second = b"\n" + re.escape(self._latest)
            usual, any_other = rb"\.\d{9}Z ", rb"[.0-9]{0,10}(?:Z|[+-]\d\d:\d\d) "
            self._patterns = self._latest, re.compile(second + usual), re.compile(second + any_other)
        lines, marks = marks_in(block, self._clock)
        for pattern in self._patterns[1:]:
            texts = pattern.split(b"\n" + block)
            if len(texts) == lines + 1:
                break
        else:
            return False
        stamp, _ = _split(block[last : last + _STAMP_LENGTH + 1])
        run, at = 0, last
        while block.startswith(stamp + b" ", at):
            run += 1
            if not at:
                run += self._run if stamp == self._stamp else 0
                break
            at = block.rfind(b"\n", 0, at - 1) + 1
        self._total += lines
        self._now.lines += lines
        self._stamp, self._run = stamp, run
        _add(parts, b"\n".join(texts[1:]), lines, marks)
        return True

    def _mark(self, stamp: bytes | None) -> Marks:
        moment = self._clock(stamp) if stamp else None
        return () if moment is None else ((0, moment),)

    def finish(self) -> list[LogPart | Jump]:
        """The connection has ended with the log: its last line may lack the newline."""
        parts: _Parts = []
        if self._rest:
            self._piece(self._rest, parts, ends=False)
            self._rest = b""
        return _handed(parts, self._step)

    def _piece(self, data: bytes, parts: _Parts, *, ends: bool) -> None:
        """A line, or a part of a long one."""
        text, begins = data, self._open is None
        if self._open is None:
            self._open, text = _split(data)
            if not self._open and _NOT_THE_PODS.match(data):
                self._open, self._refused = None, True
                return
            self._open_old = bool(self._open and self._left) and self._old(self._open, parts)
            if self._open and not self._open_old and self._part:
                self._continue(parts)
        if not self._open_old:
            marks = self._mark(self._open) if begins and not self._part else ()
            cut = min(self._skip, len(text))
            self._skip -= cut
            _add(parts, text[cut:] + b"\n" if ends else text[cut:], int(ends), marks)
            if ends:
                self._part_stamp, self._part = b"", 0
                self._count(self._open)
                self._jump = None
            elif self._open:
                self._part_stamp, self._part = self._open, self._part + len(text) - cut
        elif self._after and self._seen > self._shown:
            _add(parts, text + b"\n" if ends else text, int(ends))
        if ends:
            if self._open_old:
                self._shown = max(self._shown, self._seen)
                if not self._left:
                    self._arrive(parts)
            self._open = None

    def _continue(self, parts: _Parts) -> None:
        """A new line, but one was unfinished: is it this one?"""
        if self._open == self._part_stamp:
            self._skip = self._part
        else:
            parts.append(ROTATED)
            self._part_stamp, self._part = b"", 0

    def _old(self, stamp: bytes, parts: _Parts) -> bool:
        """A line with this timestamp was read over an earlier connection."""
        self._seen += 1
        if self._after and stamp[:19] != self._floor_at:
            self._floor_at = stamp[:19]
            self._floor = max(self._floor, _moment(stamp)[0])
        if self._by_time:
            return self._old_by_time(stamp, parts)
        if self._seen > 1 and self._anchor == b"":
            self._left -= 1
            return True
        if stamp == self._anchor:
            self._anchor = b""
            self._left -= 1
            return True
        if self._seen == 1 and not self._whole and _moment(stamp) < _moment(self._anchor):
            return True  # the end of a long line that began in an earlier second
        self._by_time, self._left = True, self._run
        self._anchor = stamp if self._whole else b"-"  # of what is left of the log
        return self._old_by_time(stamp, parts)

    def _old_by_time(self, stamp: bytes, parts: _Parts) -> bool:
        now, last = _moment(stamp), _moment(self._stamp)
        old = now <= last
        if not old:
            self._left = 0
            self._part_stamp, self._part = b"", 0
            self._after = ""
            parts.append(ROTATED)
        elif now == last:
            self._left -= 1
        if not self._left:
            self._first, self._total = self._anchor, self._seen - (not old)
        return old

    def _arrive(self, parts: _Parts) -> None:
        """All that was read before has come again."""
        if self._after:
            parts.append(Place(self._after))
            self._after = ""

    def _count(self, stamp: bytes) -> None:
        if not stamp:
            return
        self._total += 1
        self._first = self._first or stamp
        if stamp == self._stamp:
            self._run += 1
        else:
            self._stamp, self._run = stamp, 1
        if stamp[:19] == self._latest:
            self._now.lines += 1
            return
        self._latest = stamp[:19]
        second = _moment(stamp)[0]
        if self._last_second and second - self._last_second >= JUMP_SECONDS:
            self._jump = Jump(self._last_second)
        self._last_second = second
        newest = max(self._recent, default=second)
        if second > newest:
            self._recent = {known: lines for known, lines in self._recent.items() if known >= second - 1}
        elif second < newest - 1:
            self._stepped = True
        self._now = self._recent.setdefault(second, _Second(stamp))
        self._now.lines += 1


def _add(parts: _Parts, data: bytes, lines: int, marks: Marks = ()) -> None:
    last = parts[-1] if parts else None
    if not isinstance(last, Text):
        parts.append(last := Text())
    last.add(data, lines, marks)


def _handed(parts: _Parts, step: str) -> list[LogPart | Jump]:
    """The same with one piece of bytes between gaps and places, and their times before it."""
    whole: list[LogPart | Jump] = []
    for part in parts:
        if not isinstance(part, Text):
            whole.append(part)
        elif data := part.data[0] if len(part.data) == 1 else b"".join(part.data):
            if part.marks:
                whole.append(Times(tuple(part.marks), part.lines, step))
            whole.append(data)
    return whole


def _split(line: bytes) -> tuple[bytes, bytes]:
    """Timestamp and text; an empty timestamp: there is none."""
    space = line.find(b" ", 0, _STAMP_LENGTH)
    if space < 20 or line[10:11] != b"T" or line[4:5] != b"-":
        return b"", line
    return line[:space], line[space + 1 :]


def _moment(stamp: bytes) -> tuple[int, int]:
    """Seconds since the epoch, nanoseconds."""
    match = _STAMP.match(stamp)
    if match is None:
        return (0, 0)
    whole = datetime.fromisoformat((match[1] + match[3].replace(b"Z", b"+00:00")).decode())
    return int(whole.timestamp()), int((match[2] or b"0").ljust(9, b"0"))
