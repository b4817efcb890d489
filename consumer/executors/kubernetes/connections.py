"""A pool of connections for short calls."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from urllib.parse import urlsplit

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.http import Answer, Broken, Connection

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 15.0
"""A connection that was idle for longer isn't trusted any more: a load balancer may have forgotten it."""


class Pool:
    """Calls, each over a connection of its own; `limit`: so many at a time, whoever comes later waits."""

    def __init__(self, limit: int | None = None) -> None:
        self._permits = asyncio.Semaphore(limit) if limit is not None else None
        self._idle: list[Connection] = []  # the last used one last
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, access: Access, method: str, target: str, head: bytes, body: bytes, seconds: float) -> Answer:
        """Ask for a target (path and query, encoded); `head`: header lines. The answer must be closed.

        Raises OSError and TimeoutError, the latter too if the answer hasn't come as a whole within `seconds`.
        """
        where = urlsplit(access.host)
        if not where.hostname:
            raise Broken("that isn't a URL")
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        try:
            first = f"{method} {where.path}{target} HTTP/1.1\r\nHost: {where.netloc}\r\n{length}".encode("ascii")
        except UnicodeEncodeError:
            raise Broken("its name must be written in ASCII") from None
        lines = first + head + b"\r\n"
        if self._permits is not None:
            if self._permits.locked():
                async with asyncio.timeout(seconds):
                    await self._permits.acquire()
            else:
                await self._permits.acquire()
        try:
            if (connection := self._known(access)) is not None:
                try:
                    return await self._ask(connection, lines, body, seconds)
                except Broken:  # the server had enough of that connection, perhaps just now
                    if method == "POST":
                        raise
            async with asyncio.timeout(min(CONNECT_SECONDS, seconds)):
                connection = await self._connect(access)
            return await self._ask(connection, lines, body, seconds)
        except BaseException:
            self.leave()
            raise

    async def _ask(self, connection: Connection, head: bytes, body: bytes, seconds: float) -> Answer:
        answer = Answer(self, connection)
        answer.limit(seconds)
        try:
            await connection.send(answer, head, body)
        except BaseException:
            answer.limit(None)
            connection.abort()
            raise
        return answer

    def _known(self, access: Access) -> Connection | None:
        """An idle connection."""
        self._drop_old()
        to = (access.host, access.tls, access.server_name)
        while self._idle:
            connection = self._idle.pop()
            if connection.to == to:
                return connection
            connection.abort()  # host or certificates are new
        return None

    async def _connect(self, access: Access) -> Connection:
        where = urlsplit(access.host)
        connection = Connection(self, access)
        try:
            port = where.port or (443 if where.scheme == "https" else 80)
        except ValueError as error:
            raise Broken(str(error)) from None
        name = (access.server_name or where.hostname) if access.tls is not None else None
        loop = asyncio.get_running_loop()
        self._open.add(connection)
        try:
            await loop.create_connection(
                lambda: connection,
                where.hostname or "",
                port,
                ssl=access.tls,
                server_hostname=name,
                # a race of one would be no race, and asyncio's leaves its socket open if it is cut at the wrong moment
                happy_eyeballs_delay=None if _is_address(where.hostname or "") else 0.25,
            )
        except BaseException:
            connection.abort()
            raise
        return connection

    def keep(self, connection: Connection) -> None:
        """It is idle."""
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._timer is None:
            self._timer = loop.call_later(IDLE_SECONDS, self._tidy)

    def drop(self, connection: Connection) -> None:
        """It is gone, or not to be used any more."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def leave(self) -> None:
        """A call is over."""
        if self._permits is not None:
            self._permits.release()

    def close(self) -> None:
        """End all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._open):
            connection.abort()

    def _tidy(self) -> None:
        """Each idle connection holds 256 KB with TLS: they go when there is nothing to do."""
        self._timer = None
        self._drop_old()
        if self._idle:
            self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._tidy)

    def _drop_old(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._idle and self._idle[0].idle_since < now - IDLE_SECONDS:
            self._idle[0].abort()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
