"""A log as jobs, on a queue of whoever asked for it: in batches, in order, at least once while the queue can be had."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from consumer.model import LogPosition, Place
from enqueue.errors import LongshoreError

BATCH = 512 * 1024
"""Bytes of lines from which on a batch is sent at once."""
WAITING = 8 * 1024 * 1024
"""Bytes that may wait for a queue that is away; beyond, the oldest are dropped: the log beside the Record has them."""

_log = structlog.get_logger("longshore.sinks.reply")


class ReplySink:
    """A Sink that pushes `make(number of the first line, lines, time)`; see the module.

    The first line goes at once, later ones together after `interval` seconds at the latest. A consumer that goes on
    with the log of a dead one begins behind what is stored beside the Record, so up to `interval` may be missing here.
    """

    def __init__(
        self,
        push: Callable[[dict[str, Any]], Awaitable[None]],
        make: Callable[[int, Sequence[bytes], float], dict[str, Any]],
        *,
        interval: float = 30.0,
        start: LogPosition | None = None,
    ) -> None:
        self._push, self._make, self._interval = push, make, interval
        self._line = start.lines - start.open if start else 0
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = self._waiting = 0
        self._batches: deque[tuple[int, list[bytes], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None
        self._first = True

    async def write(self, block: bytes, place: Place | None = None) -> None:
        """Take whole lines; never waits for the queue."""
        *whole, self._rest = (self._rest + block).split(b"\n")
        self._lines += whole
        self._size += sum(map(len, whole))
        if not self._lines:
            return
        if self._first or self._size >= BATCH:
            self._first = False
            self._ship()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._ship)

    async def finish(self) -> None:
        """Send what is left, and wait until the queue has it all."""
        if self._rest:
            self._lines.append(self._rest)
            self._rest = b""
        self._ship()
        try:
            if self._sender is not None:
                await self._sender
        finally:
            if self._sender is not None:
                self._sender.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(self._sender, return_exceptions=True)

    def _ship(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        size = sum(map(len, self._lines))
        self._batches.append((self._line, self._lines, size))
        self._line += len(self._lines)
        self._waiting += size
        self._lines, self._size = [], 0
        while self._waiting > WAITING and len(self._batches) > 1:
            line, lines, size = self._batches.popleft()
            self._waiting -= size
            _log.warning("log_jobs_dropped", first_line=line, lines=len(lines), why="the queue has been away for long")
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())

    async def _send(self) -> None:
        pause = 0.2
        while self._batches:
            batch = self._batches[0]
            line, lines, size = batch
            job = self._make(line, lines, time.time())
            while self._batches and self._batches[0] is batch:
                try:
                    await self._push(job)
                    if self._batches and self._batches[0] is batch:
                        self._batches.popleft()
                        self._waiting -= size
                    pause = 0.2
                except LongshoreError as error:
                    _log.warning("log_job_waits", error=str(error))
                    await asyncio.sleep(pause)
                    pause = min(5.0, pause * 2)
