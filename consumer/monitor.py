"""Serves /metrics, /healthz and /readyz: three pages, GET alone, in the consumer's own event loop.

That an answer comes shows that the loop turns; a thread of its own would answer for a consumer that hangs. HTTP/1.1 as
far as probes and Prometheus need it, on the standard library: a web framework would be a third of our start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

from consumer.errors import SetupError

HEAD = 16 * 1024
"""Bytes of a request's head at most."""
PATIENCE = 10.0
"""Seconds until a request must have come, and until its answer must have gone."""
CONNECTIONS = 64
"""At a time; further ones are closed at once."""

Page = Callable[[str], Awaitable[tuple[HTTPStatus, bytes, str]]]
"""Makes a page of the header Accept: its status, content and content type."""


class Monitor:
    """The server of a few pages. `pages`: by path."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def listen(self, address: str, port: int) -> int:
        """Begin (0: on a free port); returns the port. Raises SetupError."""
        try:
            self._server = await asyncio.start_server(self._accept, address, port, limit=HEAD)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise SetupError(f"metrics_port: can't listen on {address}:{port}: {why}") from None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) <= CONNECTIONS:
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._answer(head.decode("latin-1").split("\r\n")))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, or asks for too much
        except asyncio.CancelledError:
            pass  # we are closing; nobody waits for this task's end
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, lines: Sequence[str]) -> bytes:
        method, target = (*lines[0].split(" "), "", "")[:2]
        page, accept = self._pages.get(target.partition("?")[0]), ""
        for line in lines[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "accept":
                accept = value.strip()
        kind = "text/plain; charset=utf-8"
        if method not in ("GET", "HEAD"):
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is answered here\n"
        elif page is None:
            status, body = HTTPStatus.NOT_FOUND, f"there are {', '.join(self._pages)}\n".encode()
        else:
            status, body, kind = await page(accept)
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + (b"" if method == "HEAD" else body)


def verdict(problems: Sequence[str], good: str) -> tuple[HTTPStatus, bytes, str]:
    """A probe's page: `good`, or a line for each problem."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, "".join(f"{line}\n" for line in (problems or [good])).encode(), "text/plain; charset=utf-8"
