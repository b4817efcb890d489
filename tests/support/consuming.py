"""A whole consumer inside a test: the real app on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

from consumer.app import run_consumer
from consumer.settings import load_settings


@contextlib.asynccontextmanager
async def consuming(queue_url: str, **flags: Any) -> AsyncIterator[asyncio.Task[None]]:
    """A consumer that works until the block is left; its own failure fails the test."""
    flags.setdefault("executor", "process")
    flags.setdefault("name", f"test-{uuid.uuid4().hex[:8]}")
    flags.setdefault("shutdown_grace", 0)
    settings = load_settings(queue_url=queue_url, **flags)
    stop = asyncio.Event()
    task = asyncio.create_task(run_consumer(settings, stop))
    try:
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await task


async def until(condition: Any, seconds: float = 60) -> Any:
    """Waits until `condition()` (may be async) is true; its value. For what no event tells."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)
