"""A thin client of the Kubernetes API: dicts in, dicts out, and the retries that every call needs.

Source of the protocol: https://kubernetes.io/docs/reference/using-api/api-concepts/
Calls and streams have pools of their own, so that a thousand open logs never hold up a create.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, overload
from urllib.parse import quote, urlencode

import aiohttp
from pydantic_core import to_json
from yarl import URL

from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api_error import LONGEST_MESSAGE
from consumer.executors.kubernetes.api_error import ApiError as ApiError
from consumer.executors.kubernetes.api_error import error_of as error_of
from consumer.executors.kubernetes.connections import Pool
from consumer.executors.kubernetes.http import Answer
from consumer.executors.kubernetes.limits import Budget
from consumer.executors.kubernetes.tally import Tally

T = TypeVar("T")

CALL_SECONDS = 30.0
RETRY_FIRST, RETRY_CAP = 0.2, 15.0
HOLD_CAP = 5.0
"""So many seconds at most wait all calls when one is answered with 429 and Retry-After."""
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "longshore"}
_PLAIN = re.compile(r"[a-z0-9-]+", re.ASCII)


def path_of(namespace: str, *parts: str) -> str:
    """The URL path of core/v1 objects of a namespace; every part is percent-encoded."""
    encoded = (part if _PLAIN.fullmatch(part) else quote(part, safe="") for part in (namespace, *parts))
    return "/".join(("/api/v1/namespaces", *encoded))


class Api:
    """Talks to one API server. Made inside a running loop; `close` frees its connections.

    `rate` is the number of requests a second (with a burst of twice that), `creates` that of creates among them,
    `patience` the seconds for which a call is tried again while the server doesn't answer or refuses for a while.
    """

    def __init__(
        self,
        access: Access,
        *,
        rate: float = 100.0,
        creates: float | None = None,
        patience: float = 60.0,
    ) -> None:
        self.access = access
        self.patience = patience
        self.tally = Tally()
        self._all, self._creates = Budget(rate), Budget(creates or rate)
        self._calls, self._reads = Pool(64), Pool()
        self._head: tuple[str | None, bytes] = (None, _head(None))
        self._connector = _Connector(limit=0)
        self._streams = aiohttp.ClientSession(
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=None),
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=2**20,
        )

    async def close(self) -> None:
        """Free the connections."""
        self._calls.close()
        self._reads.close()
        await self._streams.close()
        self._connector.abort()
        await asyncio.sleep(0)  # sockets close in the event loop's next round

    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        patience: float | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, Any]: ...

    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        patience: float | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
        read: Callable[[bytes], T],
    ) -> T: ...

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | bytes | None = None,
        patience: float | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
        read: Callable[[bytes], Any] = answers.whole,
    ) -> Any:
        """One call, tried again while its failure may pass; `before` each try, something may still raise.

        `body`: an object, or JSON. `read` makes the result of the body of the answer, and raises ValueError if that
        isn't what was asked for.

        A repeated create of a named object is safe: the second one is answered with AlreadyExists, which the caller
        resolves by looking. Raises ApiError.
        """
        data = body if body is None or isinstance(body, bytes) else to_json(body)
        until = time.monotonic() + (self.patience if patience is None else patience)
        delay = RETRY_FIRST
        while True:
            if before is not None:
                await before()
            try:
                return await self._call(method, path, query, data, read)
            except ApiError as error:
                if not error.passing:
                    raise
                # Whoever is told the same moment must not come at the same moment.
                pause = (error.retry_after or 0) + random.uniform(0, delay)
                if time.monotonic() + pause > until:
                    raise
                delay = min(RETRY_CAP, delay * 2)
                self.tally.again(method, path)
            await asyncio.sleep(pause)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        read: Callable[[bytes], T],
    ) -> T:
        for again in (False, True):
            asked = time.monotonic()
            if method == "POST":
                await self._creates.take()
            await self._all.take()
            token = await self.access.authorization()
            sent, status = time.monotonic(), 0
            try:
                status, text, retry_after = await self._answer(method, path, query, data, token)
                if status < 400:
                    return _read(status, text, read)
                error = self._refusal(status, text, retry_after)
            except (aiohttp.ClientError, OSError, TimeoutError) as problem:
                raise self._unreachable(problem) from None
            finally:
                self.tally.count(method, path, status, time.monotonic() - sent, sent - asked)
            if error.status != 401 or again or not await self.access.renew(token):
                raise error
        raise AssertionError("unreachable")

    async def _answer(
        self, method: str, path: str, query: Mapping[str, str] | None, data: bytes | None, token: str | None
    ) -> tuple[int, bytes, str | None]:
        """Status, body, Retry-After."""
        if self._beside_aiohttp:
            head, target = self._headers(token), path + _query(query)
            answer = await self._calls.ask(self.access, method, target, head, data or b"", CALL_SECONDS)
            try:
                return answer.status, await answer.read(), answer.retry_after
            finally:
                answer.close()
        limits = aiohttp.ClientTimeout(total=CALL_SECONDS, sock_connect=5)
        arguments = self._arguments(path, query, token)
        async with self._streams.request(method, **arguments, data=data, timeout=limits) as response:
            return response.status, await response.read(), response.headers.get("Retry-After")

    @property
    def _beside_aiohttp(self) -> bool:
        return self.access.proxy is None and "@" not in self.access.host

    def _headers(self, token: str | None) -> bytes:
        if self._head[0] != token:
            self._head = (token, _head(token))
        return self._head[1]

    @asynccontextmanager
    async def fetch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Answer | aiohttp.ClientResponse]:
        """A GET whose body is read as it comes, over a connection that others use before and after. Raises ApiError."""
        if not self._beside_aiohttp:
            async with self.stream(path, query) as response:
                yield response
            return
        asked = time.monotonic()
        await self._all.take()
        token = await self.access.authorization()
        sent, status, target = time.monotonic(), 0, path + _query(query)
        try:
            answer = await self._reads.ask(self.access, "GET", target, self._headers(token), b"", CALL_SECONDS)
            status = answer.status
        except (OSError, TimeoutError) as problem:
            raise self._unreachable(problem) from None
        finally:
            self.tally.count("GET", path, status, time.monotonic() - sent, sent - asked)
        try:
            if answer.status >= 400:
                try:
                    text = await answer.read()
                except (OSError, TimeoutError):
                    text = b""
                if answer.status == 401:
                    await self.access.renew(token)
                raise self._refusal(answer.status, text, answer.retry_after)
            answer.limit(None)
            yield answer
        finally:
            answer.close()

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, sock_read: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A GET whose body is read as it comes; `sock_read` is the longest silence in seconds. Raises ApiError."""
        asked = time.monotonic()
        await self._all.take()
        token = await self.access.authorization()
        sent, status = time.monotonic(), 0
        limits = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=sock_read)
        arguments = self._arguments(path, query, token)
        try:
            # The headers come at once from a server that lives: a log's too, before its first byte.
            async with asyncio.timeout(CALL_SECONDS):
                response = await self._streams.get(**arguments, timeout=limits)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as problem:
            raise self._unreachable(problem) from None
        finally:
            self.tally.count("GET", path, status, time.monotonic() - sent, sent - asked, watch="watch" in query)
        try:
            if response.status >= 400:
                try:
                    async with asyncio.timeout(CALL_SECONDS):
                        text = await response.read()
                except (aiohttp.ClientError, OSError, TimeoutError):
                    text = b""
                if response.status == 401:
                    await self.access.renew(token)
                raise self._refusal(response.status, text, response.headers.get("Retry-After"))
            _keep_alive(response)
            yield response
        finally:
            response.close()

    def _arguments(self, path: str, query: Mapping[str, str] | None, token: str | None) -> dict[str, Any]:
        url = self.access.host + path + _query(query)
        arguments: dict[str, Any] = {"url": URL(url, encoded=True), "allow_redirects": False}
        if token:
            arguments["headers"] = {"Authorization": token}
        if self.access.tls is not None:
            arguments["ssl"] = self.access.tls
        if self.access.server_name:
            arguments["server_hostname"] = self.access.server_name
        if self.access.proxy:
            arguments["proxy"] = self.access.proxy
        return arguments

    def _refusal(self, status: int, body: bytes, retry_after: str | None) -> ApiError:
        error = error_of(status, body, retry_after)
        if status == 429:
            self._all.hold(min(HOLD_CAP, error.retry_after or 0))
        return error

    def _unreachable(self, problem: BaseException) -> ApiError:
        cause: BaseException | None = getattr(problem, "os_error", None) or problem
        if isinstance(problem, TimeoutError):
            why = "no answer in time"
        elif isinstance(cause, ConnectionRefusedError) or "Connect call failed" in str(cause):
            why = "connection refused"
        else:
            why = (str(cause) or type(cause).__name__)[:LONGEST_MESSAGE]
        return ApiError(0, "Unreachable", f"no Kubernetes API at {self.access.place}: {why}")


class _Connector(aiohttp.TCPConnector):
    """Leaves no connection open: TLS waits for the server's goodbye, also where nobody waits for TLS any more."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)
        self._transports: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        if connection.transport is not None:
            self._transports.add(connection.transport)
        return connection

    def abort(self) -> None:
        """End what `close` only says goodbye to."""
        for transport in self._transports:
            transport.abort()


def _query(query: Mapping[str, str] | None) -> str:
    return "?" + urlencode(query, quote_via=quote) if query else ""


def _head(token: str | None) -> bytes:
    """Header lines. Raises OSError for a token that can't stand in one."""
    given = dict(_HEADERS) | ({"Authorization": token} if token else {})
    if token and not (token.isprintable() and token.isascii()):
        raise OSError("the token isn't one line of plain text")
    return "".join(f"{name}: {value}\r\n" for name, value in given.items()).encode("ascii")


def _read(status: int, body: bytes, read: Callable[[bytes], T]) -> T:
    try:
        return read(body)
    except ValueError:
        raise ApiError(502, "", f"the answer (HTTP {status}) isn't JSON: is a proxy in the way?") from None


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """TCP keep-alive: a silent log may be a quiet pod or a dead connection, and only the kernel can tell."""
    transport = response.connection.transport if response.connection else None
    connection = transport.get_extra_info("socket") if transport else None
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
