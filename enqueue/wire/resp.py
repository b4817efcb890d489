"""Replies of a Faktory server, read from bytes in any portions: the subset of RESP that it speaks.

Source: the FWP specification in the docs of contribsys/faktory. No I/O here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from enqueue.errors import ProtocolError

_HEAD = 65_536
_LONGEST_LINE = 65_536


@dataclass(frozen=True, slots=True)
class Failed:
    """The server's `-ERR text`."""

    text: str


@dataclass(frozen=True, slots=True)
class Oversize:
    """A bulk reply larger than the limit: its size in bytes and how it began; the rest was thrown away."""

    size: int
    head: bytes


Reply = str | bytes | None | Failed | Oversize
"""A simple string (or number), a bulk, a nil, an error, or a bulk that was too large."""


class Replies:
    """Reads replies from bytes in any portions.

    `limit`: the largest bulk in bytes that is kept; of a larger one only the beginning is.
    """

    def __init__(self, limit: int = 64 * 1024 * 1024) -> None:
        self._limit = limit
        self._data = bytearray()
        self._skip = 0
        self._oversize: Oversize | None = None

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete now. Raises ProtocolError; the connection is of no use afterwards."""
        self._data += data
        found: list[Reply] = []
        while self._data:
            if self._oversize is not None and not self._skipped():
                break
            if self._oversize is not None:
                found.append(self._oversize)
                self._oversize = None
                continue
            end = self._data.find(b"\r\n", 0, _LONGEST_LINE)
            if end < 0:
                if len(self._data) >= _LONGEST_LINE:
                    raise ProtocolError("Faktory: a reply's first line doesn't end; is this a Faktory server?")
                break
            kind, line = self._data[:1], bytes(self._data[1:end])
            if kind == b"$":
                size = _number(line)
                if size >= 0:
                    start, stop = end + 2, end + 2 + size
                    if size > self._limit:
                        head = min(_HEAD, size)
                        if len(self._data) - start < head:
                            break
                        self._oversize = Oversize(size, bytes(self._data[start : start + head]))
                        self._skip = size + 2
                        del self._data[:start]
                        continue
                    if len(self._data) < stop + 2:
                        break
                    if self._data[stop : stop + 2] != b"\r\n":
                        raise ProtocolError("Faktory: a reply is longer than it said")
                    found.append(bytes(self._data[start:stop]))
                    del self._data[: stop + 2]
                    continue
                found.append(None)
            elif kind == b"+":
                found.append(line.decode("utf-8", "replace"))
            elif kind == b":":
                found.append(str(_number(line)))
            elif kind == b"-":
                found.append(Failed(line.decode("utf-8", "replace").removeprefix("ERR ")))
            else:
                raise ProtocolError("Faktory: this reply is not of its protocol; is this a Faktory server?")
            del self._data[: end + 2]
        return found

    def _skipped(self) -> bool:
        dropped = min(self._skip, len(self._data))
        del self._data[:dropped]
        self._skip -= dropped
        return self._skip == 0


def _number(line: bytes) -> int:
    if not re.fullmatch(rb"-?[0-9]{1,18}", line):
        raise ProtocolError("Faktory: a reply's length is no number")
    return int(line)
