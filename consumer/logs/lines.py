"""Raw chunks in, blocks of whole lines out: never an object per line."""

from __future__ import annotations

LONG_LINE = 1024 * 1024
"""A line longer than this (bytes) is passed on in pieces as it comes, so that it needs no memory."""


class Lines:
    """A Processor that cuts its input after the last newline and keeps the rest for the next chunk.

    A block ends with a newline, unless it is a piece of a line longer than `LONG_LINE` or the log's last line.
    """

    def __init__(self, long_line: int = LONG_LINE) -> None:
        self._limit = long_line
        self._parts: list[bytes] = []
        self._held = 0
        self._passing = False

    def feed(self, block: bytes) -> bytes:
        """The whole lines that are complete now; empty if there is none."""
        end = block.rfind(b"\n") + 1
        if not end:
            if self._passing:
                return block
            self._hold(block)
            return self._release() if self._held > self._limit else b""
        self._passing = False
        self._hold(block[:end])
        ready = self._take()
        self._hold(block[end:])
        return ready + self._release() if self._held > self._limit else ready

    def finish(self) -> bytes:
        """The last line, if it has no newline."""
        return self._take()

    @property
    def holds(self) -> bool:
        """The last line isn't complete."""
        return self._held > 0 or self._passing

    def _hold(self, part: bytes) -> None:
        if part:
            self._parts.append(part)
            self._held += len(part)

    def _take(self) -> bytes:
        held = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._held = [], 0
        return held

    def _release(self) -> bytes:
        self._passing = True
        return self._take()
