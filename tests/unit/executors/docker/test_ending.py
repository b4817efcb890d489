"""Podman says 500 to a question about a container whose process ends at this moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from consumer.executors.docker import engine as module
from consumer.executors.docker.engine import Engine, EngineError
from consumer.settings import Docker

ENDING = {"message": "read /proc/14526/cgroup: no such process"}
MISSES = 2


@pytest.fixture
async def asked() -> Counter[str]:
    return Counter()


@pytest.fixture
async def engine(asked: Counter[str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    monkeypatch.setattr(module, "ENDING_SECONDS", (0.0,) * MISSES)

    async def answer(request: web.Request) -> web.Response:
        what = f"{request.method} {request.path.rsplit('/', 1)[1]}"
        asked[what] += 1
        if asked[what] <= MISSES or "stuck" in request.path:
            return web.json_response(ENDING, status=500)
        if request.method == "DELETE":
            return web.Response(status=204)
        return web.json_response([] if what == "GET json" and "/x/" not in request.path else {"Id": "x"})

    async def ping(request: web.Request) -> web.Response:
        return web.Response(headers={"Api-Version": "1.41"})

    app = web.Application()
    app.router.add_get("/_ping", ping)
    app.router.add_route("*", "/{rest:.*}", answer)
    async with TestServer(app) as server:
        engine = Engine(Docker(host=f"tcp://127.0.0.1:{server.port}"))
        await engine.ping()
        yield engine
        await engine.close()


async def test_it_is_asked_again(engine: Engine, asked: Counter[str]) -> None:
    assert await engine.inspect("x") == {"Id": "x"}
    assert asked["GET json"] == MISSES + 1
    asked.clear()
    assert await engine.list("a=b") == []
    await engine.delete("x")
    assert asked == {"GET json": MISSES + 1, "DELETE x": MISSES + 1}


async def test_one_that_stays_so_is_told(engine: Engine, asked: Counter[str]) -> None:
    with pytest.raises(EngineError, match="no such process"):
        await engine.inspect("stuck")
    assert asked["GET json"] == MISSES + 1


async def test_a_signal_to_it_isnt_needed(engine: Engine, asked: Counter[str]) -> None:
    await engine.kill("x", "SIGTERM")
    assert asked["POST kill"] == 1
