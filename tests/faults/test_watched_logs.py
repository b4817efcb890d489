"""Logs that no stream is free for: live for whoever follows them, else read at their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enqueue import Status, aio, connect
from support.consuming import until
from support.fake_cluster import Held, consumer_on, ended_well, enqueue
from support.fakekube import FakeKube


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with FakeKube("jobs", script=Held()) as kube:
        yield kube


def asked(kube: FakeKube) -> list[str]:
    return [row.query["follow"] for row in kube.ledger if row.sub == "log" and "follow" in row.query]


async def test_a_job_that_nobody_follows_is_read_at_its_end(kube: FakeKube, redis_url: str, tmp_path: Path) -> None:
    fields = {"kubernetes": {"log_streams": 0}}
    async with consumer_on(kube, redis_url, tmp_path, **fields), aio.connect(redis_url) as queue:
        handles = await enqueue(queue, 2)
        await until(lambda: _running(handles))
        assert asked(kube) == []
        kube.script.go.set()
        await ended_well(handles, kube)
    assert asked(kube) == ["false", "false"]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_a_job_that_somebody_follows_is_live(kube: FakeKube, redis_url: str, tmp_path: Path, sync: bool) -> None:
    """The job can't end before its first line was seen by its reader."""

    def first_then_rest() -> bytes:
        with connect(redis_url) as queue:
            parts = []
            for part in queue.handle(watched.id).logs(follow=True):
                parts.append(part)
                if b"before\n" in b"".join(parts):
                    loop.call_soon_threadsafe(kube.script.go.set)
            return b"".join(parts)

    loop = asyncio.get_running_loop()
    fields = {"kubernetes": {"log_streams": 0}}
    async with consumer_on(kube, redis_url, tmp_path, **fields), aio.connect(redis_url) as queue:
        watched, other = handles = await enqueue(queue, 2)
        await until(lambda: _running(handles))
        async with asyncio.timeout(30):
            if sync:
                log = await asyncio.to_thread(first_then_rest)
            else:
                log = b""
                async for part in watched.logs(follow=True):
                    log += part
                    if b"before\n" in log:
                        kube.script.go.set()
        assert log == b"before\nafter\n"
        await ended_well([watched, other], kube)
    assert sorted(asked(kube)) == ["false", "true"]


async def _running(handles: list[aio.AsyncHandle]) -> bool:
    return all([await handle.status() is Status.RUNNING for handle in handles])
