"""What an operator's signals do to a consumer and to the jobs that it runs: real processes, real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enqueue import Job, Status, aio
from support.consuming import consuming, until


def start(url: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "enqueue.cli", "run", "--queue-url", url, "--executor", "process"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stderr=log, cwd=folder)


@contextlib.asynccontextmanager
async def running(url: str, folder: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], aio.AsyncHandle]]:
    """A consumer with a job that ends when a file `go` is there."""
    consumer = start(url, folder)
    try:
        async with aio.connect(url) as queue:
            handle = await queue.enqueue(Job(commands=[f"until test -e {folder}/go; do sleep 0.02; done", "echo end"]))

            async def runs() -> bool:
                return await handle.status() is Status.RUNNING

            await until(runs)
            yield consumer, handle
    finally:
        (folder / "go").touch()
        if consumer.poll() is None:
            consumer.terminate()
        consumer.wait(60)


def said(folder: Path, event: str) -> bool:
    return event in (folder / "log").read_text()


async def test_tstp_claims_nothing_more_and_what_runs_goes_on(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, tmp_path) as (consumer, handle), aio.connect(redis_url) as queue:
        consumer.send_signal(signal.SIGTSTP)
        await until(lambda: said(tmp_path, "quiet"))
        waiting = await queue.enqueue(Job(commands=["true"]))
        (tmp_path / "go").touch()
        assert (await handle.wait(30)).succeeded
        assert await waiting.status() is Status.QUEUED
        assert consumer.poll() is None
        consumer.terminate()
        assert await asyncio.to_thread(consumer.wait, 30) == 0
        assert await waiting.status() is Status.QUEUED


async def test_usr1_waits_for_all_that_runs(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSHORE_SHUTDOWN_GRACE", "0")
    async with running(redis_url, tmp_path) as (consumer, handle):
        consumer.send_signal(signal.SIGUSR1)
        await until(lambda: said(tmp_path, "waiting_for_jobs"))
        (tmp_path / "go").touch()
        assert (await handle.wait(30)).succeeded
        assert (await handle.record()).where.consumer
        assert await asyncio.to_thread(consumer.wait, 30) == 0
        assert not said(tmp_path, "job_let_go")


async def test_quit_leaves_at_once_what_can_go_on(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSHORE_SHUTDOWN_GRACE", "600")
    async with running(redis_url, tmp_path) as (consumer, handle):
        consumer.send_signal(signal.SIGQUIT)
        assert await asyncio.to_thread(consumer.wait, 60) == 0
        assert said(tmp_path, "job_let_go")
        (tmp_path / "go").touch()
        async with consuming(redis_url):
            outcome = await handle.wait(60)
        record = await handle.record()
    assert (outcome.status, record.attempt) == (Status.SUCCEEDED, 1)
