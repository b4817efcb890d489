"""What a job says of itself while it runs, on both queues."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from enqueue import Job, Record, Variable
from enqueue.backends.faktory_client import FaktoryClient
from enqueue.record import Progress, Status
from enqueue.show import Bar
from support.consuming import until
from support.places import PLACES, Place, placing


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Place]:
    async for found in placing(request.param, redis_url):
        yield found
        if request.param == "faktory":
            with FaktoryClient(found.url) as client:
                client.queue("REMOVE", found.queue)


async def test_progress_and_variables_are_seen_while_the_job_runs(place: Place, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = Job(
        commands=[
            "echo ::progress 40 copying $S; echo ::set-outcome-var part=1; echo text",
            f"until [ -e {go} ]; do sleep 0.05; done",
            "echo ::progress 100%; echo ::progress 101 no; echo ::progress soon",
        ],
        variables=[Variable(name="S", value="s3cret-s3cret", sensitive=True)],
    )
    records: list[Record] = []
    async with place.producer() as producer, place.consumer():
        handle = await producer.enqueue(job)
        waiting = asyncio.create_task(handle.wait(60, seen=records.append))

        async def told() -> Progress | None:
            return await handle.progress()

        progress = await until(told)
        assert (progress.percent, progress.message) == (40.0, "copying ***")
        assert progress.at is not None

        async def has_variables() -> bool:
            return await handle.variables() == {"part": "1"}

        await until(has_variables)
        assert (await handle.record()).status is Status.RUNNING
        assert (await handle.explain()).causes[-1].text == "40 % copying ***"
        go.touch()
        assert (await waiting).succeeded
        final = await handle.progress()
        assert final is not None
        assert (final.percent, final.message) == (100.0, None)
        log = b"".join([part async for part in handle.logs()])
    assert log == b"text\n::progress 101 no\n::progress soon\n"
    assert 40.0 in [record.progress.percent for record in records if record.progress]


async def test_a_new_try_begins_without_progress(place: Place) -> None:
    job = Job(commands=["if [ $LONGSHORE_ATTEMPT = 1 ]; then echo ::progress 50; exit 1; fi"], retries=1)
    async with place.producer() as producer:
        handle = await producer.enqueue(job)
        async with place.consumer():

            async def failed_once() -> bool:
                return len((await handle.record()).attempts) >= 1

            await until(failed_once)
            record = await handle.record()
            assert record.progress is None


def test_a_bar_shows_what_the_record_says() -> None:
    out = io.StringIO()
    with Bar(Console(file=out, force_terminal=True, width=100)) as bar:
        bar.show(Record(id="j"))
        assert out.getvalue() == ""
        bar.show(Record(id="j", progress=Progress(percent=40, message="[red]x")))
        bar._bar.refresh()
    assert "40%" in out.getvalue()
    assert "[red]x" in out.getvalue()
