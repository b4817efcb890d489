"""Replies of Faktory's jobs, while it is away for a part of a job or at its end."""

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
from support.faktory_servers import JOB, SERVERS, Server, serving
from support.tcp_proxy import TcpProxy


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async for one in serving(request.param):
        yield one


def job_of(kind: str, queue: str, app: str, commands: list[str]) -> dict[str, Any]:
    if kind == "legacy":
        payload = {"id": "x", "image": "alpine", "commands": commands}
        return {"jid": wire.new_jid(), "queue": queue, "jobtype": "legacy", "args": [payload], "retry": 25}
    job = wire.build_job(JOB.model_copy(update={"commands": tuple(commands), "reply_to": app}), queue)
    job["custom"]["reply_logs"] = True
    return job


def lines_of(reply: dict[str, Any]) -> list[str] | None:
    """Of a job with a part of the log; None: of the outcome."""
    (said,) = reply["args"]
    if "logChunk" in said:
        return [base64.b64decode(line).decode().split(" [0] ", 1)[1] for line in said["logChunk"]]
    return said["text"].splitlines() if "text" in said else None


async def is_over(redis: Redis, job: dict[str, Any]) -> bool:
    return await redis.hget(f"longshore:job:{job['jid']}", "longshore_status") == b"succeeded"


@pytest.mark.parametrize(("kind", "over"), [("legacy", "after its end"), ("own", "while the job runs")])
async def test_an_outage_loses_no_reply(
    server: Server,
    redis_url: str,
    async_redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    over: str,
) -> None:
    """All of the log comes, in order and before the outcome; what comes twice has the same jid."""
    monkeypatch.setattr(module, "UNWELL", 0.05)
    name, app = server.name(), server.name()
    commands = ["echo one"]
    for line in ("two", "three"):
        commands.append(f"while [ ! -e {tmp_path}/{line} ]; do sleep 0.05; done; echo {line}")
    job = job_of(kind, name, app, commands)
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
            if over == "after its end":
                (tmp_path / "three").touch()
                await until(lambda: is_over(async_redis, job))
            proxy.away = False
            while lines_of(replies[-1]) is not None:
                replies.append(await until(lambda: server.fetch(app)))
                if lines_of(replies[-1]) == ["two"]:
                    (tmp_path / "three").touch()
    once = {reply["jid"]: reply for reply in replies}
    assert [line for reply in once.values() for line in lines_of(reply) or ()] == ["one", "two", "three"]
    assert await server.size(name) == 0
    assert await server.size(app) == 0
