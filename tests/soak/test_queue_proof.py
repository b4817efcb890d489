"""The proof in small, and the counting script by itself: it finds what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from enqueue import Job, aio
from soak.queue_proof import Proof
from support.consuming import consuming

COUNT = Path(__file__).parent / "count_records.py"


@pytest.mark.parametrize("kind", ["rq", "faktory"])
async def test_each_of_many_jobs_ends_once_while_consumers_and_redis_die(kind: str, tmp_path: Path) -> None:
    proof = Proof(
        kind, jobs=400, running=50, seed=5, hits=4, redis_kills=1, consumers=(3, 2), pace=0.5, limit=150
    )  # fmt: skip
    code, said = await proof.run(tmp_path)
    assert code == 0, said
    figures = json.loads(said.splitlines()[0])
    assert figures["jobs"] == 400
    assert figures["runs"] >= 50
    assert proof.counts["redis kills"] == 1
    assert sum(proof.counts[what] for what in ("kill", "stop", "term")) >= 3


def ran_twice(client: redis.Redis, job: str, runs: Path) -> None:
    runs.write_text(runs.read_text() * 2)


def never_ran(client: redis.Redis, job: str, runs: Path) -> None:
    runs.write_text("")


def lost(client: redis.Redis, job: str, runs: Path) -> None:
    client.delete(f"rq:job:{job}")


def in_two_registries(client: redis.Redis, job: str, runs: Path) -> None:
    client.zadd("rq:failed:q", {job: 1})


def in_wip(client: redis.Redis, job: str, runs: Path) -> None:
    client.zadd("rq:wip:q", {f"{job}:token": 1})


def told_twice(client: redis.Redis, job: str, runs: Path) -> None:
    client.xadd(f"rq:results:{job}", {"type": "1"})


def told_never(client: redis.Redis, job: str, runs: Path) -> None:
    client.delete(f"rq:results:{job}")


def not_final(client: redis.Redis, job: str, runs: Path) -> None:
    record = json.loads(client.hget(f"rq:job:{job}", "longshore") or b"")
    client.hset(f"rq:job:{job}", "longshore", json.dumps({**record, "status": "running"}))


def attempt_untold(client: redis.Redis, job: str, runs: Path) -> None:
    client.hincrby(f"rq:job:{job}", "longshore_attempt", 1)


def stranger(client: redis.Redis, job: str, runs: Path) -> None:
    client.rpush("rq:queue:q", "somebody")


def failed(client: redis.Redis, job: str, runs: Path) -> None:
    record = json.loads(client.hget(f"rq:job:{job}", "longshore") or b"")
    ended = {"status": "failed", "reason": "consumer_lost", "exit_code": None}
    attempts = [{**record["attempts"][0], **ended}]
    fields = {"longshore": json.dumps({**record, **ended, "attempts": attempts}), "status": "failed"}
    client.hset(f"rq:job:{job}", mapping=fields)
    client.zrem("rq:finished:q", job)
    client.zadd("rq:failed:q", {job: 1})


def execution_left(client: redis.Redis, job: str, runs: Path) -> None:
    client.hset(f"rq:execution:{job}:token", "id", "token")


WRONGS = (
    ran_twice,
    never_ran,
    lost,
    in_two_registries,
    in_wip,
    told_twice,
    told_never,
    not_final,
    attempt_untold,
    stranger,
    failed,
    execution_left,
)


@pytest.mark.parametrize("wrong", [None, *WRONGS], ids=lambda wrong: wrong.__name__ if wrong else "nothing")
async def test_the_count_finds_what_is_wrong(
    wrong: Callable[[redis.Redis, str, Path], None] | None, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    write = f'echo "$LONGSHORE_JOB_ID $LONGSHORE_ATTEMPT" >> {runs}'
    async with consuming(redis_url, queues="q"), aio.connect(redis_url, queue="q") as producer:
        job = await producer.enqueue(Job(commands=[write]))
        assert (await job.wait(30)).succeeded
    if wrong:
        wrong(redis_client, job.id, runs)
    code, said = count(tmp_path, kind="rq", redis=redis_url, jobs={job.id: "q"}, runs=str(runs), ran=[job.id], fail=[])
    assert (code, len(said.splitlines()) > 1) == ((1, True) if wrong else (0, False)), said


def ended(**more: str) -> dict[str, str]:
    attempts = [{"attempt": 1, "status": "failed", "exit_code": 3}]
    record = {"id": "job-1234", "status": "failed", "attempts": attempts}
    return {"longshore": json.dumps(record), "longshore_attempt": "1", **more}


@pytest.mark.parametrize(
    ("fields", "sets", "claimed", "right"),
    [
        (ended(), {"dead": ["job-1234"]}, False, True),
        (ended(), {}, False, True),
        (ended(), {"dead": ["job-1234"] * 2}, False, False),
        (ended(), {"retries": ["job-1234"]}, False, False),
        (ended(), {"working": ["job-1234"]}, False, False),
        (ended(longshore_ending="[]"), {}, False, False),
        (ended(longshore_payload="{}"), {}, False, False),
        (ended(longshore_attempt="2"), {}, False, False),
        (ended(), {}, True, False),
        ({"longshore_attempt": "1"}, {}, False, False),
    ],
)
def test_the_count_finds_what_is_wrong_on_faktory(
    fields: dict[str, str],
    sets: dict[str, list[str]],
    claimed: bool,
    right: bool,
    redis_url: str,
    redis_client: redis.Redis,
    tmp_path: Path,
) -> None:
    redis_client.hset("longshore:job:job-1234", mapping=fields)
    if claimed:
        redis_client.zadd("longshore:claims:q", {"job-1234": 1})
    code, said = count(tmp_path, kind="faktory", redis=redis_url, jobs={"job-1234": "q"}, sets=sets)
    assert code == (0 if right else 1), said


def count(folder: Path, **expected: Any) -> tuple[int, str]:
    whole = {"queues": ["q"], "runs": "", "ran": [], "faktory": "", "sets": {}, **expected}
    (folder / "expected.json").write_text(json.dumps(whole))
    done = subprocess.run([sys.executable, COUNT, folder / "expected.json"], capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout
