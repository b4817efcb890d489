"""Counts what a queue says of its jobs, by what lies in it and nothing else: no module of longshore is imported.

    python tests/soak/count_records.py EXPECTED.json

EXPECTED.json: {"kind": "rq" or "faktory", "redis": URL, "queues": [...], "jobs": {id: queue}, "runs": file or "",
"ran": [ids of the jobs that write to `runs`], "faktory": URL of Faktory's own Redis or "", "sets": {name: [jids]}}.
It may have "fail": the ids of the jobs whose own command fails for good; all others must have succeeded.
Each line of `runs` is "<id> <attempt>", written by the job itself when it ran.

Prints the figures as one line of JSON, then a line for each violation; exits with 1 if there is one.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

FINAL = {"succeeded": "finished", "failed": "failed", "cancelled": "canceled"}
REGISTRIES = ("finished", "failed", "canceled", "scheduled", "deferred")
TRIED, TRIED_AGAIN = (b"1", b"2"), b"4"


def hashes(client: redis.Redis, prefix: str, ids: list[str]) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    for start in range(0, len(ids), 1000):
        part = ids[start : start + 1000]
        with client.pipeline(transaction=False) as pipe:
            for job_id in part:
                pipe.hgetall(prefix + job_id)
            yield from zip(part, pipe.execute(), strict=True)


def wrong_record(job_id: str, fields: dict[bytes, bytes]) -> tuple[dict[str, Any], list[str]]:
    """The Record, and what is wrong with it by itself."""
    if b"longshore" not in fields:
        return {}, [f"{job_id} has no Record"]
    record = json.loads(fields[b"longshore"])
    found = []
    if record["status"] not in FINAL:
        found.append(f"{job_id} is {record['status']}")
    if record["id"] != job_id:
        found.append(f"{job_id} has the Record of {record['id']}")
    numbers = [attempt["attempt"] for attempt in record.get("attempts", ())]
    claimed = int(fields.get(b"longshore_attempt", 0))  # none of a job that was cancelled before its turn
    if numbers != list(range(1, claimed + 1)):
        found.append(f"{job_id} was claimed {claimed} times and tells attempts {numbers}")
    if numbers and record["attempts"][-1]["status"] != record["status"]:
        found.append(f"{job_id} is {record['status']}, its last attempt {record['attempts'][-1]['status']}")
    return record, found


def on_rq(client: redis.Redis, expected: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    places: dict[str, Counter[str]] = {name: Counter() for name in (*REGISTRIES, "queue", "intermediate", "wip")}
    for queue in expected["queues"]:
        for name in REGISTRIES:
            places[name].update(entry.decode() for entry in client.zrange(f"rq:{name}:{queue}", 0, -1))
        places["queue"].update(entry.decode() for entry in client.lrange(f"rq:queue:{queue}", 0, -1))
        places["intermediate"].update(i.decode() for i in client.lrange(f"rq:queue:{queue}:intermediate", 0, -1))
        places["wip"].update(i.decode().rpartition(":")[0] for i in client.zrange(f"rq:wip:{queue}", 0, -1))
    results: dict[str, list[bytes]] = {}
    ids = list(expected["jobs"])
    for start in range(0, len(ids), 1000):
        with client.pipeline(transaction=False) as pipe:
            for job_id in ids[start : start + 1000]:
                pipe.xrange(f"rq:results:{job_id}")
            for job_id, entries in zip(ids[start : start + 1000], pipe.execute(), strict=True):
                results[job_id] = [entry[b"type"] for _, entry in entries]
    for job_id, fields in hashes(client, "rq:job:", ids):
        record, found = wrong_record(job_id, fields)
        there = [name for name, members in places.items() for _ in range(members[job_id])]
        if there != [FINAL.get(record.get("status", ""), "nowhere")]:
            found.append(f"{job_id} is {record.get('status')} and stands in {there}")
        if fields.get(b"status", b"").decode() != FINAL.get(record.get("status", ""), "?"):
            found.append(f"{job_id} is {record.get('status')}, and RQ says {fields.get(b'status')!r}")
        # RQ tells no end of a job that was cancelled: what its attempts before the last one left is there.
        attempts = len(record.get("attempts", ())) - (record.get("status") == "cancelled")
        told, wanted = results[job_id], min(10, max(0, attempts))
        if not wanted <= len(told) <= wanted + (wanted == 10) * 100 or told[-1:] == [TRIED_AGAIN]:  # RQ keeps about ten
            found.append(f"{job_id} is {record.get('status')}, had {attempts} attempts and tells the ends {told}")
        if any(kind in TRIED for kind in told[:-1]):
            found.append(f"{job_id} ended more than once: {told}")
        yield job_id, record, found
    strangers = [f"{job_id} stands in {name}" for name, seen in places.items() for job_id in set(seen) - set(ids)]
    left = [key.decode() for pattern in ("rq:execution:*", "rq:executions:*") for key in client.scan_iter(pattern)]
    yield "", {}, strangers + [f"{key} is left" for key in left]


def on_faktory(client: redis.Redis, expected: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    sets: dict[str, list[str]] = dict(expected["sets"])
    if expected["faktory"]:
        with redis.Redis.from_url(expected["faktory"]) as own:
            for name in ("working", "retries", "dead", "scheduled"):
                sets[name] = [jid_of(entry) for entry in own.zrange(name, 0, -1)]
            for queue in expected["queues"]:
                sets[queue] = [jid_of(entry) for entry in own.lrange(f"q:{queue}", 0, -1)]
    places = {name: Counter(jids) for name, jids in sets.items()}
    for job_id, fields in hashes(client, "longshore:job:", list(expected["jobs"])):
        record, found = wrong_record(job_id, fields)
        there = [name for name, members in places.items() for _ in range(members[job_id])]
        if there and not (there == ["dead"] and record.get("status") == "failed"):
            found.append(f"{job_id} is {record.get('status')} and stands in Faktory's {there}")
        for field in (b"longshore_ending", b"longshore_payload"):
            if field in fields:
                found.append(f"{job_id} still has {field.decode()}")
        yield job_id, record, found
    for queue in expected["queues"]:
        claims = client.zrange(f"longshore:claims:{queue}", 0, -1)
        yield "", {}, [f"{jid.decode()} is still claimed" for jid in claims]


def jid_of(entry: bytes) -> str:
    said = json.loads(entry)
    return str((said.get("job") or said)["jid"])  # in `working` the job stands within its reservation


def wrong_runs(expected: dict[str, Any], records: dict[str, dict[str, Any]]) -> tuple[int, list[str]]:
    """How many runs the jobs themselves tell of, and what doesn't fit their Records."""
    runs = Counter(tuple(line.split()) for line in Path(expected["runs"]).read_text().splitlines())
    found = [f"{job_id} ran {count} times in its attempt {attempt}" for (job_id, attempt), count in runs.items()
             if count > 1]  # fmt: skip
    for job_id in expected["ran"]:
        for attempt in records[job_id].get("attempts", ()):
            told = attempt.get("exit_code") is not None
            if told and (job_id, str(attempt["attempt"])) not in runs:
                found.append(f"{job_id} tells the end of attempt {attempt['attempt']}, which never ran")
    told = {(job_id, str(a["attempt"])) for job_id in expected["ran"] for a in records[job_id].get("attempts", ())}
    found += [f"{job_id} ran as attempt {attempt}, of which nothing tells" for job_id, attempt in set(runs) - told]
    return sum(runs.values()), found


def wrong_ends(expected: dict[str, Any], records: dict[str, dict[str, Any]]) -> list[str]:
    """Which jobs failed that should have succeeded, or the other way round."""
    fail = set(expected["fail"])
    return [
        f"{job_id} is {record.get('status')} ({record.get('reason')})"
        for job_id, record in records.items()
        if (record.get("status"), record.get("reason"))
        != (("failed", "exit_code") if job_id in fail else ("succeeded", None))
    ]


def main(path: str) -> int:
    expected = json.loads(Path(path).read_text())
    figures: Counter[str] = Counter()
    problems: list[str] = []
    records: dict[str, dict[str, Any]] = {}
    with redis.Redis.from_url(expected["redis"]) as client:
        rows = (on_rq if expected["kind"] == "rq" else on_faktory)(client, expected)
        for job_id, record, found in rows:
            problems += found
            if job_id:
                records[job_id] = record
                figures["jobs"] += 1
                figures[str(record.get("status"))] += 1
                figures["attempts"] += len(record.get("attempts", ()))
    if expected["runs"]:
        figures["runs"], found = wrong_runs(expected, records)
        problems += found
    if "fail" in expected:
        problems += wrong_ends(expected, records)
    print(json.dumps({**figures, "violations": len(problems)}))
    for problem in problems[:50]:
        print(problem)
    return 1 if problems or figures["jobs"] != len(expected["jobs"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
