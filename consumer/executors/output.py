"""The pipe that takes a job's output: read in big chunks, as fast as it comes, and always to its end."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator

CHUNK = 256 * 1024
"""Bytes asked for at a time."""

AFTERMATH = 1.0
"""Seconds after the job's end for which a process that escaped its group may still hold the output open."""


class Output:
    """A pipe: `writer` goes to the job's processes, `read` gives what they write.

    If the reader goes away, the rest is read and thrown away: a job must not hang on a full pipe.
    Raises OSError if no pipe can be made.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._room = 64 * 1024
        try:
            self._room = fcntl.fcntl(self._writer, 1031, 1024 * 1024)  # F_SETPIPE_SZ, on Linux
        except OSError:
            pass
        self._loop = asyncio.get_running_loop()
        self._readable: asyncio.Future[None] | None = None
        self._late = False
        self._closed = False

    @property
    def writer(self) -> int:
        """The file descriptor for the job's processes."""
        return self._writer

    def close_writer(self) -> None:
        """No further process gets the pipe."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def ended(self) -> None:
        """The job's processes are gone: what is in the pipe is its last output."""
        self.close_writer()
        if not self._closed:
            self._loop.call_later(AFTERMATH, self._expire)

    async def read(self) -> AsyncIterator[bytes]:
        """The output until its end. To be iterated once."""
        left = self._room + CHUNK  # what an escaped process may still write after the deadline
        try:
            while not self._closed:
                try:
                    chunk = os.read(self._reader, CHUNK)
                except BlockingIOError:
                    if self._late:
                        break
                    await self._wait()
                    continue
                if not chunk:
                    self.close()
                    break
                if self._late:
                    left -= len(chunk)
                yield chunk
                if left <= 0:
                    break
                await asyncio.sleep(0)
        finally:
            if self._late:
                self.close()
            elif not self._closed:
                self._loop.add_reader(self._reader, self._discard)

    def close(self) -> None:
        """Free the pipe; a process that still writes gets SIGPIPE."""
        if self._closed:
            return
        self._closed = True
        self.close_writer()
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        self._wake()

    def _expire(self) -> None:
        self._late = True
        self._wake()

    async def _wait(self) -> None:
        self._readable = self._loop.create_future()
        self._loop.add_reader(self._reader, self._wake)
        try:
            await self._readable
        finally:
            if not self._closed:
                self._loop.remove_reader(self._reader)
            self._readable = None

    def _wake(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def _discard(self) -> None:
        try:
            if os.read(self._reader, CHUNK):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._loop.remove_reader(self._reader)
