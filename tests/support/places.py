"""Both queues with one face for the tests of producers: where it is, a consumer there, a producer there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import enqueue
from enqueue import aio
from enqueue.backends.faktory_aio import AsyncFaktoryClient
from support.consuming import consuming
from support.fake_faktory import FakeFaktory

PLACES = ["rq", "fake", pytest.param("faktory", marks=pytest.mark.faktory)]
"""Parameters of a fixture `place`."""


@dataclass
class Place:
    """A queue somewhere, and how to get there."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)
    queue: str = field(default_factory=lambda: f"longshore-test-{secrets.token_hex(6)}")

    @property
    def nobodys(self) -> str:
        """A queue that no consumer asks."""
        return f"{self.queue}-nobody"

    @property
    def rq(self) -> bool:
        """It is RQ's."""
        return not self.options

    def consumer(self, **flags: Any) -> contextlib.AbstractAsyncContextManager[Any]:
        """A consumer of this queue."""
        records = {"records_url": self.options["records"]} if self.options else {}
        flags.setdefault("queues", self.queue)
        return consuming(self.url, **records, **flags)

    def producer(self) -> aio.AsyncProducer:
        """An async producer for this queue."""
        return aio.connect(self.url, queue=self.queue, **self.options)

    def sync_producer(self) -> enqueue.Producer:
        """A sync one."""
        return enqueue.connect(self.url, queue=self.queue, **self.options)


async def placing(kind: str, redis_url: str) -> AsyncIterator[Place]:
    """The fixture `place`: RQ, the fake Faktory, or the one that FAKTORY_URL names."""
    if kind == "rq":
        yield Place(redis_url)
    elif kind == "fake":
        async with FakeFaktory(punctual=True) as server:
            yield Place(server.url, {"records": redis_url})
    elif url := os.environ.get("FAKTORY_URL"):
        place = Place(url, {"records": redis_url})
        yield place
        async with AsyncFaktoryClient(url) as client:
            for name in (place.queue, place.nobodys):
                await client.queue("REMOVE", name)
    else:
        pytest.skip("FAKTORY_URL names no server")
