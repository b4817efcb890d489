"""Redis as the queues use it: connections, what is passing, one script many times."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import (
    AuthenticationError,
    ClusterError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from consumer.errors import SetupError
from consumer.queues.packing import packing
from enqueue.errors import QueueUnavailable, UsageError
from enqueue.wire import records as wire

T = TypeVar("T")
Item = TypeVar("Item")
log = structlog.get_logger()

CONNECTIONS = 64
"""Connections of one client at most; whoever needs one more waits for it."""

_TRANSIENT = re.compile(  # 6.2 has the word within the text of a script's error
    r"(^|-)(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|OOM|BUSY|TRYAGAIN|MISCONF|NOREPLICAS|UNKILLABLE)\b"
)
_REFUSED = re.compile("Authentication required|username-password|no permissions|DB index")
"""Within the text of what redis-py calls a ConnectionError."""


def transient(error: BaseException) -> bool:
    """This may go away by itself: no connection, a server that starts, a replica, no memory."""
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
        return True
    if isinstance(error, (ReadOnlyError, OutOfMemoryError, ClusterError, TryAgainError)):  # their texts lack the word
        return True
    return isinstance(error, ResponseError) and _TRANSIENT.search(str(error)) is not None


async def patiently(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until the server takes it; says so once, and when it works again."""
    delay, told = 0.2, False
    while True:
        try:
            result = await attempt()
        except RedisError as error:
            if not transient(error):
                raise
            if not told:
                log.warning("redis_unavailable", doing=what, error=wire.without_secrets(str(error)))
                told = True
            await asyncio.sleep(delay)
            delay = min(5.0, delay * 2)
        else:
            if told:
                log.info("redis_back", doing=what)
            return result


async def run_all(redis: Redis, script: Any, calls: Sequence[tuple[list[Any], list[Any]]]) -> list[Any]:
    """Run one script many times in one round trip. Raises RedisError for what concerns the whole batch."""
    answers: list[Any] = [None] * len(calls)
    todo: Sequence[int] = range(len(calls))
    for known in (True, False):
        if not known:  # the server forgot it: it was restarted
            await redis.script_load(script.script)
        async with redis.pipeline(transaction=False) as pipe:  # not with Script's help: it asks each time what is known
            for i in todo:
                keys, args = calls[i]
                pipe.evalsha(script.sha, len(keys), *keys, *args)
            for i, answer in zip(todo, await pipe.execute(raise_on_error=False), strict=True):
                answers[i] = answer
        todo = [i for i in todo if isinstance(answers[i], NoScriptError)]
        if not todo:
            break
    for answer in answers:
        if isinstance(answer, RedisError) and transient(answer):
            raise answer
    return answers


async def run_each(
    redis: Redis, script: Any, make: Callable[[Item], tuple[list[Any], list[Any]]], items: Sequence[Item]
) -> list[Any]:
    """`run_all` with the keys and arguments that `make` has for each item; what fails for one is its answer alone."""
    answers: list[Any] = []
    calls: list[tuple[list[Any], list[Any]]] = []
    for item in items:
        try:
            calls.append(make(item))
            answers.append(None)
        except Exception as error:  # a bug of ours, or a value that nobody can store: it must not cost the others
            answers.append(error)
    found = iter(await run_all(redis, script, calls))
    return [next(found) if answer is None else answer for answer in answers]


async def connect(url: str) -> Redis:
    """An asyncio Redis client with bounded waits.

    Raises UsageError, QueueUnavailable or SetupError, which name the place and never a password.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            wire.ours_to_choose(url),
            max_connections=CONNECTIONS,
            timeout=None,
            socket_connect_timeout=5,
            socket_timeout=30,
            health_check_interval=30,
            client_name="longshore",
            protocol=2,
        )
    except ValueError as error:
        raise UsageError(f"the Redis URL can't be read: {wire.without_secrets(str(error))}") from None
    pool.connection_class = packing(pool.connection_class)
    redis: Redis = Redis.from_pool(pool)
    try:
        await redis.ping()
    except RedisError as error:
        await redis.aclose()
        raise unusable(url, error) from None
    return redis


def unusable(url: str, error: RedisError) -> QueueUnavailable | SetupError:
    """Why we can't begin to work with a server: it isn't there now, or it won't have us as we are."""
    said = wire.without_secrets(str(error))
    if isinstance(error, AuthenticationError) or _REFUSED.search(said) or not transient(error):
        return SetupError(f"Redis at {wire.place_of(url)} refuses us: {said}")
    return QueueUnavailable(f"no Redis at {wire.place_of(url)}: {said}")
