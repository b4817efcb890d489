"""Follows a container's log to its end, over any number of connections, without loss or repetition.

Source of the protocol: https://kubernetes.io/docs/reference/generated/kubernetes-api/ (pods/log). What of a connection
is new, and what was lost, is the business of position.py; when to ask, and how, is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import aiohttp

from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.log_right import LogRight
from consumer.executors.kubernetes.news import News
from consumer.executors.kubernetes.position import ROTATED, Jump, Position
from consumer.model import Gap, LogPart

log = logging.getLogger(__name__)

T = TypeVar("T")

SHORT_SECONDS = 0.25
"""A container that ends within so long is read once, at its end: to follow it would take a connection for itself."""
PAUSE_FIRST, PAUSE_CAP = 0.2, 15.0
END_SECONDS = 5.0
"""How long the status may lag behind the end of the log before the log is asked for again."""
TOLD_SECONDS = 1.5
"""How long it lags where all is well: kubelets look every second at what has ended."""
OPEN_SECONDS, STALL_SECONDS = 1.0, 15.0
"""A log that is followed, and that doesn't begin or says nothing for so long after its container's end, is on a dead
connection. One that is asked for after that may begin as late as any call's answer: the cluster is just busy."""
ROTATED_BYTES = 4 * 2**20
"""Kubelets rotate logs at 10 MiB and may then end a connection early: after so much, the end is read once more."""
GIVE_UP_SECONDS, REFUSED_SECONDS = 60.0, 2.0
"""The log of a container that has ended is tried to be read for so long; if the kubelet says that it has none."""
LIFE_SECONDS = 5.0
"""A connection that lived so long was no failure."""

DELETED = Gap("pod_deleted", message="the pod was deleted before its log was read to its end")
UNREADABLE = Gap("unreadable", message="the end of the log couldn't be read")


class Source(Protocol):
    """What the follower needs to know of a container."""

    def readable(self) -> bool:
        """It has started: there may be a log."""

    def ended(self) -> bool:
        """It has ended, or its pod is gone: nothing will be added to the log."""

    def ended_at(self) -> float | None:
        """When it ended by its node's clock, as far as known: whole seconds since the epoch."""

    def watched(self) -> bool:
        """Somebody reads the log as it is written."""

    async def changed(self, timeout: float | None = None) -> None:
        """Waits for news, at most `timeout` seconds."""

    def news(self) -> asyncio.Future[None]:
        """Done at the next news; for `asyncio.wait`, without a task for each log that waits."""


class Streams:
    """How many logs may be followed at a time; whoever comes later waits for its turn, first come, first served."""

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.right = LogRight()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._looking: dict[News, None] = {}

    def room(self, news: News) -> bool:
        """One more may be followed now; if not, `news` is told once that may have changed, until `leave`."""
        if self.free <= 0:
            self._looking[news] = None
        return self.free > 0

    def leave(self, news: News) -> None:
        """Nobody looks for room there any more."""
        self._looking.pop(news, None)
        self._tell_next()

    async def turn(self, source: Source) -> bool:
        """Waits until the log may be followed. True: a stream was taken, to be given back; False: none is needed."""
        if source.watched() or source.ended():
            return False
        if self.free > 0:
            self.free -= 1
            return True
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            while not (place.done() or source.watched() or source.ended()):
                await asyncio.wait({place, source.news()}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            if place.done():
                self.give_back()
            raise
        finally:
            place.cancel()
            with contextlib.suppress(ValueError):
                self._waiting.remove(place)
        return not place.cancelled()

    def give_back(self) -> None:
        """The next one may have it."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.free += 1
        self._tell_next()

    def _tell_next(self) -> None:
        if self.free > 0 and self._looking:
            next(iter(self._looking)).tell()


async def follow(
    api: Api, namespace: str, pod: str, container: str, source: Source, streams: Streams, after: str = ""
) -> AsyncGenerator[LogPart, None]:
    """One container's log in chunks, as the container wrote it, until it has ended and all is read.

    `after`: a place that a former reader reached; the log is read from its beginning, with that place in it.
    """
    path = path_of(namespace, "pods", pod, "log")
    position = Position(container, after)
    pause, tried_since, total, checked, doubtful = PAUSE_FIRST, None, 0, False, False
    unread = UNREADABLE
    while not source.readable():
        if source.ended():
            return
        await source.changed()
    if not source.watched():
        await _ends_within(source, SHORT_SECONDS)
    while True:
        turn = await streams.turn(source)
        ended_before = source.ended()
        # What has ended has nothing to wait for; and a kubelet that is simulated may follow it for ever.
        query = {"container": container, "follow": "false" if ended_before else "true", "timestamps": "true"}
        opened = api.fetch(path, query) if ended_before else api.stream(path, query)
        if position.since:
            query["sinceTime"] = position.since
        position.begin()
        clean, grew, began, told = False, False, None, 0.0
        patience = _Patience(source)
        try:
            async with contextlib.AsyncExitStack() as stack:
                opening = stack.enter_async_context(opened)
                response = await (opening if ended_before else patience.wait(opening))
                began, patience.silence = time.monotonic(), STALL_SECONDS
                if response.status == 200:
                    while chunk := await patience.wait(response.content.readany()):
                        total += len(chunk)
                        for part in position.feed(chunk):
                            grew = True
                            if not isinstance(part, Jump):
                                yield part
                            elif total >= ROTATED_BYTES and await _over(api, path, query, part):
                                yield ROTATED
                        if grew and (place := position.place):
                            yield place
                    clean = not position.refused
        except ApiError as error:
            if error.status == 404 and source.ended():
                if doubtful or not checked:
                    yield DELETED
                return
            told = min(PAUSE_CAP, error.retry_after or 0.0)
            if error.forbidden:
                why = streams.right.refused(api, namespace, error)
                unread = replace(UNREADABLE, message=f"{UNREADABLE.message}: {why}")
            log.debug("the log of %s isn't readable yet: %s", pod, error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.debug("the log of %s was cut, it is read on: %s", pod, error)
        finally:
            patience.end()
            if turn:
                streams.give_back()
        if clean:
            early = not source.ended()
            closed, known = time.time(), time.monotonic()
            await _ends_within(source, END_SECONDS)  # the kubelet's word on the end comes a moment after the log's
            if source.ended() or ended_before:
                doubtful = position.behind or (early and _cut_short(source, closed, time.monotonic() - known))
                # A kubelet ends a log within a line while the runtime is still writing what the container said last.
                odd = not checked and (doubtful or _set_back(position, source) or position.within_a_line)
                suspicious = (grew and total >= ROTATED_BYTES) or odd
                checked = True
                if suspicious:
                    continue
                if position.behind:
                    yield ROTATED
                for part in position.finish():
                    if not isinstance(part, Jump):
                        yield part
                return
        now = time.monotonic()
        if grew or (began is not None and now - began > LIFE_SECONDS):
            pause, tried_since = PAUSE_FIRST, None
        if source.ended():
            tried_since = tried_since or now
            if now - tried_since > (REFUSED_SECONDS if position.refused else GIVE_UP_SECONDS):
                log.warning("the end of the log of %s couldn't be read", pod)
                yield unread
                return
        await asyncio.sleep(told)  # whatever the news: the server asked for it
        await source.changed(random.uniform(pause / 2, pause))
        pause = min(PAUSE_CAP, pause * 2)


async def _ends_within(source: Source, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not source.ended() and (left := until - time.monotonic()) > 0:
        await source.changed(left)


def _set_back(position: Position, source: Source) -> bool:
    """The container ended before its last line: the clock was set back, and `sinceTime` may have hidden lines."""
    ended_at = source.ended_at()
    if ended_at is None or position.second <= ended_at + 1:
        return False
    position.distrust()
    return True


def _cut_short(source: Source, closed: float, late: float) -> bool:
    """The log ended, at `closed`, before its container had, or perhaps: its end was told so many seconds later.

    When a node's connection to the API server breaks, as at a restart of its kubelet, that ends a log as if all were
    said. Clocks that differ cost a request where ours is behind.
    """
    ended_at = source.ended_at()  # whole seconds
    return ended_at is not None and closed < ended_at + (1 if late > TOLD_SECONDS else 0)


async def _over(api: Api, path: str, query: Mapping[str, str], jump: Jump) -> bool:
    """The line before the jump isn't in the container's current file any more."""
    since = datetime.fromtimestamp(jump.second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    look = {**query, "follow": "false", "sinceTime": since, "limitBytes": "64"}
    try:
        async with api.fetch(path, look) as response:
            begin = Position()
            begin.feed((await response.content.readany())[:64] + b"\n")
    except (ApiError, aiohttp.ClientError, OSError, TimeoutError):
        return True  # it can't be ruled out
    return begin.second > jump.second


class _Patience:
    """Waits for a connection as long as its container runs; once that has ended, silence ends the wait too."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._limit: asyncio.Timeout | None = None
        self._heard = time.monotonic()
        self.silence = OPEN_SECONDS
        self._task = None if source.ended() else asyncio.create_task(self._watch())

    async def wait(self, what: Awaitable[T]) -> T:
        """Its result. Raises TimeoutError when patience is lost."""
        if self._task is None:  # most logs are read at their end: nothing is to be watched meanwhile
            async with asyncio.timeout(self.silence):
                return await what
        try:
            async with asyncio.timeout(None) as self._limit:
                return await what
        finally:
            self._limit, self._heard = None, time.monotonic()

    def end(self) -> None:
        """No longer needed."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while not self._source.ended():
            await self._source.changed()
        ended = time.monotonic()
        while True:
            left = max(ended, self._heard) + self.silence - time.monotonic()
            if left <= 0 and self._limit is not None:
                self._limit.reschedule(asyncio.get_running_loop().time())
                return
            await asyncio.sleep(max(left, 0.05))
