"""Replies of Faktory's jobs, while it is away at a job's end."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

import consumer.sinks.reply as module
from enqueue.wire import faktory as wire
from support.consuming import consuming, until
from support.faktory_servers import SERVERS, Server, serving
from support.tcp_proxy import TcpProxy


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async for one in serving(request.param):
        yield one


def lines_of(reply: dict[str, Any]) -> list[str] | None:
    """The lines that it brings; None: it is the outcome."""
    chunk = reply["args"][0].get("logChunk")
    return None if chunk is None else [base64.b64decode(line).decode().split(" [0] ", 1)[1] for line in chunk]


async def is_over(redis: Redis, job: dict[str, Any]) -> bool:
    return await redis.hget(f"longshore:job:{job['jid']}", "longshore_status") == b"succeeded"


async def test_an_outage_at_a_jobs_end_loses_no_reply(
    server: Server, redis_url: str, async_redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the log comes, in order and before the outcome; what comes twice has the same jid."""
    monkeypatch.setattr(module, "UNWELL", 0.05)
    name, app = server.name(), server.name()
    commands = ["echo one"]
    for line in ("two", "three"):
        commands.append(f"while [ ! -e {tmp_path}/{line} ]; do sleep 0.05; done; echo {line}")
    payload = {"id": "x", "image": "alpine", "commands": commands}
    job = {"jid": wire.new_jid(), "queue": name, "jobtype": "legacy", "args": [payload], "retry": 25}
    await server.push(job)
    async with TcpProxy(server.url) as proxy:
        here = urlsplit(proxy.url).netloc
        parts = urlsplit(server.url)
        url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{here}".removeprefix("@")).geturl()
        faktory = {"log_interval": 0.05, "opslevel_queue": app}
        async with consuming(url, queues=(name,), records_url=redis_url, faktory=faktory):
            replies = [await until(lambda: server.fetch(app))]
            assert lines_of(replies[0]) == ["one"]
            proxy.away = True
            proxy.cut()
            (tmp_path / "two").touch()
            await until(lambda: proxy.refused)
            (tmp_path / "three").touch()
            await until(lambda: is_over(async_redis, job))
            proxy.away = False
            while lines_of(replies[-1]) is not None:
                replies.append(await until(lambda: server.fetch(app)))
    once = {reply["jid"]: reply for reply in replies}
    assert [line for reply in once.values() for line in lines_of(reply) or ()] == ["one", "two", "three"]
    assert await server.size(name) == 0
    assert await server.size(app) == 0
