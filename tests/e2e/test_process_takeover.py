"""Jobs that run as processes and outlive their consumer: on real Redis, with consumers as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from enqueue import Job, Limit, Status, aio
from support.consuming import consuming, until
from support.fake_faktory import FakeFaktory


def start(url: str, cwd: Path, *args: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "enqueue.cli", "run", "--queue-url", url, "--executor", "process", *args]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=cwd)


def counting(folder: Path) -> Job:
    """Counts its runs, and lines until it is told to end."""
    script = [
        f"echo run >> {folder}/runs",
        f"i=0; until test -e {folder}/go; do i=$((i+1)); echo line $i; echo $i > {folder}/i; sleep 0.01; done",
        "echo lines=$i > $LONGSHORE_OUTCOME",
    ]
    return Job(commands=script)


def counted(folder: Path) -> int:
    try:
        return int((folder / "i").read_text() or 0)
    except FileNotFoundError:
        return 0


async def read(parts: object) -> bytes:
    return b"".join([part async for part in parts])  # type: ignore[attr-defined]


async def whole_story(handle: aio.AsyncHandle, folder: Path) -> None:
    """It ran once, has one outcome, and its log has no hole and no repeat."""
    (folder / "go").touch()
    outcome = await handle.wait(60)
    record = await handle.record()
    assert (outcome.status, outcome.reason, outcome.exit_code) == (Status.SUCCEEDED, None, 0), outcome
    lines = counted(folder)
    assert outcome.variables == {"lines": str(lines)}
    assert (await read(handle.logs())).decode().split("\n") == [*(f"line {i + 1}" for i in range(lines)), ""]
    assert (record.log.lines, record.log.gaps, record.log.complete) == (lines, (), "no_gap_seen")
    assert [(attempt.attempt, attempt.status) for attempt in record.attempts] == [(1, Status.SUCCEEDED)]
    assert (folder / "runs").read_text() == "run\n"


@pytest.mark.parametrize("kind", ["rq", "faktory"])
async def test_a_consumer_killed_hard_leaves_its_jobs_running_for_the_next_one(
    kind: str, redis_url: str, tmp_path: Path, state_home: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url, records = redis_url, None
        if kind == "faktory":
            url, records = (await stack.enter_async_context(FakeFaktory())).url, redis_url
        queue = await stack.enter_async_context(aio.connect(url, records=records))
        handle = await queue.enqueue(counting(tmp_path))
        first = start(url, tmp_path, *(["--records-url", records] if records else []))
        async with contextlib.aclosing(handle.logs(follow=True)) as log:
            await anext(log)  # a part of the log is stored
        first.kill()
        first.wait()
        before = counted(tmp_path)
        await until(lambda: counted(tmp_path) > before + 20)
        async with consuming(url, records_url=records):
            await whole_story(handle, tmp_path)
    attempts = (state_home / "longshore").glob("*/attempt.json")
    assert not [path for path in attempts if handle.id in path.read_text()]


async def test_a_consumer_told_to_stop_leaves_its_jobs_running_for_the_next_one(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_SHUTDOWN_GRACE", "0")
    async with aio.connect(redis_url) as queue:
        handle = await queue.enqueue(counting(tmp_path))
        first = start(redis_url, tmp_path)
        async with contextlib.aclosing(handle.logs(follow=True)) as log:
            await anext(log)

        async def runs() -> bool:
            return await handle.status() is Status.RUNNING

        await until(runs)
        first.terminate()
        assert await asyncio.to_thread(first.wait, 30) == 0
        before = counted(tmp_path)
        await until(lambda: counted(tmp_path) > before + 20)
        assert await handle.status() is Status.RUNNING
        async with consuming(redis_url):
            await whole_story(handle, tmp_path)


@pytest.mark.parametrize("kind", ["rq", "faktory"])
async def test_a_job_whose_consumer_is_killed_keeps_its_place_until_it_ends(
    kind: str, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url, records = redis_url, None
        if kind == "faktory":
            faktory = await stack.enter_async_context(FakeFaktory(punctual=True))
            url, records = faktory.url, redis_url
        queue = await stack.enter_async_context(aio.connect(url, records=records))
        limit = Limit(key="db")
        handle = await queue.enqueue(counting(tmp_path).model_copy(update={"limit": limit}))
        first = start(url, tmp_path, *(["--records-url", records] if records else []))
        async with contextlib.aclosing(handle.logs(follow=True)) as log:
            await anext(log)  # it runs
        first.kill()
        first.wait()
        if kind == "faktory":  # the answer to a dead consumer's FETCH would be the second job
            await until(lambda: not faktory.fetching)
        second = await queue.enqueue(Job(commands=["true"], limit=limit))
        async with consuming(url, records_url=records):
            await until(lambda: redis_client.zcard("longshore:parked:db") == 1, 60)
            assert redis_client.hlen("longshore:limit:db") == 1
            await whole_story(handle, tmp_path)
            assert (await second.wait(60)).status is Status.SUCCEEDED
            ended, begun = (await handle.record()).times.ended, (await second.record()).times.started
            assert ended is not None
            assert begun is not None
            assert begun > ended
            await until(lambda: not redis_client.keys("longshore:limit*"))


async def test_what_ended_while_nobody_was_there_is_told(redis_url: str, tmp_path: Path) -> None:
    async with aio.connect(redis_url) as queue:
        handle = await queue.enqueue(Job(commands=[f"echo $$ > {tmp_path}/pid; echo up; sleep 600", "true"]))
        first = start(redis_url, tmp_path)
        async with contextlib.aclosing(handle.logs(follow=True)) as log:
            await anext(log)
        first.kill()
        first.wait()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGSEGV)
        async with consuming(redis_url):
            outcome = await handle.wait(60)
        assert (outcome.status, outcome.reason, outcome.exit_code) == (Status.FAILED, "signal", 139)


async def test_where_jobs_go_with_their_consumer_they_are_ended_even_if_it_is_killed(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_PROCESS_DETACH", "false")
    async with aio.connect(redis_url) as queue:
        job = Job(commands=[f"trap 'touch {tmp_path}/told; exit 1' TERM", "echo up", "while :; do sleep 0.05; done"])
        handle = await queue.enqueue(job)
        first = start(redis_url, tmp_path)
        async with contextlib.aclosing(handle.logs(follow=True)) as log:
            await anext(log)
        first.kill()
        first.wait()
        await until((tmp_path / "told").exists)
        async with consuming(redis_url):
            outcome = await handle.wait(60)
        assert (outcome.status, outcome.reason) == (Status.FAILED, "consumer_lost")
