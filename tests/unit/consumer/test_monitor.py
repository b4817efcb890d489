"""The port of /metrics and the probes: what it answers, to whom, and when it says that something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest

from consumer import monitor as monitor_module
from consumer.errors import SetupError
from consumer.health import Health
from consumer.monitor import Monitor, verdict
from consumer.worker import now


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server with one page that says what is accepted."""

    async def page(accept: str) -> tuple[HTTPStatus, bytes, str]:
        return HTTPStatus.OK, accept.encode(), "text/x"

    monitor = Monitor({"/page": page})
    yield await monitor.listen("127.0.0.1", 0)
    await monitor.close()


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


async def test_pages(port: int) -> None:
    got = await ask(port, b"GET /page?x=1 HTTP/1.1\r\nHost: x\r\nACCEPT: a/b\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 3\r\n")
    assert got.endswith(b"\r\n\r\na/b")
    assert (await ask(port, b"HEAD /page HTTP/1.1\r\nAccept: a/b\r\n\r\n")).endswith(b"Connection: close\r\n\r\n")
    assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
    assert (await ask(port, b"POST /page HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
    assert (await ask(port, b"\x00\r\n\r\n")).startswith(b"HTTP/1.1 405 ")


async def test_who_asks_for_too_much_or_never_finishes(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await ask(port, b"GET /page HTTP/1.1\r\nX: " + b"x" * monitor_module.HEAD + b"\r\n\r\n") == b""
    monkeypatch.setattr(monitor_module, "PATIENCE", 0.05)
    assert await ask(port, b"GET /page") == b""


async def test_a_port_that_is_taken(port: int) -> None:
    with pytest.raises(SetupError, match=f"metrics_port: can't listen on 127.0.0.1:{port}: "):
        await Monitor({}).listen("127.0.0.1", port)


def test_verdicts() -> None:
    assert verdict([], "fine") == (HTTPStatus.OK, b"fine\n", "text/plain; charset=utf-8")
    assert verdict(["a", "b"], "fine")[:2] == (HTTPStatus.SERVICE_UNAVAILABLE, b"a\nb\n")


def health(**changes: Any) -> Any:
    """A consumer that is well, but for these."""
    stopping = asyncio.Event()
    if changes.pop("quiet", False):
        stopping.set()
    executor = SimpleNamespace(trouble=changes.pop("cluster", None))
    facts = {"stopped": False, "trouble": None, "heard": now() - changes.pop("silence", 0)} | changes
    return Health(executor, worker=SimpleNamespace(queue=SimpleNamespace(stopping=stopping), **facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, []),
        ({"stopped": True, "quiet": True}, ["draining: it was told to stop"]),
        ({"quiet": True}, ["quiet: it was told to claim nothing more"]),
        ({"cluster": "quota"}, ["executor: quota"]),
        ({"trouble": "no Redis"}, ["queue: no Redis"]),
        ({"silence": 33.3}, ["queue: it has taken no heartbeat for 33 s"]),
        ({"cluster": "a", "trouble": "b", "silence": 33}, ["executor: a", "queue: b"]),
    ],
)
def test_ready(changes: dict[str, Any], why: list[str]) -> None:
    assert health(**changes).unready() == why


async def test_alive_through_an_outage_but_not_without_a_heart() -> None:
    async def answers() -> None:
        pass

    async def away() -> None:
        raise ConnectionError

    stale = health(silence=90)
    stale.ask_queue = away
    assert await stale.dead() == []
    stale.ask_queue = answers
    assert await stale.dead() == ["no heartbeat for 90 s although the queue answers"]
    assert await health(silence=59).dead() == []
    assert Health(SimpleNamespace()).unready() == ["starting: waiting for the executor"]  # type: ignore[arg-type]
