"""A log as jobs, on a queue of whoever asked for it: in batches, in order, at least once while the queue can be had."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import structlog

from consumer.model import LogPosition, Place
from consumer.newlines import newlines
from consumer.tasks import end
from enqueue.errors import LongshoreError

BATCH = 512 * 1024
"""Bytes of lines from which on a batch is sent at once."""
WAITING = 8 * 1024 * 1024
"""Bytes that may wait for a queue that is away; beyond, the oldest are dropped: the log beside the Record has them."""
SHARED = 64 * 1024 * 1024
"""The same of all logs together; a log's newest batch stays."""
FINISH, UNWELL = 15.0, 1.0
"""Seconds that a log's end waits for the queue, and for one that is away. What is left goes with the job's end."""

_log = structlog.get_logger("longshore.sinks.reply")


class Shared:
    """What the logs of all jobs share: how many of their bytes wait."""

    def __init__(self) -> None:
        self.waiting = 0


class _Batch(NamedTuple):
    line: int
    """The first one's number."""
    size: int
    """How many they are."""
    text: bytes

    @property
    def lines(self) -> list[bytes]:
        return self.text.removesuffix(b"\n").split(b"\n")


class ReplySink:
    """A Sink that pushes `make(number of the first line, lines, time)`; see the module.

    The first line goes at once, later ones together after `interval` seconds at the latest. A consumer that goes on
    with the log of a dead one begins behind what is stored beside the Record, so up to `interval` may be missing here.
    """

    unsent: Sequence[dict[str, Any]] = ()

    def __init__(
        self,
        push: Callable[[dict[str, Any]], Awaitable[None]],
        make: Callable[[int, Sequence[bytes], float], dict[str, Any]],
        *,
        interval: float = 30.0,
        start: LogPosition | None = None,
        shared: Shared | None = None,
        notices: bool = False,
    ) -> None:
        """`notices`: a line says how many were dropped, for readers who aren't told the numbers of lines."""
        self._push, self._make, self._interval, self._notices = push, make, interval, notices
        self._dropped = 0  # lines, since the last batch that was sent
        self._line = start.lines - start.open if start else 0
        self._blocks: list[bytes] = []
        self._size = self._waiting = 0
        self._batches: deque[_Batch] = deque()
        self._shared = shared or Shared()
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None
        self._first, self._whole = True, False
        self._away = False
        self.unsent: tuple[dict[str, Any], ...] = ()
        """Once the log has ended: the jobs that the queue hasn't taken."""

    async def write(self, block: bytes, place: Place | None = None) -> None:
        """Take whole lines; never waits for the queue."""
        self._blocks.append(block)
        self._size += len(block)
        self._whole = self._whole or b"\n" in block
        if not self._whole:
            return
        if self._first or self._size >= BATCH:
            self._first = False
            self._ship()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._ship)

    async def finish(self) -> None:
        """Send what is left, and wait until the queue has it all, within bounds."""
        self._whole = self._size > 0
        await self._end(FINISH, everything=True)

    async def abandon(self) -> None:
        """Somebody else goes on with the log, behind what we were given: send that, if the queue takes it now."""
        await self._end(UNWELL)

    async def _end(self, seconds: float, *, everything: bool = False) -> None:
        self._ship(everything=everything)
        try:
            if self._sender is not None:
                await asyncio.wait({self._sender}, timeout=min(UNWELL, seconds))
                if not self._away:
                    await asyncio.wait({self._sender}, timeout=max(0.0, seconds - UNWELL))
            self.unsent = tuple(self._job(batch, first=not place) for place, batch in enumerate(self._batches))
        finally:
            if self._sender is not None:
                await end(self._sender)
            while self._batches:
                self._forget()

    def _ship(self, *, everything: bool = False) -> None:
        """Have the whole lines sent; a line that goes on waits, but for `everything`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._whole:
            return
        text = b"".join(self._blocks)
        rest = b"" if everything else text[text.rfind(b"\n") + 1 :]
        text = text[: len(text) - len(rest)]
        self._blocks, self._size, self._whole = [rest] if rest else [], len(rest), False
        count = newlines(text) + (not text.endswith(b"\n"))
        self._batches.append(_Batch(self._line, count, text))
        self._line += count
        self._waiting += len(text)
        self._shared.waiting += len(text)
        while (self._waiting > WAITING or self._shared.waiting > SHARED) and len(self._batches) > 1:
            batch = self._forget()
            self._dropped += batch.size
            why = "the queue has been away for long"
            _log.warning("log_jobs_dropped", first_line=batch.line, lines=batch.size, why=why)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())

    def _forget(self) -> _Batch:
        """The oldest batch is sent, or dropped."""
        batch = self._batches.popleft()
        self._waiting -= len(batch.text)
        self._shared.waiting -= len(batch.text)
        return batch

    def _job(self, batch: _Batch, *, first: bool = True) -> dict[str, Any]:
        lines = batch.lines
        if first and self._dropped and self._notices:
            lines.insert(0, b"longshore: %d lines are missing here: Faktory was away for too long" % self._dropped)
        return self._make(batch.line, lines, time.time())

    async def _send(self) -> None:
        pause = 0.2
        while self._batches:
            batch = self._batches[0]
            job, told = self._job(batch), self._dropped
            while self._batches and self._batches[0] is batch:
                try:
                    await self._push(job)
                    self._away = False
                    self._dropped -= told
                    if self._batches and self._batches[0] is batch:
                        self._forget()
                    else:
                        self._dropped -= batch.size  # it was dropped while it was on its way
                    pause = 0.2
                except LongshoreError as error:
                    self._away = True
                    _log.warning("log_job_waits", error=str(error))
                    await asyncio.sleep(pause)
                    pause = min(5.0, pause * 2)
