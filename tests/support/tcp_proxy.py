"""A TCP proxy that does what bad networks do: late, in small pieces, cut in the middle, or silent."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from urllib.parse import urlsplit

CHUNK = 64 * 1024


class TcpProxy:
    """`async with TcpProxy(url) as proxy:` serves the same at proxy.url. All faults can be changed at any time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._socket = parts.path if parts.scheme == "unix" else ""
        self.url = ""
        self.latency = 0.0
        """Seconds that each piece of an answer is late."""
        self.piece = CHUNK
        """Bytes that an answer is sliced into."""
        self.cut_after: int | None = None
        """Bytes of answers after which a connection is reset."""
        self.silent = False
        """Nothing goes through, and nobody is told."""
        self.away = False
        """As a server that isn't there: whoever connects is refused; what is connected stays until `cut`."""
        self.refused = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset all connections."""
        for task in self._tasks:
            task.cancel()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.away:
            self.refused += 1
            writer.transport.abort()
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            back, forth = await self._dial()
            try:
                ways = {
                    asyncio.ensure_future(self._forward(reader, forth)),
                    asyncio.ensure_future(self._answer(back, writer)),
                }
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                forth.transport.abort()
        writer.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._socket:
            return await asyncio.open_unix_connection(self._socket)
        return await asyncio.open_connection(*self._to)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if not self.silent:
                writer.write(data)
                await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await reader.read(self.piece):
            if self.latency:
                await asyncio.sleep(self.latency)
            if self.silent:
                continue
            if self.cut_after is not None and passed + len(data) > self.cut_after:
                writer.write(data[: max(0, self.cut_after - passed)])
                with contextlib.suppress(OSError):
                    await writer.drain()
                return
            passed += len(data)
            writer.write(data)
            await writer.drain()
