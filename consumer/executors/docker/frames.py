"""An engine's log: frames with timestamps, and how far they were read. Pure, and exact over any cuts.

Source of the format: https://docs.docker.com/reference/api/engine/ (ContainerAttach, "Stream format"). Each frame is a
line, or a piece of a long one, and begins with its timestamp. Frames are counted: a log that is read again begins with
those that were read before, unless the engine has rotated it, which the first timestamp tells. Timestamps may be whole
seconds (Podman), so they alone can't tell what is new.
"""

from __future__ import annotations

from datetime import datetime

from consumer.model import Gap, LogPart, Place, Times
from consumer.newlines import newlines

ROTATED = Gap("rotated", message="the engine has rotated the log: lines may be missing")
_STAMP_LENGTH = 48
MARKS, SPARSE = 8, 8192
"""Of what comes together, the first lines each have a mark of their time; then one in so many bytes."""


class Frames:
    """Where we are in one container's log, over all its connections; `step` names the container in its places.

    `after`: a place that a former reader reached. What precedes it is handed on again, then the place itself.
    """

    def __init__(self, step: str, after: str = "") -> None:
        self._step, self._after = step, after
        self._total, self._first, self._last = 0, b"", b""
        self._aim, self._aimed_first, self._aimed_last = 0, b"", b""
        if after:
            total, first, last = after.split(" ")[1:]
            self._aim, self._aimed_first, self._aimed_last = int(total), first.encode(), last.encode()
        self._text = _Text()
        self._newest = self._held = b""
        self.begin()

    def begin(self, *, hold: bool = False) -> None:
        """A new connection: the log comes from its beginning. `hold`: keep back the last frame until `finish`."""
        self._rest = b""
        self._hold = hold
        self._seen = 0
        self._skip, self._rotated, self._begins = self._total, False, b""

    @property
    def place(self) -> Place | None:
        """Where we are, if that is between two lines and all that was read before has come again."""
        if not self._total or not self._text.ends_line or self._aim or self._seen < self._skip:
            return None
        return Place(f"{self._step} {self._total} {self._first.decode()} {self._last.decode()}")

    def ends_with(self, tail: bytes) -> bool:
        """The log's last frames, asked for once more, end with the one that was read last."""
        return tail.endswith(self._newest) if self._newest else not tail

    def feed(self, chunk: bytes) -> list[LogPart]:
        """What is new in a chunk, and the place where it ends."""
        data = self._rest + chunk if self._rest else chunk
        at, size, due = 0, len(data), 0
        newest: tuple[int, int] | None = None
        parts: list[LogPart] = []
        mark, add = self._text.mark, self._text.data.append
        while size - at >= 8:
            begin = at + 8
            end = begin + int.from_bytes(data[at + 4 : begin], "big")
            if end > size or (end == size and self._hold):
                break
            space = data.find(b" ", begin, min(end, begin + _STAMP_LENGTH))
            stamp = data[begin:space] if space >= 0 else b""
            at, newest = end, (begin - 8, end)
            self._seen += 1
            if (self._seen <= self._skip or self._rotated) and self._old(stamp, parts):
                continue
            self._total += 1
            self._first = self._first or stamp
            self._last = stamp
            if self._aim:
                self._approach(stamp, data[max(space + 1, begin) : end], parts)
                continue
            if end >= due:
                due = end + mark(stamp)
            add(data[space + 1 if space >= 0 else begin : end])
        if newest is not None:
            self._newest = data[newest[0] : newest[1]]
        self._rest = data[at:]
        self._text.hand(parts, self._step)
        if parts and (place := self.place) is not None and parts[-1] != place:
            parts.append(place)
        return parts

    def finish(self) -> list[LogPart]:
        """The connection has brought all that there is now. A frame that was kept back counts when it comes twice."""
        same, self._held = self._rest == self._held, self._rest
        self._hold = False
        return self.feed(b"") if same else []

    def _old(self, stamp: bytes, parts: list[LogPart]) -> bool:
        """It was handed on over a former connection."""
        if self._seen == 1 and stamp != self._first:
            self._rotated, self._begins = True, stamp
        if not self._rotated:
            return True
        if stamp <= self._last:
            return True
        self._text.hand(parts, self._step)
        parts.append(ROTATED)
        self._rotated, self._skip = False, 0
        self._total, self._first = self._seen - 1, self._begins
        return False

    def _approach(self, stamp: bytes, data: bytes, parts: list[LogPart]) -> None:
        """Nearer to the place that the former reader reached; what it had read has its times already."""
        if self._total == 1 and stamp != self._aimed_first:
            self._aim = -1  # rotated meanwhile: by time alone
        if self._aim < 0 and stamp > self._aimed_last:
            self._text.hand(parts, self._step)
            parts.append(ROTATED)
            self._aim = 0
        if not self._aim:
            self._text.mark(stamp)
        self._text.data.append(data)
        if self._aim == self._total:
            self._text.hand(parts, self._step)
            parts.append(Place(self._after))
            self._aim = 0


class _Text:
    """Text of frames that follow each other, `data`, with the times of some of its lines."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.ends_line = True
        """Of what was handed on."""
        self._marks: list[tuple[int, int]] = []
        self._counted = self._lines = 0  # frames, and the newlines in them

    def mark(self, stamp: bytes) -> int:
        """The time of the frame that comes next, if it begins a line. Bytes of frames that may pass unmarked then."""
        if self.data[-1].endswith(b"\n") if self.data else self.ends_line:
            self._count()
            moment = _moment(stamp)
            if moment is not None and not (self._marks and self._marks[-1][1] == moment):
                self._marks.append((self._lines, moment))
        return 0 if self._counted < MARKS else SPARSE

    def hand(self, parts: list[LogPart], step: str) -> None:
        """Hand it on: its times, then all of it."""
        if data := b"".join(self.data):
            if self._marks:
                self._count()
                parts.append(Times(tuple(self._marks), self._lines, step))
            parts.append(data)
            self.ends_line = data.endswith(b"\n")
        self.data.clear()
        self._marks, self._counted, self._lines = [], 0, 0

    def _count(self) -> None:
        self._lines += newlines(b"".join(self.data[self._counted :]))
        self._counted = len(self.data)


def _moment(stamp: bytes) -> int | None:
    """Milliseconds since the epoch; None: it is no time."""
    try:
        moment = datetime.fromisoformat(stamp.decode())
    except ValueError:
        return None
    return None if moment.tzinfo is None else int(moment.timestamp()) * 1000 + moment.microsecond // 1000
