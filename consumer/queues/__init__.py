"""The table of queues, by URL scheme. To add one: a file here, a line here, a parameter in its contract suite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from consumer.job_types import JobTypes
from consumer.ports import Queue, Records
from consumer.settings import Settings
from enqueue.errors import UsageError
from enqueue.wire.records import place_of

NEEDLESS = "RQ keeps its Records with the jobs"


async def _rq(settings: Settings, portable: bool) -> tuple[Queue, Records]:
    if settings.records_url is not None:
        raise UsageError(f"records_url: {NEEDLESS}; leave it out")
    from consumer.lifeline import Lifeline
    from consumer.queues.rq import RqQueue

    queue = RqQueue(
        settings.queue_url,
        settings.queues,
        consumer=settings.name,
        max_bytes=settings.jobs.max_bytes,
        retention=settings.retention,
        rq=settings.rq,
        lifeline=Lifeline(settings.state_directory, place_of(settings.queue_url), portable=portable),
        load=JobTypes(settings.job_types, only=settings.jobs.types_only).job,
    )
    await queue.open()
    return queue, queue.records


async def _faktory(settings: Settings, portable: bool) -> tuple[Queue, Records]:
    from consumer.queues.faktory_open import open_faktory

    return await open_faktory(settings, portable)


_OPENERS: dict[str, Callable[[Settings, bool], Awaitable[tuple[Queue, Records]]]] = {
    "redis": _rq,
    "rediss": _rq,
    "unix": _rq,
    "faktory": _faktory,
    "faktory+tls": _faktory,
    "tcp": _faktory,
    "tcp+tls": _faktory,
}


async def open_queue(settings: Settings, *, portable: bool = True) -> tuple[Queue, Records]:
    """Connect to the queue that the settings name, and to its store of Records.

    `portable`: as the executor says. What isn't is kept for this machine's next consumer as long as that is possible.
    Raises UsageError for a URL that can't work, SetupError, QueueUnavailable while the server is away.
    """
    return await _OPENERS[scheme_of(settings.queue_url)](settings, portable)


def scheme_of(url: str) -> str:
    """The scheme of a queue URL. Raises UsageError if there is no such queue."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise UsageError(f"queue_url: can't be read: {error}") from None
    if scheme not in _OPENERS:
        raise UsageError(
            f"queue_url: the scheme '{scheme}' is unknown; use redis://, rediss:// or unix:// (RQ), "
            "faktory://, faktory+tls://, tcp:// or tcp+tls:// (Faktory)"
        )
    return scheme
