"""One face for the fake Faktory and the real one, so that one contract suite sees the same of both."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import secrets
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from consumer.model import Claim, Settlement, Verdict
from consumer.queues.faktory import FaktoryQueue
from enqueue.backends.faktory_aio import AsyncFaktoryClient, dial
from enqueue.job import Job
from enqueue.record import Outcome, Record, Status
from enqueue.wire import faktory as wire
from support.fake_faktory import FakeFaktory

Kind = Literal["retries", "dead", "scheduled"]
_PAGES = {"retries": "retries", "dead": "morgue", "scheduled": "scheduled"}


@dataclass(frozen=True)
class Entry:
    """A job in one of Faktory's sets, as an operator sees it."""

    errtype: str = ""
    message: str = ""
    backtrace: str = ""


class Server:
    """A Faktory server that tests share: queue names are random, and `clean` removes what was left in them."""

    def __init__(self, url: str, fake: FakeFaktory | None) -> None:
        self.url = url
        self.fake = fake
        self.client = AsyncFaktoryClient(url)
        self._names: list[str] = []
        self._jids: list[str] = []

    def name(self) -> str:
        """A new queue's name."""
        self._names.append(f"longshore-test-{secrets.token_hex(6)}")
        return self._names[-1]

    async def push(self, *jobs: dict[str, Any]) -> None:
        """Enqueue."""
        self._jids += [job["jid"] for job in jobs]
        assert await self.client.push_many(jobs) == {}

    async def size(self, queue: str) -> int:
        """Jobs that wait in the queue."""
        return int((await self.client.info())["faktory"]["queues"].get(queue, 0))

    async def fetch(self, queue: str) -> dict[str, Any] | None:
        """Take a job as another consumer would, and ACK it."""
        connection = await dial(wire.parse_url(self.url))
        try:
            (reply,) = await connection.exchange([wire.fetch([queue])])
            assert reply is None or isinstance(reply, bytes)
            job = json.loads(reply) if reply else None
            if job:
                await connection.exchange([wire.ack(job["jid"])])
        finally:
            await connection.close()
        return job

    async def entry(self, kind: Kind, jid: str) -> Entry | None:
        """The job's entry in a set, or None. Of the real server: what its web pages show."""
        if self.fake is None:
            return await asyncio.to_thread(self._from_web, kind, jid)
        found = [job for job in getattr(self.fake, kind) if job["jid"] == jid]
        assert len(found) < 2
        if not found:
            return None
        failure = found[0].get("failure", {})
        text = "\n".join(failure.get("backtrace", []))
        return Entry(failure.get("errtype", ""), failure.get("message", ""), text)

    def _from_web(self, kind: Kind, jid: str) -> Entry | None:
        parts = urllib.parse.urlsplit(self.url)
        base = os.environ.get("FAKTORY_WEB_URL", f"http://{parts.hostname}:7420")
        page = _PAGES[kind]
        for number in range(1, 100):
            text = _get(f"{base}/{page}?page={number}")
            found = re.search(rf'href="/{page}/([^"|]*\|{jid})"', text)
            if found:
                break
            if f"page={number + 1}" not in text:
                return None
        else:
            return None
        text = _get(f"{base}/{page}/{urllib.parse.quote(html.unescape(found[1]), safe='|:')}")
        errtype = re.search(r"Error Class</th>\s*<td>\s*<code>(.*?)</code>", text, re.DOTALL)
        message = re.search(r"Error Message</th>\s*<td>(.*?)</td>", text, re.DOTALL)
        lines = re.search(r"Error Backtrace</th>\s*<td>\s*<code>(.*?)</code>", text, re.DOTALL)
        backtrace = "\n".join(line.strip() for line in lines[1].split("<br/>")).strip() if lines else ""
        return Entry(*(html.unescape(m[1]).strip() if m else "" for m in (errtype, message)), html.unescape(backtrace))

    async def clean(self) -> None:
        """Leave nothing of ours behind, on the real server."""
        if self.fake is None:
            connection = await dial(wire.parse_url(self.url))
            for jid in dict.fromkeys(self._jids):
                await connection.exchange(
                    [
                        wire.ack(jid),
                        *(wire.mutate("discard", kind, jid=jid) for kind in ("retries", "dead", "scheduled")),
                    ]
                )
            if self._names:
                await connection.exchange([wire.queue("REMOVE", self._names)])
            await connection.close()
        await self.client.close()


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


JOB = Job(image="alpine:3.20", commands=("true",), retries=3)
SERVERS = ["fake", pytest.param("real", marks=pytest.mark.faktory)]
"""Parameters of a fixture `server`."""

Open = Callable[..., Awaitable[FaktoryQueue]]


async def serving(kind: str) -> AsyncIterator[Server]:
    """The fixture `server`: the fake one, or the one that FAKTORY_URL names."""
    if kind == "fake":
        async with FakeFaktory() as fake:
            server = Server(fake.url, fake)
            yield server
            await server.clean()
        return
    url = os.environ.get("FAKTORY_URL")
    if not url:
        pytest.skip("FAKTORY_URL names no server")
    server = Server(url, None)
    yield server
    await server.clean()


async def opening(url: str) -> AsyncIterator[Open]:
    """The fixture `opened`: opens queues, and closes them after the test."""
    queues: list[FaktoryQueue] = []

    async def open_queue(*names: str, **options: Any) -> FaktoryQueue:
        given: dict[str, Any] = {"records": None, "consumer": "tests", "max_bytes": 1_000_000, "patience": 0.01}
        queue = FaktoryQueue(url, names, **(given | options))
        queues.append(queue)
        await queue.open()
        return queue

    yield open_queue
    for queue in queues:
        await queue.drain()
        await queue.close()


async def claim_all(queue: FaktoryQueue, count: int, slots: int = 1000) -> list[Claim]:
    """Claim until there are so many."""
    claims: list[Claim] = []
    while len(claims) < count:
        got = await queue.claim(min(slots, count - len(claims)))
        assert len(got) <= slots
        claims += got
    return claims


def ended(claim: Claim, verdict: Verdict = Verdict.DONE, **outcome: Any) -> Settlement:
    """A claim's end; `text` and `infrastructure` are the settlement's, all else the outcome's."""
    text = outcome.pop("text", "")
    infrastructure = outcome.pop("infrastructure", False)
    status = Status.SUCCEEDED if verdict is Verdict.DONE else Status.FAILED
    record = Record(id=claim.id, queue=claim.queue, attempt=claim.attempt, status=status)
    return Settlement(claim, verdict, Outcome(status=status, **outcome), record, text, infrastructure)
