"""Follows a container's log to its end, over any number of connections, without loss or repetition.

Source of the protocol: https://kubernetes.io/docs/reference/generated/kubernetes-api/ (pods/log). Every line comes
with the kubelet's timestamp in nanoseconds, but `sinceTime` counts whole seconds: a resumed log begins with lines that
were already read. They are told apart by (timestamp, how many lines with that timestamp were read).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Protocol, TypeVar

import aiohttp

from consumer.executors.kubernetes.api import Api, ApiError, path_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ", re.ASCII)
_STAMP_LENGTH = 36
_NOT_THE_PODS = re.compile(
    rb"unable to retrieve container logs|rpc error: |failed to (?:watch|create fsnotify|try res)"
)
LONG_LINE = 64 * 1024
"""A line that grows longer than this is handed on before its end."""
PAUSE_FIRST, PAUSE_CAP = 0.2, 15.0
SHORT_SECONDS = 0.25
"""A job that ends within so long is read once, at its end: to follow it would take a connection for itself."""
END_SECONDS = 5.0
"""How long the status may lag behind the end of the log before the log is asked for again."""
OPEN_SECONDS, STALL_SECONDS = 1.0, 15.0
"""A log of a container that has ended, and that doesn't begin or says nothing for so long, is on a dead connection."""
ROTATED_BYTES = 4 * 2**20
"""Kubelets rotate logs at 10 MiB and may then end a connection early: after so much, the end is read once more."""
GIVE_UP_SECONDS = 60.0
"""The log of a container that has ended is tried to be read for so long."""


class Source(Protocol):
    """What the follower needs to know of a container."""

    def readable(self) -> bool:
        """It has started: there may be a log."""

    def ended(self) -> bool:
        """It has ended, or its pod is gone: nothing will be added to the log."""

    async def changed(self, timeout: float | None = None) -> None:
        """Waits for news, at most `timeout` seconds."""


class Position:
    """How far the log was read: the last line's timestamp, how many lines had it, and how much of an unfinished one."""

    def __init__(self) -> None:
        self.stamp = b""
        self.count = 0
        self.part_stamp = b""
        self.part = 0
        self._replay: tuple[tuple[int, int], int] | None = None
        self._rest = b""
        self._middle = False
        self._skip = 0

    @property
    def since(self) -> str | None:
        """The `sinceTime` of the next connection; None: from the beginning."""
        stamp = self.stamp or self.part_stamp
        if not stamp:
            return None
        match = _STAMP.match(stamp)
        return (match[1] + match[3]).decode() if match else None

    def begin(self) -> None:
        """A new connection: what was read before will come again."""
        self._replay = (_moment(self.stamp), self.count) if self.stamp else None
        self._rest, self._middle, self._skip = b"", False, 0

    def feed(self, chunk: bytes) -> bytes:
        """The new bytes of a chunk, without timestamps."""
        data = self._rest + chunk if self._rest else chunk
        out: list[bytes] = []
        lines = data.split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line, out)
        if len(self._rest) > LONG_LINE:
            self._unfinished(out)
        return b"".join(out)

    def finish(self) -> bytes:
        """The log has ended: its last line may lack the newline."""
        out: list[bytes] = []
        if self._rest:
            self._unfinished(out)
        return b"".join(out)

    def _line(self, line: bytes, out: list[bytes]) -> None:
        if self._middle:  # the rest of a line whose beginning was handed on
            self._middle = False
            skip, self._skip = self._skip, 0
            out.append(line[skip:] + b"\n")
            self._count(self.part_stamp)
            self.part_stamp, self.part = b"", 0
            return
        stamp, text = _split(line)
        if not stamp:
            if not _NOT_THE_PODS.match(line):
                out.append(line + b"\n")
            return
        if self._replay is not None and self._old(stamp):
            return
        if self.part and stamp == self.part_stamp:
            text = text[self.part :]
        self.part_stamp, self.part = b"", 0
        self._count(stamp)
        out.append(text + b"\n")

    def _unfinished(self, out: list[bytes]) -> None:
        if self._middle:
            cut = min(self._skip, len(self._rest))
            self._skip -= cut
            new = self._rest[cut:]
            self._rest = b""
            self.part += len(new)
            out.append(new)
            return
        stamp, text = _split(self._rest)
        if not stamp or (self._replay is not None and self._old(stamp, peek=True)):
            return
        known = self.part if stamp == self.part_stamp else 0
        new = text[known:]
        self._middle, self._skip = True, max(0, known - len(text))
        self.part_stamp, self.part = stamp, known + len(new)
        self._rest = b""
        out.append(new)

    def _count(self, stamp: bytes) -> None:
        if stamp == self.stamp:
            self.count += 1
        else:
            self.stamp, self.count = stamp, 1

    def _old(self, stamp: bytes, *, peek: bool = False) -> bool:
        """Was read over an earlier connection. Only the beginning of a connection is compared: clocks step back."""
        assert self._replay is not None
        moment, left = self._replay
        now = _moment(stamp)
        if now < moment:
            return True
        if now == moment and left > 0:
            if not peek:
                self._replay = (moment, left - 1)
            return True
        if not peek:
            self._replay = None
        return False


def _split(line: bytes) -> tuple[bytes, bytes]:
    space = line.find(b" ", 0, _STAMP_LENGTH)
    if space < 20 or line[10:11] != b"T" or line[4:5] != b"-":
        return b"", line
    return line[: space + 1], line[space + 1 :]


def _moment(stamp: bytes) -> tuple[int, int]:
    from datetime import datetime

    match = _STAMP.match(stamp)
    if match is None:
        return (0, 0)
    whole = datetime.fromisoformat((match[1] + match[3].replace(b"Z", b"+00:00")).decode())
    return int(whole.timestamp()), int((match[2] or b"0").ljust(9, b"0"))


async def follow(api: Api, namespace: str, pod: str, container: str, source: Source) -> AsyncGenerator[bytes, None]:
    """The bytes of one container's log in chunks, as the container wrote them, until it has ended and all is read."""
    path = path_of(namespace, "pods", pod, "log")
    position = Position()
    pause, tried_since, total = PAUSE_FIRST, None, 0
    while True:
        while not source.readable():
            if source.ended():
                return
            await source.changed()
        if not position.stamp:
            await _ends_within(source, SHORT_SECONDS)
        ended_before = source.ended()
        # What has ended has nothing to wait for; and a kubelet that is simulated may follow it for ever.
        query = {"container": container, "follow": "false" if ended_before else "true", "timestamps": "true"}
        if position.since:
            query["sinceTime"] = position.since
        position.begin()
        clean, received, grew = False, False, False
        patience = _Patience(source)
        try:
            async with contextlib.AsyncExitStack() as stack:
                response = await patience.wait(stack.enter_async_context(api.stream(path, query)))
                patience.silence = STALL_SECONDS
                if response.status == 200:
                    while chunk := await patience.wait(response.content.readany()):
                        received, total = True, total + len(chunk)
                        if new := position.feed(chunk):
                            grew = True
                            yield new
                    clean = True
        except ApiError as error:
            if error.status == 404 and source.ended():
                return
            log.debug("the log of %s isn't readable yet: %s", pod, error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.debug("the log of %s was cut, it is read on: %s", pod, error)
        finally:
            patience.end()
        if clean:
            await _ends_within(source, END_SECONDS)  # the kubelet's word on the end comes a moment after the log's
            if source.ended() and grew and total >= ROTATED_BYTES:
                continue
            if source.ended() or ended_before:
                if rest := position.finish():
                    yield rest
                return
        now = time.monotonic()
        if received:
            pause, tried_since = PAUSE_FIRST, None
        if source.ended():
            tried_since = tried_since or now
            if now - tried_since > GIVE_UP_SECONDS:
                log.warning("the end of the log of %s couldn't be read", pod)
                return
        await source.changed(random.uniform(pause / 2, pause))
        pause = min(PAUSE_CAP, pause * 2)


async def _ends_within(source: Source, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not source.ended() and (left := until - time.monotonic()) > 0:
        await source.changed(left)


class _Patience:
    """Waits for a connection as long as its container runs; once that has ended, silence ends the wait too."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._limit: asyncio.Timeout | None = None
        self._heard = time.monotonic()
        self.silence = OPEN_SECONDS
        self._task = asyncio.create_task(self._watch())

    async def wait(self, what: Awaitable[T]) -> T:
        """Its result. Raises TimeoutError when patience is lost."""
        try:
            async with asyncio.timeout(None) as self._limit:
                return await what
        finally:
            self._limit, self._heard = None, time.monotonic()

    def end(self) -> None:
        """No longer needed."""
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
