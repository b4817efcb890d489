"""HTTP/1.1 for short calls, parsed by httptools.

What lasts (a watch, a log that is followed) and what goes through a proxy is left to aiohttp. There are no redirects,
cookies or encodings; answers are as long as they like, and read as they come.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from consumer.executors.kubernetes.access import Access

_LONGEST_HEAD = 2**16
_MOST_HELD = 2**20
"""So many bytes of an answer wait for their reader before the server has to."""
_AT_ONCE = 2**18
"""A larger body is sent in pieces: as one it would keep the event loop from everything else."""


class Broken(OSError):
    """The connection ended before the answer did, or what came is no answer."""


class Keeper(Protocol):
    """Where connections come from and go to."""

    def keep(self, connection: Connection) -> None:
        """It is idle."""

    def drop(self, connection: Connection) -> None:
        """It is gone, or not to be used any more."""

    def leave(self) -> None:
        """A call is over."""


class Answer:
    """An answer whose head has come; its body comes in pieces. To be closed in any case."""

    def __init__(self, pool: Keeper, connection: Connection) -> None:
        self.status = 0
        self.retry_after: str | None = None
        self.whole = False
        self._pool: Keeper | None = pool
        self._connection = connection
        self._pieces: list[bytes] = []
        self._held = 0
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def content(self) -> Answer:
        """What is read: as of a response of aiohttp."""
        return self

    async def begin(self) -> None:
        """Waits for the head."""
        while not self.status:
            await self._news()

    async def readany(self) -> bytes:
        """What has come of the body, at least one byte; nothing at its end. Raises Broken, TimeoutError."""
        while not (self._pieces or self.whole):
            await self._news()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if not self.whole:
            self._connection.go_on()
        return data

    async def read(self) -> bytes:
        """The rest of the body. Raises Broken, TimeoutError."""
        found = await self.readany()
        if self.whole and not self._pieces:
            return found
        pieces = [found]
        while found := await self.readany():
            pieces.append(found)
        return b"".join(pieces)

    def limit(self, seconds: float | None) -> None:
        """The answer must have come within so many seconds from now; None: no limit any more."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None or self.whole else loop.call_later(seconds, self.fail, TimeoutError())

    def put(self, piece: bytes) -> bool:
        """More of the body. False: that is enough for now."""
        self._pieces.append(piece)
        self._held += len(piece)
        return self._held < _MOST_HELD

    def end(self) -> None:
        """All has come."""
        self.whole = True
        self.limit(None)
        self.wake()

    def fail(self, error: BaseException) -> None:
        """No more will come."""
        if not self.whole and self._error is None:
            self._error = error
            self._connection.abort()
            self.wake()

    def wake(self) -> None:
        """There is news for whoever waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Done with it: what hasn't come by now isn't wanted."""
        if self._pool is not None:
            self.limit(None)
            if not self.whole:
                self._connection.abort()
            self._pool.leave()
            self._pool = None

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Connection(asyncio.Protocol):
    """One connection, one answer at a time."""

    def __init__(self, pool: Keeper, access: Access) -> None:
        self._pool = pool
        self.to = (access.host, access.tls, access.server_name)
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._framed = self._until_close = self._complete = self._reusable = False
        self._paused = self._sending = self._lost = False
        self._more = True
        self._problem = ""
        self._writable: asyncio.Future[None] | None = None

    def lost(self) -> bool:
        """Nothing can be asked over it any more."""
        return self._lost or (self._transport is not None and self._transport.is_closing())

    async def send(self, answer: Answer, head: bytes, body: bytes) -> None:
        """Ask, and wait for the answer's head. Raises Broken, TimeoutError."""
        if self._transport is None or self.lost():
            raise Broken("the connection was closed")
        self._answer = answer
        if len(body) <= _AT_ONCE:
            self._transport.write(head + body)
        else:
            self._sending = True
            self._transport.write(head)
            for begin in range(0, len(body), 2**16):
                if self.lost() or answer.whole:
                    break
                self._transport.write(body[begin : begin + 2**16])
                if self._writable is not None:
                    await self._writable
            self._sending = False
        await answer.begin()

    def abort(self) -> None:
        """Not to be used any more."""
        self._lost = True
        self._pool.drop(self)
        if self._transport is not None:
            self._transport.abort()

    def go_on(self) -> None:
        """There is room for more of the answer."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._lost:  # TLS goes on with a handshake that it has just begun when connecting is given up
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._transport = None  # with TLS, 256 KB: the parser and we hold each other until garbage is looked for
        self._pool.drop(self)
        self.resume_writing()
        if self._answer is not None:
            if self._until_close and error is None:
                self._whole(self._answer, reusable=False)
            else:
                self._answer.fail(Broken(str(error) if error else "the server closed the connection"))

    def eof_received(self) -> None:
        self._pool.drop(self)  # nobody else begins with it

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:  # nobody has asked
            self.abort()
            return
        self._more = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._problem = "another protocol"
        except httptools.HttpParserError as error:
            self._problem = self._problem or str(error)
        if self._complete:  # more than that is nobody's
            self._whole(answer, reusable=self._reusable and not self._problem)
            return
        if not answer.status:
            self._head_bytes += len(data)
            if self._head_bytes > _LONGEST_HEAD:
                self._problem = "a head without end"
        if self._problem:
            self.abort()
            answer.fail(Broken(f"what comes is no HTTP: {self._problem}"))
            return
        if not self._more and not answer.whole and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        answer.wake()

    # --- what httptools finds

    def on_message_begin(self) -> None:
        self._framed = False
        if self._complete:
            self._problem = "more than was asked for"

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-length":
            self._framed = True
        elif name == b"transfer-encoding":
            self._framed = True
            if value.strip().lower() != b"chunked":
                self._problem = "an unknown encoding"
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            self._problem = "an encoding that wasn't asked for"
        elif name == b"retry-after" and self._answer is not None and not self._answer.status:
            self._answer.retry_after = value.strip().decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._answer is not None:  # before, the real one is still to come
            self._answer.status = status
            self._until_close = not self._framed and status not in (204, 304)

    def on_body(self, body: bytes) -> None:
        if self._answer is not None and not self._complete and not self._problem:
            self._more = self._answer.put(body)

    def on_message_complete(self) -> None:
        self._complete = self._answer is not None and self._answer.status > 0 and not self._problem
        self._reusable = self._parser.should_keep_alive()  # it is no longer known after this call

    def _whole(self, answer: Answer, reusable: bool) -> None:
        self._answer, self._head_bytes, self._complete = None, 0, False
        if reusable and not self._sending and not self._lost:
            self._pool.keep(self)
        else:
            self.abort()
        answer.end()
