"""Follows a container's log to its end, over any number of connections, without loss or repetition."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from consumer.executors.docker.engine import Engine, EngineError
from consumer.executors.docker.frames import Frames
from consumer.model import Gap, LogPart

log = logging.getLogger(__name__)

POLL_SECONDS, POLL_SHARE = 0.25, 5
"""Between two looks at the log of an engine that can't be followed, at least; and so many times what a look takes."""
PAUSE_FIRST, PAUSE_CAP = 0.1, 5.0
"""Seconds until a log is asked for again whose connection has ended before its container."""
TRIES = 20
"""Connections in a row that may fail when the container has ended."""

DELETED = Gap("pod_deleted", message="the container was removed before its log was read to its end")
UNREADABLE = Gap("unreadable", message="the end of the log couldn't be read")


async def follow(
    engine: Engine,
    container: str,
    step: str,
    ended: Callable[[], bool],
    changed: Callable[[float | None], Awaitable[None]],
    after: str = "",
) -> AsyncGenerator[LogPart, None]:
    """One container's log in chunks, as the container wrote it, until it has ended and all is read.

    A connection that was opened after the end is trusted to bring all of it; one that was open before is followed by
    a look at the last frame, since engines may close it early. Podman (4.3, for one) loses bytes of what is written
    while it is followed, but not of what it is asked for: its logs are read again and again. What it shows last may be
    half a line then, so that must come twice.
    """
    frames, pause, failed = Frames(step, after), PAUSE_FIRST, 0
    while True:
        ended_before, grew, began = ended(), False, time.monotonic()
        frames.begin(hold=engine.podman and not ended_before)
        try:
            async with engine.logs(container, follow=not (ended_before or engine.podman)) as chunks:
                async for chunk in chunks:
                    for part in frames.feed(chunk):
                        grew = True
                        yield part
                    if engine.podman and not ended_before and ended():
                        break  # the last look brings it all
            for part in frames.finish():
                grew = True
                yield part
        except EngineError as error:
            if error.gone:
                if not ended_before:
                    yield DELETED
                return
            failed += 1
            if ended() and failed > TRIES:
                log.warning("the log of %s can't be read: %s", container, error)
                yield UNREADABLE
                return
        else:
            failed = 0
            if not ended_before and engine.podman:
                took, quiet = time.monotonic() - began, True
                while quiet and not ended():
                    await changed(max(POLL_SECONDS, POLL_SHARE * took))
                    quiet = not ended() and await _whole(engine, container, frames)
                continue
            if ended_before or (await _ends(ended, changed) and await _whole(engine, container, frames)):
                return
        pause = PAUSE_FIRST if grew else min(PAUSE_CAP, pause * 2)
        await asyncio.sleep(pause)


async def _ends(ended: Callable[[], bool], changed: Callable[[float | None], Awaitable[None]]) -> bool:
    """The log's connection has ended, mostly since the container has: that is told any moment."""
    for _ in range(20):
        if ended():
            return True
        await changed(0.25)
    return ended()


async def _whole(engine: Engine, container: str, frames: Frames) -> bool:
    """The last frame is the one that was read last."""
    tail = b""
    try:
        async with engine.logs(container, follow=False, tail="1") as chunks:
            async for chunk in chunks:
                tail += chunk
    except EngineError as error:
        return error.gone
    return frames.ends_with(tail)
