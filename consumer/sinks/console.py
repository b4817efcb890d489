"""Logs on our standard output: raw for `longshore test`, in lines that say whose they are for a consumer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import BinaryIO, Literal

from consumer.model import Claim, Place
from consumer.sinks.hand import Hand
from consumer.storing import Away

LONGEST = 64 * 1024
"""Bytes of an unfinished line that are held back; a longer one is written in parts."""


class ConsoleSink:
    """A Sink that writes raw bytes to a binary stream and flushes it after each block."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    async def write(self, block: bytes, place: Place | None = None) -> None:
        """Raises OSError if the stream is gone."""
        self._stream.write(block)
        self._stream.flush()

    async def finish(self) -> None:
        """The stream stays open: it isn't ours."""


class ConsoleTarget:
    """One attempt's log, in whole lines, on a stream that all jobs share."""

    part = 1
    resumes = False
    url: str | None = None

    def __init__(
        self, format: Literal["prefix", "plain", "json"], claim: Claim, hand: Hand, stream: BinaryIO | None = None
    ) -> None:
        self._line = _formats(claim)[format]
        self._hand = hand
        self._stream = stream or sys.stdout.buffer
        self._rest = b""

    async def stored(self) -> int:
        """Nobody knows."""
        return 0

    async def put(self, offset: int, data: bytes, *, last: bool) -> None:
        """Write the lines that are whole."""
        *lines, rest = (self._rest + data).split(b"\n")
        if rest and (last or len(rest) > LONGEST):
            lines.append(rest)
            rest = b""
        text = b"".join(self._line(line) for line in lines)
        if text:
            await self._write(text)
        self._rest = rest

    async def close(self, size: int) -> None:
        """Write what was held back."""
        if self._rest:
            await self.put(size, b"", last=True)

    async def abandon(self) -> None:
        """Nothing is held."""

    async def _write(self, text: bytes) -> None:
        def write() -> None:
            self._stream.write(text)
            self._stream.flush()

        try:
            await self._hand.do(write)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise Away(f"standard output: {error}") from None


def _formats(claim: Claim) -> dict[str, Callable[[bytes], bytes]]:
    prefix = f"{claim.queue} {claim.id} {claim.attempt} | ".encode("utf-8", "backslashreplace").replace(b"\n", b" ")
    facts = {"queue": claim.queue, "job": claim.id, "attempt": claim.attempt}

    def as_json(line: bytes) -> bytes:
        return json.dumps(facts | {"line": line.decode("utf-8", "replace")}).encode() + b"\n"

    return {"prefix": lambda line: prefix + line + b"\n", "plain": lambda line: line + b"\n", "json": as_json}
