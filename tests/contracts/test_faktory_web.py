"""What Faktory's own web pages show of us, and that its buttons are obeyed: on the real server."""

from __future__ import annotations

import asyncio
import html
import os
import re
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator

import pytest

from consumer.model import Verdict
from enqueue.wire import faktory as wire
from support.consuming import until
from support.faktory_servers import JOB, Open, Server, claim_all, ended, opening, serving

pytestmark = pytest.mark.faktory


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async for one in serving("real"):
        yield one


@pytest.fixture
async def opened(server: Server) -> AsyncIterator[Open]:
    async for open_queue in opening(server.url):
        yield open_queue


async def page(server: Server, path: str, **form: str) -> str:
    """A page as text, its tags taken out; with a form, the answer to its POST."""
    host = urllib.parse.urlsplit(server.url).hostname
    base = os.environ.get("FAKTORY_WEB_URL", f"http://{host}:7420")
    data = urllib.parse.urlencode(form).encode() if form else None

    def get() -> str:
        with urllib.request.urlopen(f"{base}{path}", data, timeout=60) as answer:
            return html.unescape(re.sub(r"<[^>]*>|\s+", " ", answer.read().decode()))

    return re.sub(r" +", " ", await asyncio.to_thread(get))


async def test_the_busy_page_shows_the_consumer_and_its_job(server: Server, opened: Open) -> None:
    name = server.name()
    job = wire.build_job(JOB, name)
    await server.push(job)
    queue = await opened(name, consumer="consumer-7", labels=("team-blue",), beat_every=0.1)
    await claim_all(queue, 1)

    async def shown() -> str | None:
        text = await page(server, "/busy")
        return text if re.search(rf"{queue.worker.wid} .*?[1-9][\d.]* [KMG]B", text) else None

    text = await until(shown, 60)
    process = text[text.index(queue.worker.wid) :]
    assert f"{queue.worker.hostname}:{os.getpid()}" in process
    assert "consumer-7" in process
    assert "team-blue" in process
    row = text[text.index(job["jid"]) :]
    assert name in row[:400]
    assert "longshore.job" in row[:400]
    assert "alpine:3.20" in row[:600]


@pytest.mark.parametrize("signal", ["quiet", "terminate"])
async def test_the_buttons_are_obeyed_on_every_connection(server: Server, opened: Open, signal: str) -> None:
    name = server.name()
    jobs = [wire.build_job(JOB, name) for _ in range(24)]
    await server.push(*jobs)
    queue = await opened(name, fetch_connections=4, beat_every=0.1)
    claims = await claim_all(queue, 24)
    assert sum(fetcher.usable for fetcher in queue._fetchers) > 1
    await page(server, "/busy", wid=queue.worker.wid, signal=signal)
    await until(lambda: queue.quiet)
    assert queue.terminated.is_set() is (signal == "terminate")
    await server.push(*(wire.build_job(JOB, name) for _ in range(8)))
    assert await queue.claim(50) == []
    assert await queue.drain() == []
    assert await server.size(name) == 8
    assert await queue.settle([ended(claim) for claim in claims]) == {}
    text = await page(server, "/busy")
    assert not any(job["jid"] in text for job in jobs)


@pytest.mark.parametrize(("verdict", "where"), [(Verdict.RETRY, "retries"), (Verdict.BURY, "morgue")])
async def test_the_page_of_a_failed_job_says_why(server: Server, opened: Open, verdict: Verdict, where: str) -> None:
    name = server.name()
    job = wire.build_job(JOB, name) | {"custom": {"customer": "blue-42"}}
    await server.push(job)
    queue = await opened(name)
    (claim,) = await claim_all(queue, 1)
    text = "line one\nConnection refused"
    why = {"reason": "exit_code", "message": "exited with code 3", "hint": "Its log says why."}
    assert await queue.settle([ended(claim, verdict, text=text, **why)]) == {}
    entry = await server.entry("retries" if verdict is Verdict.RETRY else "dead", job["jid"])
    assert entry is not None
    assert (entry.errtype, entry.message) == ("exit_code", "exited with code 3 Its log says why.")
    assert entry.backtrace == text
    overview = ""
    for number in range(1, 100):
        overview = await page(server, f"/{where}?page={number}")
        if name in overview:
            break
    row = overview[overview.index(name) :][:600]
    assert "longshore.job" in row
    assert "alpine:3.20" in row
    assert "exit_code: exited with code 3" in row


async def test_a_paused_queue_gives_nothing_until_it_goes_on(server: Server, opened: Open) -> None:
    name = server.name()
    await server.push(wire.build_job(JOB, name))
    await server.client.queue("PAUSE", name)
    queue = await opened(name)
    try:
        assert await queue.claim(5) == []
    finally:
        await server.client.queue("RESUME", name)
    assert len(await claim_all(queue, 1)) == 1


async def test_a_scheduled_job_comes_when_it_is_due(server: Server, opened: Open) -> None:
    name = server.name()
    job = wire.build_job(JOB, name, at=1.0)  # long due: the server puts it into its queue at once
    later = wire.build_job(JOB, name, at=4_000_000_000.0)
    await server.push(job, later)
    queue = await opened(name)
    (claim,) = await claim_all(queue, 1)
    assert claim.id == job["jid"]
    assert await server.entry("scheduled", later["jid"]) is not None
    assert await queue.settle([ended(claim)]) == {}


async def test_queues_by_weight_are_asked_by_turns(server: Server, opened: Open) -> None:
    heavy, light = server.name(), server.name()
    await server.push(*(wire.build_job(JOB, name) for name in (heavy, light) for _ in range(120)))
    queue = await opened(f"{heavy}=5", f"{light}=1")
    first = await claim_all(queue, 100)
    count = sum(claim.queue == light for claim in first)
    assert 2 <= count <= 45  # 16.7 expected; strict order gives none, even turns 50
    rest = await claim_all(queue, 140)
    assert len({claim.id for claim in (*first, *rest)}) == 240
