"""Functions of the producer's own code, called by stock producers, run as jobs of their own by the whole consumer."""

from __future__ import annotations

import asyncio
import datetime
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
import rq

from consumer.returned import VARIABLE
from enqueue.job import Job
from enqueue.wire import faktory as wire
from enqueue.wire import records as record_wire
from support.consuming import consuming, until
from support.faktory_servers import SERVERS, Server, serving

TASKS = """
import datetime, os, subprocess, sys, threading
from os import system

def resize(source, width=1, *, options=None):
    print("resizing", source)
    return {"source": source, "width": width, "options": options, "pid": os.getpid() > 0, "none": None}

def kinds(*args, **kwargs):
    return repr((args, sorted(kwargs.items())))

def fail(secret):
    print("about to fail")
    raise ValueError("bad width " + secret)

def large(count):
    print("no newline at the end", end="")
    return "x%06d" * 0 + "".join("%07d" % number for number in range(count))

def when():
    return datetime.datetime(2026, 1, 1)

def gone():
    os._exit(0)

def leave():
    sys.exit(0)

async def later():
    return "later"

class Size:
    def __init__(self, width):
        self.width = width

def of_size(size):
    return size.width
"""


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Any]:
    """A type for the functions of a package that the consumer itself can't import."""
    package = tmp_path / "code" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text(TASKS)
    return {"python": sys.executable, "env": {"PYTHONPATH": str(tmp_path / "code")}}


async def end_of(job: rq.job.Job) -> str:
    async def status() -> Any:
        now = await asyncio.to_thread(job.get_status)
        return now.value if now.value in ("finished", "failed") else None

    return str(await until(status))


async def test_a_stock_producer_gets_the_functions_value(
    redis_url: str, redis_client: redis.Redis, tasks: dict[str, Any]
) -> None:
    queue = rq.Queue("heavy", connection=redis_client)
    job = queue.enqueue("shop.tasks.resize", "a.png", width=3, options={"deep": [1, None, "ü"]})
    async with consuming(redis_url, queues="heavy", job_types={"shop.tasks.*": tasks}):
        assert await end_of(job) == "finished"
    value = {"source": "a.png", "width": 3, "options": {"deep": [1, None, "ü"]}, "pid": True, "none": None}
    assert job.return_value(refresh=True) == value
    record = record_wire.read_record(redis_client.hget(f"rq:job:{job.id}", "longshore"))
    assert record is not None
    assert (record.result, record.outcome.result, record.variables) == (value, value, {})
    log = redis_client.xrange(record.log.stream)
    assert b"".join(entry.get(b"d", b"") for _, entry in log) == b"resizing a.png\n", log


async def test_arguments_arrive_as_they_were_given(
    redis_url: str, redis_client: redis.Redis, tasks: dict[str, Any]
) -> None:
    queue = rq.Queue("heavy", connection=redis_client)
    args: list[tuple[Any, ...]] = [
        (),
        (1, "a", None, True),
        ((1, 2), b"bytes", {1: 2}, {3}, 1.5, 10**30),
        ([{"x": "'\n"}],),
    ]
    jobs = [queue.enqueue("shop.tasks.kinds", args=each, kwargs={"k": (1,)}) for each in args]
    plain = rq.Queue("heavy", connection=redis_client, serializer=rq.serializers.JSONSerializer)
    jobs.append(plain.enqueue("shop.tasks.kinds", "json", k=[1]))
    async with consuming(redis_url, queues="heavy", job_types={"shop.tasks.*": tasks}):
        for job in jobs:
            assert await end_of(job) == "finished"
    for job, each in zip(jobs, args, strict=False):
        assert job.return_value(refresh=True) == repr((each, [("k", (1,))]))
    assert jobs[-1].return_value(refresh=True) == repr((("json",), [("k", [1])]))


async def test_an_exception_is_the_failure_and_its_traceback_the_exc_info(
    redis_url: str, redis_client: redis.Redis, tasks: dict[str, Any]
) -> None:
    queue = rq.Queue("heavy", connection=redis_client)
    types = {"shop.tasks.fail": tasks | {"parameters": ["secret"], "sensitive": ["secret"], "retries": 1}}
    job = queue.enqueue("shop.tasks.fail", "hunter2-hunter2")
    async with consuming(redis_url, queues="heavy", job_types=types):
        assert await end_of(job) == "failed"
    text = job.latest_result().exc_string
    assert text.startswith("exception: ValueError: bad width ***\n")
    assert text.endswith("ValueError: bad width ***")
    assert 'tasks.py", line' in text
    assert "call_python" not in text
    assert "code.py" not in text
    record = record_wire.read_record(redis_client.hget(f"rq:job:{job.id}", "longshore"))
    assert record is not None
    assert (record.reason, record.message, record.exit_code) == ("exception", "ValueError: bad width ***", 1)
    assert len(record.attempts) == 2
    log = b"".join(entry.get(b"d", b"") for _, entry in redis_client.xrange(record.log.stream))
    assert b"Traceback (most recent call last):" in log
    assert b"hunter2" not in log


async def test_a_large_value_comes_back_and_never_shows_in_the_log(
    redis_url: str, redis_client: redis.Redis, tasks: dict[str, Any]
) -> None:
    queue = rq.Queue("heavy", connection=redis_client)
    jobs = [queue.enqueue("shop.tasks.large", count) for count in (600, 140_000)]
    async with consuming(redis_url, queues="heavy", job_types={"shop.tasks.*": tasks}):
        for job, count in zip(jobs, (600, 140_000), strict=True):
            assert await end_of(job) == "finished"
            assert job.return_value(refresh=True) == "".join(f"{number:07}" for number in range(count))
            record = record_wire.read_record(redis_client.hget(f"rq:job:{job.id}", "longshore"))
            assert record is not None
            log = b"".join(entry.get(b"d", b"") for _, entry in redis_client.xrange(record.log.stream))
            assert log == b"no newline at the end\n"


@pytest.mark.parametrize(
    ("function", "args", "reason", "says"),
    [
        ("large", (150_000,), "result_unfit", "it has 1,050,002 bytes as JSON, and 1,000,000 are kept at most"),
        ("when", (), "result_unfit", "the value is of type datetime, which isn't JSON"),
        ("gone", (), "exception", "the process ended with code 0 before the function had returned"),
        ("leave", (), "exception", "SystemExit: 0"),
        ("missing", (), "exception", "AttributeError: module 'shop.tasks' has no attribute 'missing'"),
        ("system", ("true",), "exception", "PermissionError: shop.tasks.system is no function of the package shop"),
        ("resize", (), "exception", "TypeError: resize() missing 1 required positional argument: 'source'"),
    ],
)
async def test_what_is_no_value_is_told(
    redis_url: str, redis_client: redis.Redis, tasks: dict[str, Any], function: str, args: Any, reason: str, says: str
) -> None:
    job = rq.Queue("heavy", connection=redis_client).enqueue(f"shop.tasks.{function}", args=args)
    async with consuming(redis_url, queues="heavy", job_types={"shop.tasks.*": tasks}):
        assert await end_of(job) == "failed"
    record = record_wire.read_record(redis_client.hget(f"rq:job:{job.id}", "longshore"))
    assert record is not None
    assert (record.reason, len(record.attempts)) == (reason, 1)
    assert says in str(record.message)
    assert VARIABLE not in record.variables


async def test_a_value_can_be_ignored_and_a_coroutine_is_awaited(
    redis_url: str, redis_client: redis.Redis, tasks: dict[str, Any]
) -> None:
    queue = rq.Queue("heavy", connection=redis_client)
    jobs = [queue.enqueue("shop.tasks.when"), queue.enqueue("shop.tasks.later")]
    types = {"shop.tasks.when": tasks | {"result": "ignore"}, "shop.tasks.*": tasks}
    async with consuming(redis_url, queues="heavy", job_types=types):
        assert [await end_of(job) for job in jobs] == ["finished", "finished"]
    assert [job.return_value(refresh=True) for job in jobs] == [None, "later"]


async def test_objects_are_unpickled_in_the_job_if_the_operator_lets_them(
    redis_url: str, redis_client: redis.Redis, tasks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    import importlib

    shop = importlib.import_module("shop.tasks")
    queue = rq.Queue("heavy", connection=redis_client)
    jobs = [queue.enqueue("shop.tasks.of_size", shop.Size(7)), queue.enqueue("shop.tasks.kinds", datetime.date.max)]
    types = {"shop.tasks.of_size": tasks | {"unpickle": True}, "shop.tasks.*": tasks}
    for name in ("shop.tasks", "shop"):
        monkeypatch.delitem(sys.modules, name)
    async with consuming(redis_url, queues="heavy", job_types=types):
        assert [await end_of(job) for job in jobs] == ["finished", "failed"]
    assert "shop.tasks" not in sys.modules, "the consumer must never import what a payload names"
    assert redis_client.hget(f"rq:job:{jobs[0].id}", "longshore") is not None
    assert b'"result":7' in (redis_client.hget(f"rq:job:{jobs[0].id}", "longshore") or b"")
    text = jobs[1].latest_result().exc_string
    assert "invalid_job" in text
    assert "it wants to import datetime.date" in text


async def test_a_command_finds_its_arguments(redis_url: str, redis_client: redis.Redis) -> None:
    queue = rq.Queue("heavy", connection=redis_client)
    kind = {
        "commands": ["cat $LONGSHORE_ARGS; echo; echo $LONGSHORE_ARG_WIDTH $LONGSHORE_ARG_TOKEN"],
        "parameters": ["source"],
        "sensitive": ["token"],
        "schema": {"properties": {"width": {"type": "integer"}}},
    }
    good = queue.enqueue("shop.Resize", "a", width=3, token="s3cret-token")
    bad = queue.enqueue("shop.Resize", "a", width="s3cret-token", retry=rq.Retry(max=3))
    unknown = queue.enqueue("shop.Rezise", "a")
    async with consuming(redis_url, queues="heavy", job_types={"shop.Resize": kind}):
        assert [await end_of(job) for job in (good, bad, unknown)] == ["finished", "failed", "failed"]
    record = record_wire.read_record(redis_client.hget(f"rq:job:{good.id}", "longshore"))
    assert record is not None
    assert good.return_value(refresh=True)["status"] == "succeeded"
    lines = b"".join(entry.get(b"d", b"") for _, entry in redis_client.xrange(record.log.stream)).splitlines()
    given = {"v": 1, "name": "shop.Resize", "args": ["a"], "kwargs": {"width": 3, "token": "***"}}
    assert (json.loads(lines[0]), lines[1]) == (given, b"3 ***")
    record = record_wire.read_record(redis_client.hget(f"rq:job:{bad.id}", "longshore"))
    assert record is not None
    assert (record.reason, len(record.attempts)) == ("invalid_job", 1)
    assert "shop.Resize: width: must be of type integer, not text" in str(record.message)
    assert "did you mean 'shop.Resize'?" in unknown.latest_result().exc_string
    assert not redis_client.exists("rq:queue:heavy")


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async for one in serving(request.param):
        yield one


async def test_faktorys_jobs_run_functions_too(
    redis_url: str, redis_client: redis.Redis, tasks: dict[str, Any], server: Server
) -> None:
    name, replies = server.name(), server.name()

    def push(jobtype: str, *args: Any) -> dict[str, Any]:
        job = wire.build_job(Job(commands=["true"]), name)
        return job | {"jobtype": jobtype, "args": list(args), "custom": {"tenant": "t1", "reply_to": replies}}

    good, bad, large = push("ResizeImage", "a.png", 3), push("ResizeImage", 1), push("shop.tasks.large", 600)
    unknown = push("ResizeImages")
    await server.push(good, bad, large, unknown)
    schema = {"properties": {"source": {"type": "string"}}}
    resize = tasks | {"function": "shop.tasks.resize", "parameters": ["source", "width"], "schema": schema}
    types = {"ResizeImage": resize, "shop.tasks.*": tasks}

    async def record_of(job: dict[str, Any]) -> Any:
        record = record_wire.read_record(redis_client.hget(record_wire.faktory_job_key(job["jid"]), "longshore"))
        return record if record and record.status.final else None

    async with consuming(server.url, queues=name, records_url=redis_url, job_types=types):
        records = [await until(lambda job=job: record_of(job)) for job in (good, bad, large, unknown)]
        assert records[0].result == {
            "source": "a.png", "width": 3, "options": None, "pid": True, "none": None,
        }  # fmt: skip
        assert (records[1].reason, records[1].message) == (
            "invalid_job",
            "ResizeImage: source: must be of type string, not a number",
        )
        assert records[2].result == "".join(f"{number:07}" for number in range(600))
        assert "jobtype: 'ResizeImages' is no job type here: did you mean 'ResizeImage'?" in records[3].message
        entry = await until(lambda: server.entry("dead", bad["jid"]))
        assert entry.errtype == "invalid_job"
        told = [await until(lambda: server.fetch(replies)) for _ in range(4)]
    assert {reply["custom"]["reply_for"] for reply in told} == {job["jid"] for job in (good, bad, large, unknown)}
    assert records[0].result in [reply["args"][0].get("result") for reply in told]
