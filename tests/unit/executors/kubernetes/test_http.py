"""The client for short calls, against a server that says exactly what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.executors.kubernetes import connections
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.connections import Pool
from consumer.executors.kubernetes.http import Answer, Broken, Connection
from consumer.tasks import end

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nRetry-After:  3 \r\n\r\n"
    b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
)
FIRST_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + PLAIN


class Deaf:
    """A transport that keeps nothing."""

    aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Kept:
    """A pool of which only is known what it was given back."""

    kept = False

    def keep(self, connection: Connection) -> None:
        self.kept = True

    def drop(self, connection: Connection) -> None: ...

    def leave(self) -> None: ...


async def fed(pieces: list[bytes]) -> tuple[Answer, bytes, bool]:
    """The answer, its body, and whether its connection can be used again."""
    pool = Kept()
    connection = Connection(pool, Access("http://x"))
    connection.connection_made(cast(asyncio.BaseTransport, Deaf()))
    answer = Answer(pool, connection)
    asking = asyncio.create_task(connection.send(answer, b"", b""))
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
    connection.connection_lost(None)
    await asking
    return answer, await answer.read(), pool.kept


@given(st.data())
def test_where_an_answer_is_cut_makes_no_difference(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([PLAIN, CHUNKED, FIRST_HINTS]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    answer, body, kept = asyncio.run(fed(pieces))
    assert (answer.status, body, kept) == (200, b"hello", True)
    assert answer.retry_after == ("3" if whole is CHUNKED else None)


@pytest.mark.parametrize(
    ("said", "body", "kept"),
    [
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nx", b"x", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", False),
        (b"HTTP/1.1 200 OK\r\n\r\nall until the end", b"all until the end", False),
        (PLAIN + b"and more", b"hello", False),
    ],
)
async def test_how_a_body_ends(said: bytes, body: bytes, kept: bool) -> None:
    assert (await fed([said]))[1:] == (body, kept)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"",
    ],
)
async def test_what_is_no_whole_answer_is_broken(said: bytes) -> None:
    with pytest.raises(Broken):
        await fed([said])


Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def serving(behave: Behave) -> AsyncIterator[tuple[Access, list[int]]]:
    """A server; the list holds the number of each connection."""
    opened: list[int] = []
    handling: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(len(opened))
        try:
            await behave(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.create_task(handle(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        yield Access(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/at/a/path"), opened
        await end(*handling)


async def ask(pool: Pool, access: Access, method: str = "GET", body: bytes = b"", seconds: float = 20) -> bytes:
    """One call: status and body."""
    answer = await pool.ask(access, method, "/x", b"", body, seconds)
    try:
        return b"%d " % answer.status + await answer.read()
    finally:
        answer.close()


async def test_a_connection_is_used_again_until_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(CHUNKED)

    pool = Pool(1)
    async with serving(behave) as (access, opened):
        assert [await ask(pool, access) for _ in range(3)] == [b"200 hello"] * 3
        assert len(opened) == 1
        host = access.host.removeprefix("http://").partition("/")[0].encode()
        assert asked[0] == b"GET /at/a/path/x HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        monkeypatch.setattr(connections, "IDLE_SECONDS", -1)
        await ask(pool, access)
        assert len(opened) == 2
        pool.close()


async def test_an_idle_connection_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PLAIN)
        with contextlib.suppress(OSError):
            await reader.read()
        gone.set()

    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.01)
    pool = Pool(1)
    async with serving(behave) as (access, _):
        await ask(pool, access)
        await asyncio.wait_for(gone.wait(), 20)
        pool.close()


async def test_a_connection_that_is_gone_holds_its_transport_no_more() -> None:
    connection, transport = Connection(Kept(), Access("http://x")), Deaf()
    left = weakref.ref(transport)
    connection.connection_made(cast(asyncio.BaseTransport, transport))
    connection.abort()
    assert transport.aborted
    del transport
    connection.connection_lost(None)
    assert left() is None
    assert connection.lost()


async def test_a_connection_that_the_server_has_left_costs_one_try_but_of_a_create() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PLAIN)
        await reader.readuntil(b"\r\n\r\n")  # and goes without a word

    pool = Pool(1)
    async with serving(behave) as (access, opened):
        await ask(pool, access)
        assert await ask(pool, access) == b"200 hello"
        assert len(opened) == 2
        with pytest.raises(Broken):
            await ask(pool, access, "POST", b"x")
        assert await ask(pool, access) == b"200 hello"
        assert len(opened) == 3
        pool.close()


async def test_a_large_body_to_a_slow_server_and_an_answer_before_its_end() -> None:
    body = b"x" * 5_000_000

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"PUT" in head:
            assert len(await reader.readexactly(len(body))) == len(body)
        writer.write(PLAIN)
        await writer.drain()

    pool = Pool(1)
    async with serving(behave) as (access, _):
        assert await ask(pool, access, "PUT", body) == b"200 hello"
        with contextlib.suppress(Broken):  # the server may close before what it said is read
            assert await ask(pool, access, "POST", body) == b"200 hello"
        assert await ask(pool, access) == b"200 hello"  # the only place is free again
        pool.close()


async def test_an_answer_without_end_waits_for_its_reader_and_is_given_up() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(500 if b"GET" in head else 1):
            writer.write(b"x" * 100_000)
            await writer.drain()
        await reader.read()

    pool = Pool(1)
    async with serving(behave) as (access, _):
        assert len(await ask(pool, access)) == 50_000_004
        with pytest.raises(TimeoutError):
            await ask(pool, access, "PUT", b"x", 0.2)
        answer = await pool.ask(access, "GET", "/x", b"", b"", 20)
        assert (await answer.readany()).strip(b"x") == b""
        with pytest.raises(TimeoutError):  # the only place is taken
            await pool.ask(access, "GET", "/x", b"", b"", 0.1)
        answer.close()
        answer = await pool.ask(access, "GET", "/x", b"", b"", 20)
        answer.close()
        pool.close()


async def test_an_address_that_is_none_is_told() -> None:
    for host in ("127.0.0.1:1", "http://x:y/", "https://\u00fcber.example"):
        with pytest.raises(Broken):
            await Pool(1).ask(Access(host), "GET", "/x", b"", b"", 1)
