"""Small helpers for tests of the kubernetes executor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from consumer.executors.kubernetes.news import News
from consumer.model import Gap, LogPart, Plan
from enqueue.job import Job


def kubeconfig_of(url: str, directory: Path, token: str | None = None) -> Path:
    """A kubeconfig for a server without TLS."""
    path = directory / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


def plan_of(
    job_id: str = "job-1",
    *,
    attempt: int = 1,
    timeout: float | None = 60,
    start_timeout: float = 30,
    grace: float = 1,
    begun: bool = False,
    **fields: Any,
) -> Plan:
    """A Plan of a small Job."""
    if not {"commands", "entrypoint", "args"} & fields.keys():
        fields["commands"] = ["true"]
    job = Job.load({"image": "busybox", **fields})
    return Plan(job_id, "default", attempt, "consumer-1", job, timeout, start_timeout, grace, begun)


async def read(chunks: AsyncIterator[LogPart], seconds: float = 30) -> bytes:
    """The whole log, which must have no gap."""
    parts = await parts_of(chunks, seconds)
    assert not [part for part in parts if isinstance(part, Gap)]
    return b"".join(part for part in parts if isinstance(part, bytes))


async def parts_of(chunks: AsyncIterator[LogPart], seconds: float = 30) -> list[LogPart]:
    """All that a log brings."""

    async def all_of_it() -> list[LogPart]:
        return [part async for part in chunks]

    return await asyncio.wait_for(all_of_it(), seconds)


class Steady:
    """A container whose state the test sets."""

    def __init__(self, readable: bool = True, ended: bool = True) -> None:
        self.is_readable, self.is_ended = readable, ended
        self.told = News()
        self.finished_at: float | None = None
        self.is_watched = False

    def readable(self) -> bool:
        return self.is_readable

    def ended(self) -> bool:
        return self.is_ended

    def set(self, readable: bool = True, ended: bool = True) -> None:
        self.is_readable, self.is_ended = readable, ended
        self.told.tell()

    def ended_at(self) -> float | None:
        return self.finished_at

    def watched(self) -> bool:
        return self.is_watched

    async def changed(self, timeout: float | None = None) -> None:
        await self.told.wait(timeout)

    def news(self) -> asyncio.Future[None]:
        return self.told.next()
