"""The whole consumer with the process executor on real servers: what a producer and an operator live through."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import rq

from enqueue import Job, LogCheck, Status, Variable, aio
from enqueue.record import Tally
from support.consuming import consuming, until
from support.redis_server import RedisServer


async def read(parts: object) -> bytes:
    return b"".join([part async for part in parts])  # type: ignore[attr-defined]


async def test_a_job_goes_all_the_way(redis_url: str) -> None:
    job = Job(
        commands=[
            "echo hello $WHO",
            "cat conf/a.txt",
            "echo ::set-outcome-var answer=4=2",
            "echo the secret is $TOKEN",
        ],
        env={"WHO": "world"},
        variables=[Variable(name="TOKEN", value="s3cret-token", sensitive=True)],
        files=[{"path": "conf/a.txt", "contents": "from a file\n", "mode": "0600"}],
        count_output=True,
    )
    async with consuming(redis_url), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(job)
        log = await read(handle.logs(follow=True))
        outcome = await handle.wait(30)
        record = await handle.record()
        last = [line async for line in handle.log_lines(tail=1)]
        check = await handle.check_log()
    assert log == b"hello world\nfrom a file\nthe secret is ***\n"
    assert (outcome.status, outcome.exit_code, outcome.variables) == (Status.SUCCEEDED, 0, {"answer": "4=2"})
    assert record.times.queued <= record.times.claimed <= record.times.started <= record.times.ended
    assert (record.log.lines, record.log.complete, record.attempt) == (3, "complete", 1)
    assert (record.log.written, record.log.read) == (Tally(lines=4, bytes=80), Tally(lines=4, bytes=80))
    assert [(line.number, line.text) for line in last] == [(3, "the secret is ***")]
    assert check == LogCheck("complete")
    assert record.where.executor == "process"


async def test_large_variables_stand_beside_the_record_for_as_long(
    redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    big = "é" * 5000
    said = [f"echo ::set-outcome-var big={big}", "echo ::set-outcome-var small=1"]
    job = Job(
        commands=[
            *said,
            f"until [ -e {tmp_path}/go ]; do sleep 0.05; done",
            "echo big2=" + "x" * 4080 + ' > "$LONGSHORE_OUTCOME"',
        ]
    )
    async with consuming(redis_url), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(job)

        async def told() -> bool:
            return "big" in await handle.variables()

        await until(told)
        assert (await handle.record()).status is Status.RUNNING
        (tmp_path / "go").touch()
        outcome = await handle.wait(30)
        record = await handle.record()
        (listed,) = await queue.jobs(queue="default")
    assert outcome.variables == {"big": big, "small": "1", "big2": "x" * 4080}
    assert (record.variables, record.large) == (outcome.variables, ())
    assert (listed.variables, listed.large) == ({"small": "1", "big2": "x" * 4080}, ("big",))
    stored = json.loads(redis_client.hget(f"rq:job:{handle.id}", "longshore"))
    assert set(stored["variables"]) == {"small", "big2"}
    assert redis_client.hkeys(f"longshore:variables:{handle.id}") == [b"big"]
    kept, own = redis_client.ttl(f"rq:job:{handle.id}"), redis_client.ttl(f"longshore:variables:{handle.id}")
    assert 0 < kept == own
    assert rq.job.Job.fetch(handle.id, connection=redis_client).return_value()["variables"]["big"] == big


@pytest.mark.parametrize(
    ("job", "status", "reason", "code"),
    [
        ({"commands": ["exit 3"]}, "failed", "exit_code", 3),
        ({"commands": ["kill -9 $$"]}, "failed", "signal", 137),
        ({"commands": ["sleep 60"], "timeout": 0.3}, "failed", "deadline", 143),
        ({"entrypoint": ["/no/such/thing"]}, "failed", "start_error", None),
        ({"commands": ["true"], "init": {"commands": ["exit 5"]}}, "failed", "init_failed", 5),
        ({"commands": ["true"], "resources": {"limits": {"cpu": "1"}}}, "failed", "refused", None),
        ({"commands": ["true"], "shell": "/no/such/sh"}, "failed", "start_error", None),
        ({"entrypoint": ["/bin/echo"], "args": ["$HOME", "a b"]}, "succeeded", None, 0),
    ],
)
async def test_each_end_has_its_reason(
    redis_url: str, job: dict, status: str, reason: str | None, code: int | None
) -> None:
    async with consuming(redis_url), aio.connect(redis_url) as queue:
        outcome = await (await queue.enqueue(Job.load(job))).wait(30)
    assert (outcome.status.value, outcome.reason) == (status, reason)
    if code is not None:
        assert outcome.exit_code == code
    if status == "failed":
        assert outcome.message
        assert outcome.hint


async def test_cancel_before_and_while_it_runs(redis_url: str, redis_client: redis.Redis) -> None:
    async with aio.connect(redis_url) as queue:
        early = await queue.enqueue(Job(commands=["echo never"]))
        assert await early.cancel()
        running = await queue.enqueue(Job(commands=["echo up; sleep 600"]))
        async with consuming(redis_url):
            async for _ in running.logs(follow=True):
                break
            assert await running.cancel()
            outcome = await running.wait(30)
            assert (outcome.status, outcome.reason) == (Status.CANCELLED, "requested")
            assert not await running.cancel()
            assert (await early.wait(30)).status is Status.CANCELLED
            stopped = await queue.enqueue(Job(commands=["echo up; sleep 600"]))
            async for _ in stopped.logs(follow=True):
                break
            stock = rq.job.Job.fetch(stopped.id, connection=redis_client)
            rq.command.send_stop_job_command(redis_client, stopped.id)
            assert (await stopped.wait(30)).status is Status.CANCELLED
    assert stock.get_status(refresh=True) == "stopped"  # RQ's word for it, and RQ's registry
    assert redis_client.zrange("rq:failed:default", 0, -1) == [stopped.id.encode()]
    cancelled = {i.decode() for i in redis_client.zrange("rq:canceled:default", 0, -1)}
    assert cancelled == {early.id, running.id}
    assert redis_client.xlen(f"longshore:log:{early.id}") == 0


async def test_a_cancellation_is_for_its_own_database_alone(redis_server: RedisServer) -> None:
    one, other = redis_server.fresh_url(), redis_server.fresh_url()
    async with aio.connect(one) as here, aio.connect(other) as there, consuming(one), consuming(other):
        handles = [await queue.enqueue(Job(commands=["echo up; sleep 600"]), job_id="same") for queue in (here, there)]
        for handle in handles:
            async for _ in handle.logs(follow=True):
                break
        assert await handles[0].cancel()
        assert (await handles[0].wait(30)).status is Status.CANCELLED
        assert await handles[1].status() is not Status.CANCELLED


async def test_retries_are_counted_and_each_attempt_is_seen(redis_url: str, tmp_path: Path) -> None:
    marker = tmp_path / "count"
    job = Job(commands=[f"echo x >> {marker}", f"test $(wc -l < {marker}) -ge 3"], retries=4)
    async with consuming(redis_url), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(job)
        assert (await handle.wait(30)).succeeded
        record = await handle.record()
    assert [(a.attempt, a.status.value) for a in record.attempts] == [(1, "failed"), (2, "failed"), (3, "succeeded")]


async def test_bad_payloads_end_as_invalid_and_the_consumer_goes_on(redis_url: str, redis_client: redis.Redis) -> None:
    stock = rq.Queue("default", connection=redis_client)
    bad = [
        stock.enqueue("longshore.job", {"comands": ["x"]}),
        stock.enqueue("longshore.job", {"commands": ["x" * 5_000_000]}, retry=rq.Retry(max=3)),
        stock.enqueue("os.system", "touch /tmp/never"),
        stock.enqueue("longshore.job", {"commands": ["true"], "image": "A B"}),
        stock.enqueue("longshore.job", redis.Redis),
        stock.enqueue("longshore.job"),
    ]
    good = stock.enqueue("longshore.job", {"commands": ["true"]})
    async with consuming(redis_url), aio.connect(redis_url) as queue:
        assert (await queue.handle(good.id).wait(30)).succeeded
        for job in bad:
            outcome = await queue.handle(job.id).wait(30)
            assert (outcome.status.value, outcome.reason) == ("failed", "invalid_job")
    assert redis_client.zcard("rq:failed:default") == len(bad)
    assert "did you mean 'commands'?" in bad[0].latest_result().exc_string
    assert "more than the 1000000 bytes" in bad[1].latest_result().exc_string


async def test_many_jobs_at_once_end_once_each_and_leave_no_key_without_an_end(
    redis_url: str, redis_client: redis.Redis
) -> None:
    async with consuming(redis_url, executor="null", concurrency=50, queues="a,b"), aio.connect(redis_url) as queue:
        handles = [await queue.enqueue(Job(commands=["true"]), queue="ab"[i % 2]) for i in range(300)]
        for handle in handles:
            assert (await handle.wait(30)).succeeded
    for handle in handles:
        assert redis_client.xlen(f"rq:results:{handle.id}") == 1
    ids = [handle.id.encode() for handle in handles]
    per_job = [key for key in redis_client.scan_iter(count=1000) if any(id in key for id in ids)]
    assert len(per_job) >= len(ids)
    assert all(redis_client.ttl(key) > 0 for key in per_job)
    assert [redis_client.zcard(f"rq:wip:{name}") for name in "ab"] == [0, 0]
    assert redis_client.keys("rq:execution*") == []
    assert redis_client.keys("longshore:consumer:*") == []


def start(url: str, cwd: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "enqueue.cli", "run", "--queue-url", url, "--log-format", "json", *args]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=cwd)


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    server = RedisServer("--appendonly", "yes", "--appendfsync", "no")
    server.start()
    yield server
    server.close()


async def _running(handle: aio.AsyncHandle) -> bool:
    return (await handle.status()) is Status.RUNNING


async def test_sigterm_lets_running_jobs_end_within_the_grace_and_lets_go_of_those_that_dont(
    redis_url: str, tmp_path: Path
) -> None:
    async with aio.connect(redis_url) as queue:
        go = tmp_path / "go"
        short = await queue.enqueue(Job(commands=[f"until test -e {go}; do sleep 0.05; done"]))
        long = await queue.enqueue(Job(commands=["sleep 600"], timeout=600))
        consumer = start(redis_url, tmp_path, "--executor", "process")
        await until(lambda: _running(short))
        await until(lambda: _running(long))
        after = await queue.enqueue(Job(commands=["true"]))
        await after.wait(30)
        consumer.terminate()
        go.touch()
        assert (await short.wait(30)).succeeded
        late = await queue.enqueue(Job(commands=["true"]))
        consumer.terminate()  # no more patience
        _, errors = await asyncio.to_thread(consumer.communicate)
        assert consumer.returncode == 0
        assert await _running(long)
        assert (await late.status()) is Status.QUEUED
        assert [json.loads(line)["event"] for line in errors.splitlines()][-1] == "consumer_stopped"


async def test_a_server_that_is_down_at_start_and_goes_away_is_waited_for(
    own_server: RedisServer, tmp_path: Path
) -> None:
    url = own_server.url(0)
    own_server.stop()
    consumer = start(url, tmp_path, "--executor", "process")
    try:
        assert consumer.stderr is not None
        line = await asyncio.to_thread(consumer.stderr.readline)
        assert "queue_unavailable" in line
        own_server.start()
        async with aio.connect(url) as queue:
            go = tmp_path / "go"
            handle = await queue.enqueue(
                Job(commands=[f"echo begun; until test -e {go}; do sleep 0.05; done; echo end"])
            )
            await until(lambda: _running(handle))
            own_server.stop(kill=True)
            go.touch()
            own_server.start()
            assert (await handle.wait(60)).succeeded
            assert await read(handle.logs()) == b"begun\nend\n"
            assert (await (await queue.enqueue(Job(commands=["true"]))).wait(60)).succeeded
    finally:
        consumer.terminate()
        await asyncio.to_thread(consumer.communicate)


async def test_ends_are_counted(redis_url: str, redis_client: redis.Redis) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rq.Queue("default", connection=redis_client).enqueue("longshore.job", {"comands": ["x"]}, job_id="bad")
    async with consuming(redis_url, metrics_port=port), aio.connect(redis_url) as queue:
        await queue.handle("bad").wait(30)
        url = f"http://127.0.0.1:{port}/metrics"
        wanted = 'longshore_jobs_ended_total{queue="default",reason="invalid_job",status="failed"} 1.0'
        await until(lambda: asyncio.to_thread(lambda: wanted in urllib.request.urlopen(url).read().decode()))
