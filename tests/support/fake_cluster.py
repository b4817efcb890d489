"""A whole consumer on a fake API server and a real Redis: for faults of the API that jobs must not notice."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from enqueue import Job, Status, aio
from support.consuming import consuming, until
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import kubeconfig_of

Events = list[Any]


class Held:
    """A script of pods that run until they are let go, and write a line before and after."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.code = 0

    async def __call__(self, pod: FakePod) -> None:
        pod.schedule()
        pod.run()
        pod.write(b"before\n")
        await self.go.wait()
        pod.write(b"after\n")
        pod.end(self.code)


@contextlib.asynccontextmanager
async def consumer_on(
    kube: FakeKube, redis_url: str, directory: Path, *, started: bool = True, token: str | None = None, **fields: Any
) -> AsyncIterator[Events]:
    """The real app, with what it logged so far; `fields` are its settings, `kubernetes` some of its cluster's."""
    kubernetes = {"kubeconfig": str(kubeconfig_of(kube.url, directory, token)), "namespace": "jobs", "rate": 500}
    fields["kubernetes"] = kubernetes | fields.get("kubernetes", {})
    with structlog.testing.capture_logs() as events:
        async with consuming(redis_url, executor="kubernetes", **fields):
            if started:
                await until(lambda: any(e["event"] == "consumer_started" for e in events))
            yield events


async def enqueue(queue: aio.AsyncQueue, count: int, **fields: Any) -> list[aio.AsyncHandle]:
    """So many equal jobs."""
    job = Job.load({"image": "busybox", "commands": ["true"], **fields})
    return [await queue.enqueue(job) for _ in range(count)]


async def ended_well(handles: Sequence[aio.AsyncHandle], kube: FakeKube, seconds: float = 30) -> None:
    """All jobs succeed, each at its first attempt with its one pod and its whole log, and nothing is left of them."""
    async with asyncio.timeout(seconds):
        outcomes = [await handle.wait() for handle in handles]
        await kube.until(lambda kube: not kube.names("pods") and not kube.names("secrets"))
    assert collections.Counter(outcome.status for outcome in outcomes) == {Status.SUCCEEDED: len(handles)}
    for handle in handles:
        record = await handle.record()
        assert (record.attempt, len(record.attempts)) == (1, 1), record
        assert b"".join([part async for part in handle.logs()]) in (b"before\nafter\n", b"hello\n")
    assert len(kube.created) == len(set(kube.names_created)) == len(handles)
