"""The same jobs through a stock `rq` worker and through us: every key, type, field, member and TTL that is left.

A scenario lists where the two differ; `WHY` argues each difference. A difference that is listed and not there fails
as well. Not compared: `data` and `description` (the function has another name), times to the second, ids of
executions, and fields and keys of ours, which stock rq doesn't read (docs/architecture.md lists them).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
from rq.command import send_stop_job_command
from rq.group import Group
from rq.job import Dependency

from consumer.model import Verdict
from consumer.queues.rq import RqQueue
from consumer.settings import Retention
from enqueue.record import Outcome
from enqueue.wire.rq import read_meta
from support.consuming import until
from support.redis_server import RedisServer
from support.rq_jobs import CANCELLED, FAILURE, JOB, SUCCESS, ended, run_stock

TIMES = {
    "created_at",
    "enqueued_at",
    "started_at",
    "ended_at",
    "last_heartbeat",
    "birth",
    "death",
    "total_working_time",
}
OURS = {"pid", "ip_address", "version", "python_version", "data", "description"}
RQ = tuple(int(part) for part in rq.version.VERSION.split(".")[:2])
UNCOMPARED = {b"return_value", b"exc_string"}
if RQ < (2, 8):  # its results don't tell of executions; it ignores that ours do
    UNCOMPARED |= {b"execution_id", b"execution_started_at", b"execution_ended_at"}
SLACK = 45
"""Seconds by which two times may differ and be the same."""

WHY = {
    "retention": "without a TTL of the producer's the operator's retention holds (a day, a week) instead of rq's 500 s "
    "and a year: a person must still find the Record and the log",
    "results leak": "stock rq gives the results of a failed job without failure_ttl no TTL at all, for ever",
    "retried": "stock rq keeps nothing of an attempt that is retried; we add its failure as a result of type RETRIED",
    "deleted": "of a failed job with failure_ttl=0 stock rq leaves an id without a job in the failed registry",
    "canceled wins": "stock rq goes on with a cancelled job and writes its end over it; we stop it, and it stays "
    "cancelled",
    "canceled ends": "stock rq keeps a cancelled job and its execution for ever; ours expire",
    "working time": "a worker of ours runs many jobs: there is no working time of the one job",
    "busy": "stock rq leaves its last state beside the time of its death; so do we, and we were idle",
    "old result": "stock rq fills a deprecated field of the hash when a job repeats; the result is in the stream",
    "due": "stock rq would let a job with a ttl expire before it is due; ours stays until a minute later",
}


@dataclass(frozen=True)
class Scenario:
    """`enqueue(queue, function)`; `stock`: the function; `ends`: our outcomes, an attempt each, then the last one."""

    name: str
    enqueue: Callable[[rq.Queue, str], Any]
    stock: str = "succeed"
    ends: tuple[Outcome, ...] = (SUCCESS,)
    differ: dict[str, str] = field(default_factory=dict)
    queues: tuple[str, ...] = ("q",)
    meanwhile: Callable[[rq.Queue], Any] | None = None
    """What our side has to have done to a running job that the stock function does by itself."""


def put(**options: Any) -> Callable[[rq.Queue, str], Any]:
    return lambda queue, function: queue.enqueue(function, JOB, job_id="j", **options)


def family(allow_failure: bool, **options: Any) -> Callable[[rq.Queue, str], Any]:
    """A parent, and dependents here and on a queue that nobody serves."""

    def enqueue(queue: rq.Queue, function: str) -> None:
        parent = queue.enqueue(function, JOB, job_id="j", result_ttl=100, failure_ttl=100, **options)
        waits = Dependency([parent], allow_failure=allow_failure)
        good = function.replace(".fail", ".succeed")
        queue.enqueue(good, JOB, job_id="child", depends_on=waits, result_ttl=200)
        other = rq.Queue("unserved", connection=queue.connection)
        other.enqueue(good, JOB, job_id="elsewhere", depends_on=waits, ttl=1000)

    return enqueue


def grouped(queue: rq.Queue, function: str) -> None:
    group = Group.create(connection=queue.connection, name="g")
    data = [rq.Queue.prepare_data(function, (JOB,), job_id=f"j{ttl}", result_ttl=ttl) for ttl in (0, 100)]
    group.enqueue_many(queue, data)


def cancelled_in_the_queue(queue: rq.Queue, function: str) -> None:
    queue.enqueue(function, JOB, job_id="j").cancel()


def two_queues(queue: rq.Queue, function: str) -> None:
    for name in ("low", "high"):
        rq.Queue(name, connection=queue.connection).enqueue(function, JOB, job_id=name, result_ttl=100)


COMMON = {"rq:worker:w current_job_working_time": "working time", "rq:worker:w state": "busy"}
RETRIES = {"max": 1}
OLDER = {"repeat with an interval": {"rq:job:j status"}, "retry with an interval": {"rq:job:j TTL"}}
"""rq 2.6 leaves a job that it has scheduled as finished, and without its TTL; 2.12 does it as we do."""
REPEATED = {"rq:job:j result": "old result"}
SCENARIOS = [
    Scenario("success", put(result_ttl=100, meta={"mine": 1})),
    Scenario(
        "success, default TTL",
        put(),
        differ=dict.fromkeys(("rq:job:j TTL", "rq:results:j TTL", "rq:finished:q j"), "retention"),
    ),
    Scenario("success, result_ttl=-1", put(result_ttl=-1)),
    Scenario("success, result_ttl=0", put(result_ttl=0)),
    Scenario("success, ttl", put(ttl=1000, result_ttl=100)),
    Scenario("failure", put(failure_ttl=100), "fail", (FAILURE,)),
    Scenario(
        "failure, default TTL",
        put(),
        "fail",
        (FAILURE,),
        {"rq:job:j TTL": "retention", "rq:failed:q j": "retention", "rq:results:j TTL": "results leak"},
    ),
    Scenario("failure, failure_ttl=-1", put(failure_ttl=-1), "fail", (FAILURE,)),
    Scenario("failure, failure_ttl=0", put(failure_ttl=0), "fail", (FAILURE,), {"rq:failed:q type": "deleted"}),
    Scenario(
        "retry, then failure",
        put(retry=rq.Retry(**RETRIES), failure_ttl=100),
        "fail",
        (FAILURE, FAILURE),
        {"rq:results:j entries": "retried"},
    ),
    Scenario(
        "retry, then success",
        put(retry=rq.Retry(**RETRIES), result_ttl=100),
        "fail_first",
        (FAILURE, SUCCESS),
        {"rq:results:j entries": "retried"},
    ),
    Scenario(
        "retry with an interval",
        put(retry=rq.Retry(max=2, interval=[600, 900]), ttl=5000),
        "fail",
        (FAILURE,),
        {"rq:results:j type": "retried"},
    ),
    Scenario(
        "retry with an interval beyond its ttl",
        put(retry=rq.Retry(max=1, interval=600), ttl=300),
        "fail",
        (FAILURE,),
        {"rq:results:j type": "retried", "rq:job:j TTL": "due"},
    ),
    Scenario("repeat at once", put(repeat=rq.Repeat(times=2), result_ttl=100), differ=REPEATED),
    Scenario(
        "repeat with an interval", put(repeat=rq.Repeat(times=3, interval=[100, 600]), result_ttl=100), differ=REPEATED
    ),
    Scenario("dependents of a success", family(False)),
    Scenario("dependents of a failure", family(False), "fail", (FAILURE,)),
    Scenario("dependents of an allowed failure", family(True), "fail", (FAILURE, SUCCESS)),
    Scenario("a group", grouped),
    Scenario("cancelled in the queue", cancelled_in_the_queue),
    Scenario(
        "cancelled while it runs",
        put(result_ttl=100),
        "cancel_itself",
        (SUCCESS,),
        {
            "rq:job:j status": "canceled wins",
            "rq:finished:q type": "canceled wins",
            "rq:results:j type": "canceled wins",
            "rq:worker:w successful_job_count": "canceled wins",
            "rq:worker:w failed_job_count": "canceled wins",
            "rq:job:j TTL": "retention",
        },
        meanwhile=lambda queue: queue.fetch_job("j").cancel(),
    ),
    Scenario("several queues", two_queues, queues=("high", "low")),
]


def snapshot(connection: redis.Redis) -> dict[str, Any]:
    """What is left: `<key> <aspect>` -> value."""
    left: dict[str, Any] = {}
    now = time.time()
    for raw in connection.keys("rq:*"):
        key, kind = raw.decode(), connection.type(raw).decode()
        left[f"{key} type"] = kind
        ttl = connection.ttl(raw)
        left[f"{key} TTL"] = float(ttl) if ttl >= 0 else None
        if kind == "hash":
            for name, value in connection.hgetall(raw).items():
                if not name.startswith(b"longshore") and name.decode() not in OURS:
                    left[f"{key} {name.decode()}"] = plain(name.decode(), value)
        elif kind == "zset":
            for member, score in connection.zrange(raw, 0, -1, withscores=True):
                left[f"{key} {member.decode()}"] = score - now if 0 < score < float("inf") else score
        elif kind == "stream":
            entries = [entry for _, entry in connection.xrange(raw)]
            left[f"{key} entries"] = [int(entry[b"type"]) for entry in entries]
            left[f"{key} fields"] = {frozenset(entry) - UNCOMPARED for entry in entries}
        elif kind == "set":
            left[f"{key} members"] = connection.smembers(raw)
        elif kind == "list":
            left[f"{key} items"] = connection.lrange(raw, 0, -1)
        else:
            left[f"{key} value"] = connection.get(raw) is not None
    return left


def plain(name: str, value: bytes) -> Any:
    if name in TIMES:
        return "a time" if value else ""
    if name == "meta":
        return {key: item for key, item in (read_meta(value) or {}).items() if key != "longshore"} or None
    return value


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or abs(one - other) < SLACK
    return bool(one == other)


def differences(stock: dict[str, Any], ours: dict[str, Any]) -> set[str]:
    """Aspects that differ; of a key that only one side has, its type alone. `meta` with nothing but ours is none."""
    keys = {label.split(" ")[0] for label, value in (stock | ours).items() if label.endswith(" type")}
    alone = {key for key in keys if (f"{key} type" in stock) != (f"{key} type" in ours)}
    labels = {label for label in stock.keys() | ours.keys() if not same(stock.get(label), ours.get(label))}
    return {f"{key} type" for key in alone} | {label for label in labels if label.split(" ")[0] not in alone}


async def through_us(url: str, connection: redis.Redis, scenario: Scenario) -> None:
    queue = RqQueue(
        url, scenario.queues, consumer="w", max_bytes=100_000, retention=Retention(success=86_400, failure=604_800),
        patience=0.05,
    )  # fmt: skip
    await queue.open()
    ends = list(scenario.ends)
    while claims := await queue.claim(1):
        outcome = ends.pop(0) if len(ends) > 1 else ends[0]
        if scenario.meanwhile is not None:
            scenario.meanwhile(rq.Queue("q", connection=connection))
        failed = outcome is FAILURE
        verdict = (Verdict.RETRY if claims[0].retries_left else Verdict.BURY) if failed else Verdict.DONE
        assert await queue.settle([ended(claims[0], outcome, verdict)]) == {}
    await queue.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_what_is_left_is_what_a_stock_worker_leaves(redis_server: RedisServer, scenario: Scenario) -> None:
    left = []
    for side in ("stock", "ours"):
        url = redis_server.fresh_url()
        with redis.Redis.from_url(url) as connection:
            queue = rq.Queue(scenario.queues[0], connection=connection)
            if side == "stock":
                scenario.enqueue(queue, f"support.rq_functions.{scenario.stock}")
                run_stock(connection, *scenario.queues, name="w")
            else:
                scenario.enqueue(queue, "longshore.job")
                await through_us(url, connection, scenario)
            left.append(snapshot(connection))
    stock, ours = left
    found = differences(stock, ours)
    common = {*COMMON, *(OLDER.get(scenario.name, ()) if RQ < (2, 12) else ())}
    details = {label: (stock.get(label), ours.get(label)) for label in sorted(found - scenario.differ.keys() - common)}
    assert not details, "stock and ours differ"
    assert scenario.differ.keys() <= found, "a listed difference isn't there any more"
    assert {*scenario.differ.values(), *COMMON.values()} <= WHY.keys()


KILLED = {
    *(f"rq:job:j {name}" for name in ("last_heartbeat", "worker_name", "ended_at")),
    "rq:results:j fields",
    "rq:worker:w total_working_time",
}
"""A forking worker kills its horse and writes the job back as it was before that had begun: these are empty with it,
the result lacks the execution's end, and no working time is counted. Ours are filled."""


async def test_a_stopped_job_is_left_as_a_forking_worker_leaves_it(redis_server: RedisServer) -> None:
    left = []
    for side in ("stock", "ours"):
        url = redis_server.fresh_url()
        with redis.Redis.from_url(url) as connection:
            queue = rq.Queue("q", connection=connection)
            options: dict[str, Any] = {"retry": rq.Retry(max=2), "failure_ttl": 100, "job_id": "j"}
            if side == "stock":
                queue.enqueue("support.rq_functions.wait", JOB, **options)
                await stop_stock(url, connection)
            else:
                queue.enqueue("longshore.job", JOB, **options)
                await stop_ours(url, connection)
            job = queue.fetch_job("j")
            assert job is not None
            assert job.latest_result().exc_string.startswith("Job stopped by user")
            left.append(snapshot(connection))
    found = differences(*left)
    details = {label: (left[0].get(label), left[1].get(label)) for label in found - COMMON.keys()}
    assert details.keys() == {label for label in KILLED if RQ >= (2, 8) or not label.endswith("fields")}, details


async def stop_stock(url: str, connection: redis.Redis) -> None:
    tests = Path(__file__).parent.parent
    command = [sys.executable, "-m", "rq.cli", "worker", "--url", url, "--burst", "--name", "w", "--quiet", "q"]
    worker = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PYTHONPATH": str(tests)})
    try:
        await until(lambda: connection.exists("running"))
        send_stop_job_command(connection, "j")
        await asyncio.wait_for(worker.wait(), 30)
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()


async def stop_ours(url: str, connection: redis.Redis) -> None:
    queue = RqQueue(url, ("q",), consumer="w", max_bytes=100_000, retention=Retention(), patience=0.05)
    await queue.open()
    (claim,) = await queue.claim(1)
    heard = asyncio.create_task(anext(queue.records.cancellations()))
    await until(lambda: connection.pubsub_numsub("rq:pubsub:w")[0][1] == 1)
    send_stop_job_command(connection, "j")
    assert await asyncio.wait_for(heard, 30) == "j"
    assert list(await queue.beat([claim])) == [claim.token]
    assert await queue.settle([ended(claim, CANCELLED, Verdict.DONE)]) == {}
    await queue.close()
