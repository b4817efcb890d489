"""The log as it is, to a terminal or a file: for `longshore test`."""

from __future__ import annotations

from typing import BinaryIO

from consumer.model import Place


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
