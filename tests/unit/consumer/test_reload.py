"""Settings that change while the consumer runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import rq
from redis import Redis
from structlog.testing import capture_logs

from consumer.app import run_consumer
from consumer.reload import Live, changes, stuck
from consumer.settings import Settings, load_settings
from enqueue.errors import UsageError
from support.consuming import until


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    """As an editor or a ConfigMap does it: the file is never half written."""
    (path / "new").write_text(text)
    os.replace(path / "new", path / "longshore.yaml")


def test_what_changes_is_named_by_section() -> None:
    before, after = Settings(), Settings(concurrency=3, kubernetes={"image": "a", "namespace": "b"})
    assert changes(before, after) == ("concurrency", "kubernetes.namespace", "kubernetes.image")
    assert stuck(before, after) == ("kubernetes.namespace",)


def test_queues_change_order_and_weight_but_not_name() -> None:
    before = Settings(queues="a,b")
    assert stuck(before, Settings(queues="b=5,a=1")) == ()
    assert stuck(before, Settings(queues="a,c")) == ("queues",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("concurrency: [", "longshore.yaml"),
        ("concurrency: 0", "concurrency"),
        ("concurency: 3", "did you mean 'concurrency'"),
        ("{concurrency: 3, queue_url: 'redis://:s3cret@other'}", "queue_url: can't change while the consumer runs"),
        (None, "the file is gone"),
        ("concurrency: 66", "not today"),
    ],
)
def test_what_cannot_take_their_place_changes_nothing_and_is_told(elsewhere: Path, text: str | None, says: str) -> None:
    def apply(new: Settings) -> None:
        raise UsageError("not today")

    write(elsewhere, "concurrency: 2")
    first = load_settings()
    live = Live(first, load_settings, apply, Path("longshore.yaml"))
    if text is None:
        (elsewhere / "longshore.yaml").unlink()
    else:
        write(elsewhere, text)
    with capture_logs() as told:
        assert not live.reload()
    assert live.settings is first
    assert says in told[0]["error"]
    assert "s3cret" not in str(told)


async def test_a_consumer_goes_on_with_what_runs_and_takes_new_settings(elsewhere: Path, redis_url: str) -> None:
    """By SIGHUP, and by a changed file."""
    wait = f"while [ ! -e {elsewhere}/go ]; do sleep 0.05; done"
    first = f"reload_interval: 0.05\njob_types:\n  app.wait: {{commands: ['{wait}']}}\n"
    write(elsewhere, first)
    read = functools.partial(load_settings, queue_url=redis_url, executor="process", shutdown_grace=0)
    stop = asyncio.Event()
    consumer = asyncio.create_task(run_consumer(read(), stop, read))
    with contextlib.closing(Redis.from_url(redis_url)) as redis:
        queue = rq.Queue(connection=redis)
        try:
            running = queue.enqueue("app.wait")
            await until(lambda: running.get_status() == "started")
            with capture_logs() as told:
                write(elsewhere, first + "  app.new: {commands: ['true']}\njobs: {grace: 5}")
                await until(lambda: events(told, "settings_reloaded"))
            assert set(events(told, "settings_reloaded")[0]["changed"]) == {"job_types", "jobs.grace"}
            added = queue.enqueue("app.new")
            await until(lambda: added.get_status() == "finished")
            with capture_logs() as told:
                os.kill(os.getpid(), signal.SIGHUP)
                await until(lambda: events(told, "settings_reloaded"))
            assert events(told, "settings_reloaded")[0]["changed"] == []
            assert running.get_status() == "started"
            (elsewhere / "go").touch()
            await until(lambda: running.get_status() == "finished")
        finally:
            (elsewhere / "go").touch()
            stop.set()
            await consumer


def events(told: list[Any], name: str) -> list[Any]:
    return [event for event in told if event["event"] == name]
