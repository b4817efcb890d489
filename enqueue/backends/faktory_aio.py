"""Faktory for asyncio: one connection with replies in the order of the commands, and the producer's async client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar

from enqueue.backends.faktory_client import (
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    Exchange,
    informing,
    mutating,
    pushing,
    pushing_many,
    tls_context,
    unreachable,
)
from enqueue.errors import ProtocolError
from enqueue.wire import faktory as wire
from enqueue.wire.resp import Replies, Reply

T = TypeVar("T")
Done = Callable[[list[Reply] | Exception], None]


class Connection(asyncio.Protocol):
    """A connection that several tasks may use at once: commands are written ahead, replies come in their order.

    A task that is cancelled while it waits harms nobody: its replies are read and dropped. `limit`: the largest
    reply in bytes that is kept whole.
    """

    def __init__(self, limit: int = 64 * 1024 * 1024) -> None:
        self._replies = Replies(limit)
        self._waiting: deque[tuple[Done, list[Reply], int]] = deque()
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def usable(self) -> bool:
        """It stands, as far as known."""
        return self._error is None

    def start(self, commands: Sequence[bytes], replies: int | None = None) -> asyncio.Future[list[Reply]]:
        """Write the commands now; the future gets all their replies, ConnectionError or ProtocolError."""
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        if self._error is not None or self._transport is None:
            future.set_exception(self._error or ConnectionError("not connected"))
            return future
        self._waiting.append((partial(_resolve, future), [], len(commands) if replies is None else replies))
        if commands:
            self._transport.write(b"".join(commands))
        return future

    def call(self, command: bytes, done: Done) -> None:
        """Write a command now; `done` gets the list with its reply as soon as that is read, or the error.

        It is called while the connection reads: it must be quick, and it may call again.
        """
        if self._error is not None or self._transport is None:
            asyncio.get_running_loop().call_soon(done, self._error or ConnectionError("not connected"))
            return
        self._waiting.append((done, [], 1))
        self._transport.write(command)

    async def exchange(self, commands: Sequence[bytes], timeout: float = READ_TIMEOUT) -> list[Reply]:
        """Write the commands and wait for their replies. Raises ConnectionError, TimeoutError or ProtocolError."""
        try:
            async with asyncio.timeout(timeout):
                return await self.start(commands)
        except TimeoutError:
            self.abort()
            raise

    def abort(self, error: Exception | None = None) -> None:
        """Drop the connection at once: all who wait get the error."""
        if self._error is None:
            self._error = error or ConnectionAbortedError("the connection was given up")
            if self._transport is not None:
                self._transport.abort()
        while self._waiting:
            done, _, _ = self._waiting.popleft()
            done(self._error)

    async def close(self) -> None:
        """Say goodbye and wait until the connection is gone."""
        if self._transport is not None and self._error is None:
            self._transport.write(wire.END)
            self._transport.close()
            self._error = ConnectionAbortedError("the connection was closed")
        self.abort()
        if self._transport is not None:
            await asyncio.wait([self._closed], timeout=1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        try:
            replies = self._replies.feed(data)
        except ProtocolError as error:
            self.abort(error)
            return
        for reply in replies:
            if not self._waiting:
                self.abort(ProtocolError("Faktory: a reply came that nobody had asked for"))
                return
            done, got, wanted = self._waiting[0]
            got.append(reply)
            if len(got) == wanted:
                self._waiting.popleft()
                done(got)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self.abort(ConnectionResetError("the connection was lost" if exc else "the server closed the connection"))
        if not self._closed.done():
            self._closed.set_result(None)


def _resolve(future: asyncio.Future[list[Reply]], answer: list[Reply] | Exception) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


async def dial(
    address: wire.Address,
    worker: wire.Worker | None = None,
    *,
    limit: int = 64 * 1024 * 1024,
    timeout: float = CONNECT_TIMEOUT,
    ca_file: str | None = None,
) -> Connection:
    """Connect and shake hands. `ca_file`: as `tls_context` has it.

    Raises QueueUnavailable (Unwelcome if refused) or ProtocolError; UsageError for a `ca_file` that can't be used.
    """
    context = tls_context(ca_file) if address.tls else None
    loop = asyncio.get_running_loop()
    connection = Connection(limit)
    try:
        async with asyncio.timeout(timeout):
            await loop.create_connection(lambda: connection, address.host, address.port, ssl=context)
            (greeting,) = await connection.start([], 1)
            (reply,) = await connection.start([wire.hello(greeting, address, worker)])
            wire.welcomed(reply, address)
    except OSError as error:
        connection.abort()
        raise unreachable(address, error) from None
    except BaseException:
        connection.abort()
        raise
    return connection


class AsyncFaktoryClient:
    """The asyncio twin of `FaktoryClient`: the same methods, errors and promises."""

    def __init__(self, url: str, *, connect_timeout: float = CONNECT_TIMEOUT, timeout: float = READ_TIMEOUT) -> None:
        self.address = wire.parse_url(url)
        self._connect_timeout, self._timeout = connect_timeout, timeout
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dialing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"AsyncFaktoryClient({str(self.address)!r})"

    async def push(self, job: Mapping[str, Any]) -> None:
        """Enqueue a job made by `enqueue.wire.faktory.build_job`."""
        await self._run(pushing(job))

    async def push_many(self, jobs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Enqueue many, a thousand in one round trip; {jid: error} of those that were refused."""
        return await self._run(pushing_many(jobs))

    async def info(self) -> dict[str, Any]:
        """The server's INFO."""
        return await self._run(informing())

    async def mutate(
        self,
        command: Literal["kill", "discard", "requeue"],
        target: Literal["retries", "dead", "scheduled"],
        *,
        jid: str = "",
        jobtype: str = "",
    ) -> None:
        """Change entries of a set by jid or job type. Raises UsageError without either."""
        await self._run(mutating(wire.mutate(command, target, jid=jid, jobtype=jobtype)))

    async def queue(self, verb: Literal["PAUSE", "RESUME", "REMOVE"], *names: str) -> None:
        """Pause, resume or remove queues."""
        await self._run(mutating(wire.queue(verb, names)))

    async def close(self) -> None:
        """Say goodbye. The client may be used again."""
        connection, self._connection = self._connection, None
        if connection is not None and self._loop is asyncio.get_running_loop():
            await connection.close()

    async def __aenter__(self) -> AsyncFaktoryClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[T]) -> T:
        try:
            commands = next(exchange)
            while True:
                commands = exchange.send(await self._carry(commands))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _carry(self, commands: Sequence[bytes]) -> list[Reply]:
        try:
            try:
                return await (await self._connected()).exchange(commands, self._timeout)
            except ConnectionError:
                return await (await self._connected()).exchange(commands, self._timeout)
        except OSError as error:
            raise unreachable(self.address, error) from None

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # a former loop's connection can't be used here
            self._loop, self._connection, self._dialing = loop, None, asyncio.Lock()
        async with self._dialing:
            if self._connection is None or not self._connection.usable:
                self._connection = await dial(self.address, timeout=self._connect_timeout)
            return self._connection
