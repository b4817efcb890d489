"""Webhooks of RQ's jobs: sent at the end, tried again, and only to where the operator allows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis
import rq
from aiohttp import web

from consumer.model import Verdict
from consumer.queues.rq import RqQueue
from consumer.settings import Retention, Rq
from support.consuming import until
from support.rq_jobs import FAILURE, JOB, SUCCESS, claimed, ended


def make_queue(url: str, rq: Rq) -> RqQueue:
    return RqQueue(url, ("q",), consumer="c1", max_bytes=100_000, retention=Retention(), rq=rq, patience=0.1)


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[RqQueue]:
    opened = make_queue(redis_url, Rq(callback_queue="app"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def stock(redis_client: redis.Redis) -> rq.Queue:
    return rq.Queue("q", connection=redis_client)


@pytest.fixture
async def hooks() -> AsyncIterator[Any]:
    """A web server that remembers what it is told, and answers as its path says."""
    seen: list[tuple[str, str, dict[str, str], Any]] = []

    async def take(request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        seen.append((request.method, request.path, dict(request.headers), body))
        status = 503 if request.path == "/once" and len(seen) == 1 else 302 if request.path == "/elsewhere" else 200
        return web.Response(status=status, headers={"Location": "/stolen"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}", seen  # type: ignore[union-attr]
    await runner.cleanup()


webhooks = pytest.mark.skipif(not hasattr(rq, "Webhook"), reason="this rq has no webhooks")


@webhooks
async def test_webhooks_say_how_the_job_ended(
    queue: RqQueue, stock: rq.Queue, redis_client: redis.Redis, hooks: Any
) -> None:
    url, seen = hooks
    wanted = [
        rq.Webhook(f"{url}/good", "finished"),
        rq.Webhook(f"{url}/bad", "failed", method="POST", headers={"X-Token": "t"}),
    ]
    good = stock.enqueue("longshore.job", JOB, webhooks=wanted, result_ttl=0)
    bad = stock.enqueue("longshore.job", JOB, webhooks=wanted, retry=rq.Retry(max=1))
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE)])
    await queue.settle([ended(await claimed(queue), FAILURE, Verdict.RETRY)])
    await queue.settle([ended(await claimed(queue), FAILURE, Verdict.BURY)])
    await until(lambda: not redis_client.exists("longshore:webhooks"))
    (_, path, _, body), (method, _, headers, told) = sorted(seen)
    assert (path, body) == ("/good", None)
    assert (method, headers["X-Token"], headers["Content-Type"]) == ("POST", "t", "application/json")
    assert set(told) == {"job_id", "func_name", "status", "enqueued_at", "ended_at", "exc_info"}
    assert (told["job_id"], told["func_name"], told["status"]) == (bad.id, "longshore.job", "failed")
    assert told["exc_info"].startswith("exit_code: exited with code 3")
    assert good.id not in str(told)


@webhooks
async def test_a_webhook_is_tried_again_and_never_led_elsewhere(
    queue: RqQueue, stock: rq.Queue, redis_client: redis.Redis, hooks: Any
) -> None:
    url, seen = hooks
    stock.enqueue("longshore.job", JOB, webhooks=[rq.Webhook(f"{url}/once", "finished", method="POST")])
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE)])
    await until(lambda: any(b'"tries": 1' in entry for entry in redis_client.zrange("longshore:webhooks", 0, -1)))
    (entry,) = redis_client.zrange("longshore:webhooks", 0, -1)
    redis_client.zadd("longshore:webhooks", {entry: 0})
    await until(lambda: not redis_client.exists("longshore:webhooks"))
    assert [path for _, path, _, _ in seen] == ["/once", "/once"]
    stock.enqueue("longshore.job", JOB, webhooks=[rq.Webhook(f"{url}/elsewhere", "finished")])
    await queue.settle([ended(await claimed(queue), SUCCESS, Verdict.DONE)])
    await until(lambda: len(seen) == 3 and not redis_client.exists("longshore:webhooks"))
    assert "/stolen" not in [path for _, path, _, _ in seen]


@webhooks
async def test_a_webhook_whose_consumer_died_is_sent_by_another_and_hosts_are_the_operators_choice(
    redis_url: str, redis_client: redis.Redis, hooks: Any
) -> None:
    url, seen = hooks
    hook = {"url": f"{url}/left", "job_status": "finished", "method": "GET", "headers": None, "timeout": 5}
    left = json.dumps({"call": "x-0", "tries": 0, "hook": hook, "body": {"job_id": "j"}})
    odd = ["nothing", json.dumps({"call": "y", "tries": 0, "hook": {"url": "file:///etc/passwd"}, "body": {}})]
    redis_client.zadd("longshore:webhooks", {left: 0, **dict.fromkeys(odd, 0)})
    queue = make_queue(redis_url, rq=Rq(webhooks="127.0.0.1"))
    await queue.open()
    await until(lambda: not redis_client.exists("longshore:webhooks"))
    assert [path for _, path, _, _ in seen] == ["/left"]
    await queue.close()
    redis_client.zadd("longshore:webhooks", {left: 0})
    strict = make_queue(redis_url, rq=Rq(webhooks="hooks.example.org"))
    await strict.open()
    await until(lambda: not redis_client.exists("longshore:webhooks"))
    assert len(seen) == 1
    await strict.close()
