"""A job that runs longer than Faktory's reservation, on the real server: about two minutes, as its shortest is one."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import pytest
import structlog

from enqueue import Job, Status, aio
from enqueue.backends.faktory_aio import AsyncFaktoryClient
from enqueue.wire import faktory as wire
from support.consuming import consuming, until

pytestmark = pytest.mark.faktory

CAME_AGAIN = {"claim_adopted", "job_is_run_by_another_consumer"}


async def test_a_job_that_outlives_its_reservation_runs_once_and_is_over_when_it_ends(
    redis_url: str, tmp_path: Path
) -> None:
    url = os.environ.get("FAKTORY_URL")
    if not url:
        pytest.skip("FAKTORY_URL isn't set: no Faktory")
    name, go, runs = f"longshore-test-{secrets.token_hex(6)}", tmp_path / "go", tmp_path / "runs"
    script = f"echo run >> {runs}; until test -e {go}; do sleep 0.2; done"
    job = wire.build_job(Job(commands=[script], retries=2), name) | {"reserve_for": 60}
    flags = {"records_url": redis_url, "queues": name}
    async with (
        AsyncFaktoryClient(url) as client,
        consuming(url, **flags),
        consuming(url, **flags),
        aio.connect(url, records=redis_url, queue=name) as producer,
    ):
        with structlog.testing.capture_logs() as events:
            await client.push(job)
            handle = producer.handle(job["jid"])
            await until(lambda: any(e["event"] in CAME_AGAIN and e["job_id"] == job["jid"] for e in events), 240)
            assert await handle.status() is Status.RUNNING
            go.touch()
            outcome = await handle.wait(60)
        assert outcome.succeeded
        assert (await handle.record()).attempt == 1
        assert await asyncio.to_thread(runs.read_text) == "run\n"
        sizes = (await client.info())["faktory"]["queues"]
        assert sizes.get(name, 0) == 0
