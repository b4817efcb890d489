"""A consumer on Faktory takes a new order of its queues and new job types while it works: on the real server."""

from __future__ import annotations

import os
import secrets

import pytest

from consumer.queues.faktory_open import FaktoryWithRecords, open_faktory
from consumer.settings import load_settings
from enqueue.wire.call import Call

pytestmark = pytest.mark.faktory


async def test_weights_and_job_types(redis_url: str) -> None:
    url = os.environ.get("FAKTORY_URL")
    if not url:
        pytest.skip("FAKTORY_URL isn't set: no Faktory")
    one, other = f"a{secrets.token_hex(4)}", f"b{secrets.token_hex(4)}"
    flags = {"queue_url": url, "records_url": redis_url}
    queue, _ = await open_faktory(load_settings(queues=f"{one}=5,{other}=1", **flags), portable=True)
    assert isinstance(queue, FaktoryWithRecords)
    try:
        assert queue.order.weights == (5, 1)
        types = {"ResizeImage": {"commands": ["true"]}}
        queue.reload(load_settings(queues=f"{other},{one}", job_types=types, **flags))
        assert (queue.order.names, queue.order.weights) == ((other, one), ())
        assert queue._load(Call("ResizeImage", "jobtype", [])).commands == ("true",)
        assert await queue.claim(1) == []
    finally:
        await queue.drain()
        await queue.close()
