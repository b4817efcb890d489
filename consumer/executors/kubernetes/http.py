"""HTTP/1.1 for short calls, as far as an API server speaks it: at a quarter of a general client's CPU time a call.

Source of the protocol: RFC 9112. What lasts (a watch, a log that is followed) and what goes through a proxy is left to
aiohttp. There are no redirects, cookies or encodings; answers are as long as they like, and read as they come.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from consumer.executors.kubernetes.access import Access

_LONGEST_HEAD = 2**16
_MOST_HELD = 2**20
"""So many bytes of an answer wait for their reader before the server has to."""
_AT_ONCE = 2**18
"""A larger body is sent in pieces: as one it would keep the event loop from everything else."""


_HEAD, _BODY, _SIZE, _CHUNK_END, _TRAILER, _REST = range(6)
"""What comes next; the last one: all until the connection's end."""


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
        self._state, self._rest, self._left = _HEAD, b"", 0
        self._chunked = self._reusable = self._paused = self._sending = self._lost = False
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

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._pool.drop(self)
        self.resume_writing()
        if self._answer is not None:
            if self._state == _REST and error is None:
                self._whole(b"")
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
        try:
            more = self._feed(answer, self._rest + data if self._rest else data)
        except ValueError as error:
            answer.fail(Broken(f"what comes is no HTTP: {error}"))
            return
        if not more and not answer.whole and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        answer.wake()

    def _feed(self, answer: Answer, data: bytes) -> bool:
        """False: the reader has enough for now. Raises ValueError."""
        at, self._rest, more = 0, b"", True
        while True:
            if self._state == _BODY:
                part = data[at : at + self._left]
                if part:
                    at += len(part)
                    self._left -= len(part)
                    more = answer.put(part)
                if self._left:
                    return more
                if not self._chunked:
                    self._whole(data[at:])
                    return True
                self._state = _CHUNK_END
            if self._state == _REST:
                return answer.put(data[at:]) if at < len(data) else more
            mark = b"\r\n\r\n" if self._state == _HEAD else b"\r\n"
            end = data.find(mark, at)
            if end < 0:
                self._rest = data[at:]
                if len(self._rest) > _LONGEST_HEAD:
                    raise ValueError("a line without end")
                return more
            line, at = data[at:end], end + len(mark)
            if self._state == _HEAD:
                self._head(answer, line)
                if self._state == _BODY and not self._left:
                    self._whole(data[at:])
                    return True
            elif self._state == _SIZE:
                self._left = int(line.partition(b";")[0], 16)
                if self._left < 0:
                    raise ValueError("a negative size")
                self._state = _BODY if self._left else _TRAILER
            elif self._state == _CHUNK_END:
                if line:
                    raise ValueError("a chunk that is too long")
                self._state = _SIZE
            elif not line:  # the trailer's end
                self._whole(data[at:])
                return True

    def _head(self, answer: Answer, head: bytes) -> None:
        """Read it, and know how the body comes. Raises ValueError."""
        first, *lines = head.split(b"\r\n")
        if not first.startswith(b"HTTP/1."):
            raise ValueError(repr(first[:40]))
        status, length = int(first[9:12]), None
        self._reusable, self._chunked = first[7:8] != b"0", False
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                if length not in (None, int(value)):
                    raise ValueError("two lengths")
                length = int(value)
            elif name == b"transfer-encoding":
                self._chunked = value.strip().lower() == b"chunked"
                if not self._chunked:
                    raise ValueError("an unknown encoding")
            elif name == b"content-encoding" and value.strip().lower() != b"identity":
                raise ValueError("an encoding that wasn't asked for")
            elif name == b"connection" and b"close" in value.lower():
                self._reusable = False
            elif name == b"retry-after":
                answer.retry_after = value.strip().decode("latin-1")
        if 100 <= status < 200:  # the real one is still to come
            if status == 101:
                raise ValueError("another protocol")
            return
        answer.status = status
        if status in (204, 304):
            self._chunked, length = False, 0
        self._left = length or 0
        if self._left < 0:
            raise ValueError("a negative length")
        if self._chunked:
            self._state = _SIZE
        else:
            self._state = _REST if length is None else _BODY

    def _whole(self, more: bytes) -> None:
        """The answer is complete, with what comes after it: nothing, if all is well."""
        answer, self._answer, self._state = self._answer, None, _HEAD
        if self._reusable and not more and not self._sending and not self._lost:
            self._pool.keep(self)
        else:
            self.abort()
        if answer is not None:
            answer.end()
