"""What all sinks beside the Record share: a log goes to a store in order, at the store's own pace.

A window on the log waits in memory. When it is full, or is dropped for the sake of other jobs, what is missing is read
back from the Record's stream; so does whoever goes on with a dead consumer's log. Bytes are counted from the log's
begin, without those that were never given to a sink; a store that takes the same bytes twice at the same offset keeps
them once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from consumer.model import Claim, LogPosition, Place
from consumer.ports import Records
from consumer.storing import Away, Broken, Refused, Target
from consumer.tasks import end
from enqueue.record import Link

WINDOW = 8 * 1024 * 1024
"""Bytes of a log that may wait in memory for a store."""
SHARED = 128 * 1024 * 1024
"""The same of all logs together, for each store."""
STALL = 2.0
"""Seconds for which a writer waits for room while the store is well; the source's own memory holds the log then."""
UNWELL = 1.0
"""Seconds that a log's end waits for a store of which we know already that it is away."""
PAUSE, LONGEST_PAUSE = 0.2, 5.0
ENTRIES = 16
"""Entries of the stream that are read back at a time, of 64 KiB at most."""
OWN_GAPS = ("cap", "store_unavailable", "not_stored")
"""Gaps in the stream, not in the log: other sinks were given these bytes."""

T = TypeVar("T")
_log = structlog.get_logger("longshore.sinks")


class Store:
    """What the logs in one store share: its health, and how much of them waits."""

    def __init__(self, name: str, shared: int = SHARED) -> None:
        self.name = name
        self.shared = shared
        self.waiting = 0
        self.away: str | None = None

    def well(self) -> None:
        """It took something."""
        if self.away is not None:
            self.away = None
            _log.info("log_store_back", sink=self.name)

    def unwell(self, why: str) -> None:
        """It didn't."""
        if self.away is None:
            _log.warning("log_store_away", sink=self.name, why=why, doing="trying again; jobs go on")
        self.away = why


class Backlog:
    """What the Record's stream holds of an attempt's log, by offset."""

    def __init__(self, records: Records, claim: Claim) -> None:
        self._records, self._claim = records, claim
        self._after = 0

    async def read(self, at: int, most: int) -> bytes:
        """Up to `most` bytes from offset `at` on; none: they aren't there (any more)."""
        found: list[bytes] = []
        size, after = 0, self._after
        while size < most:
            rows = await self._records.recorded(self._claim, after, ENTRIES)
            for sequence, position, data in rows:
                last = offset_of(position)
                if last > at:
                    first = last - len(data)
                    if first > at:
                        return b"".join(found)
                    found.append(data[at - first :][: most - size])
                    size += len(found[-1])
                    at += len(found[-1])
                    if at < last:
                        return b"".join(found)
                self._after = after = sequence
            if not rows:
                break
        return b"".join(found)


def offset_of(position: LogPosition) -> int:
    """How many bytes sinks were given up to this position."""
    unseen: int = sum(gap.get("bytes", 0) for gap in position.gaps if gap["reason"] not in OWN_GAPS)
    return position.bytes - unseen


class ShippingSink:
    """A Sink that carries a log to a Target. Its trouble ends in `link`, never in the job."""

    def __init__(
        self, store: Store, target: Target, *, start: LogPosition, backlog: Backlog | None, patience: float
    ) -> None:
        self._store, self._target, self._backlog = store, target, backlog
        self._patience = patience
        self._takeover = start.bytes > 0
        self._base = self._begin = self._end = offset_of(start)
        self._stored = self._base
        self._blocks: deque[bytes] = deque()
        self._finishing = asyncio.Event()
        self._done = False
        self._problem: str | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link:
        """Where the log is, and why not all of it, if so."""
        problem = self._problem or (None if self._done else "its end wasn't stored")
        return Link(sink=self._store.name, url=self._target.url, bytes=self._stored, problem=problem)

    async def write(self, block: bytes, place: Place | None = None) -> None:
        """Take a block. Waits a moment for room, never for a store that is away."""
        if self._problem is not None:
            return
        if self._task is None:
            self._task = asyncio.create_task(self._ship(), name=f"log to {self._store.name}")
        self._blocks.append(block)
        self._end += len(block)
        self._store.waiting += len(block)
        self._changed.set()
        if self._full() and self._store.away is None and not self._task.done():
            loop = asyncio.get_running_loop()
            until = loop.time() + STALL
            while self._full() and loop.time() < until:
                self._room.clear()
                try:
                    async with asyncio.timeout_at(until):
                        await self._room.wait()
                except TimeoutError:
                    break
        if self._full():
            self._release(self._end)

    async def finish(self) -> None:
        """Store what is left, within bounds."""
        if self._task is None and self._problem is None:
            self._task = asyncio.create_task(self._ship(), name=f"log to {self._store.name}")
        self._finishing.set()
        self._changed.set()
        if self._task is not None:
            patience = self._patience if self._store.away is None else min(UNWELL, self._patience)
            try:
                await asyncio.wait({self._task}, timeout=patience)
                if not self._task.done():
                    self._fail(f"the store couldn't be reached in time: {self._store.away or 'it is too slow'}")
            finally:
                await self.abandon()

    async def abandon(self) -> None:
        """Stop at once: somebody else goes on with the log, or nobody."""
        if self._task is not None:
            await end(self._task)
        self._release(self._end)
        if not self._done:
            await self._target.abandon()

    def _full(self) -> bool:
        return self._end - self._begin > WINDOW or self._store.waiting > self._store.shared

    def _release(self, upto: int) -> None:
        """Forget what lies before this offset."""
        while self._blocks and self._begin < upto:
            block = self._blocks.popleft()
            freed = min(len(block), upto - self._begin)
            if freed < len(block):
                self._blocks.appendleft(block[freed:])
            self._begin += freed
            self._store.waiting -= freed
        self._room.set()

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self._release(self._end)
        _log.warning("log_not_stored", sink=self._store.name, url=self._target.url, why=problem, stored=self._stored)

    async def _ship(self) -> None:
        try:
            if self._takeover and self._target.resumes:
                self._stored = await self._try(self._target.stored)
                if self._stored > self._begin:
                    self._release(min(self._stored, self._end))
            while True:
                await self._due()
                rest = self._end - self._stored
                if rest <= 0:
                    break
                data = await self._data(min(rest, max(self._target.part, 256 * 1024)))
                if not data:
                    await self._try(lambda: self._target.close(self._stored))  # so that what it has can be read
                    self._fail("what follows was dropped before the store took it")
                    return
                last = self._finishing.is_set() and len(data) == rest
                at = self._stored
                await self._try(lambda at=at, data=data, last=last: self._target.put(at, data, last=last))  # type: ignore[misc]
                self._stored += len(data)
                self._release(self._stored)
            await self._try(lambda: self._target.close(self._stored))
            self._done = True
        except Refused as error:
            self._fail(str(error))
        except Exception as error:  # a bug of ours, or of a library: the job's end must not depend on it
            _log.exception("log_sink_failed", sink=self._store.name)
            self._fail(f"internal error ({type(error).__name__})")

    async def _due(self) -> None:
        """Waits until a part is there, or the end."""
        while not self._finishing.is_set() and self._end - self._stored < self._target.part:
            self._changed.clear()
            await self._changed.wait()

    async def _data(self, most: int) -> bytes:
        if self._target.part > 1 and most > self._target.part:
            most = self._target.part
        if self._stored >= self._begin:
            return self._from_window(self._stored - self._begin, most)
        found = await self._backlog.read(self._stored, most) if self._backlog is not None else b""
        if 0 < len(found) < most and self._stored + len(found) >= self._begin:
            skip = self._stored + len(found) - self._begin
            found += self._from_window(skip, most - len(found))
        return found if len(found) == most or self._target.part == 1 else b""

    def _from_window(self, skip: int, most: int) -> bytes:
        parts: list[bytes] = []
        for block in self._blocks:
            if most <= 0:
                break
            if skip >= len(block):
                skip -= len(block)
                continue
            parts.append(block[skip : skip + most])
            most -= len(parts[-1])
            skip = 0
        return b"".join(parts)

    async def _try(self, action: Callable[[], Awaitable[T]]) -> T:
        """Until the store takes it. Raises Refused."""
        pause = PAUSE
        while True:
            try:
                result = await action()
            except Away as error:
                self._store.unwell(str(error))
                if self._finishing.is_set() and isinstance(error, Broken):
                    raise Refused(str(error)) from None
                pause = PAUSE if await self._ends_within(pause) else min(pause * 2, LONGEST_PAUSE)
            else:
                self._store.well()
                return result

    async def _ends_within(self, pause: float) -> bool:
        """A pause, cut short by the log's end: there is little time then, so the store is tried at once."""
        if self._finishing.is_set():
            await asyncio.sleep(pause)
            return False
        try:
            async with asyncio.timeout(pause):
                await self._finishing.wait()
        except TimeoutError:
            return False
        return True
