"""RQ's queues, audited: where each job stands, and whether its claim, its status and its Record agree. Reads only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from consumer.audit_kinds import Held
from consumer.model import AttemptKey, Standing
from consumer.queues.audit import FINAL, UNFINISHED, Reader, living, look_at_logs, record_of, text
from consumer.queues.standing import standing_of

_WAITS = {"queued": "queue", "scheduled": "scheduled", "deferred": "deferred"}
_OVER = ("finished", "failed", "canceled", "stopped")


async def look_at_rq(reader: Reader, queues: Sequence[str]) -> None:
    """Claims, and the jobs of these queues. Jobs that stock workers hold are theirs."""
    looked, places, claims = reader.looked, defaultdict(list), []
    for queue in queues:
        for job in await reader.entries(f"rq:queue:{queue}"):
            places[job].append(f"waits in '{queue}'")
        for kind in ("scheduled", "deferred"):
            for job in await reader.members(f"rq:{kind}:{queue}"):
                places[job].append(f"is {kind} in '{queue}'")
        for job in await reader.members(f"longshore:aside:{queue}"):
            looked.add("set_aside", job, f"the job {job} of '{queue}' was set aside: it couldn't be claimed")
            places[job].append(f"is set aside in '{queue}'")
        for member in await reader.members(f"rq:wip:{queue}"):
            job, _, token = member.rpartition(":")
            claims.append((queue, job or member, token))
            places[job or member].append(f"is claimed in '{queue}'")
    looked.count("claims", len(claims))
    for job, found in places.items():
        if len(found) > 1:
            looked.add("in_two_places", job, f"the job {job} {' and '.join(found)}")
    await _look_at_claims(reader, claims)
    await _look_at_jobs(reader, queues, places)


async def _look_at_claims(reader: Reader, claims: Sequence[tuple[str, str, str]]) -> None:
    looked = reader.looked
    holders = await reader.all(("HGET", f"rq:execution:{job}:{token}", "longshore") for _, job, token in claims)
    alive = await living(reader, map(text, holders))
    jobs = await reader.hashes(
        [f"rq:job:{job}" for _, job, _ in claims], "longshore_token", "longshore", "status", "worker_name"
    )
    for (queue, job, token), stored, row in zip(claims, holders, jobs, strict=True):
        holder, (current, record, status, name) = text(stored), row
        if not holder and current != token:
            continue  # a stock worker's
        if not status or current != token:
            why = "there is no such job" if not status else "the job has another claim"
            looked.add("claim_without_job", f"{job}:{token}", f"the claim {job}:{token} in '{queue}': {why}")
            continue
        if holder not in alive:
            why = f"the job {job} in '{queue}' is held by the consumer {name or holder}, which is gone"
            looked.add("claim_abandoned", job, why)
        said = record_of(record)
        if said.get("token") == token and said.get("status") in FINAL:
            looked.add("end_not_told", job, f"the job {job} has {said['status']}, and RQ counts it as started")
        where = said.get("where") or {}
        if said.get("status") == "running" and where.get("pod"):
            looked.held.append(Held(job, queue, where.get("namespace") or "", where["pod"]))


async def _look_at_jobs(reader: Reader, queues: Sequence[str], places: dict[str, list[str]]) -> None:
    looked = reader.looked
    whole = not looked.partial  # else what isn't in its queue may only be further behind
    keys = [key for key in await reader.scan("rq:job:*", "hash") if not key.startswith("rq:job::")]
    looked.count("jobs", len(keys))
    fields = ("status", "origin", "longshore", "longshore_token", "longshore_created", "created_at")
    ended = []
    for key, row in zip(keys, await reader.hashes(keys, *fields), strict=True):
        job, (status, origin, record, token, of, created) = key.removeprefix("rq:job:"), row
        if origin not in queues:
            continue
        said = record_of(record) if of == created else {}
        if whole and job not in places and status in _WAITS:
            looked.add("queued_nowhere", job, f"the job {job} of '{origin}' counts as {status} and stands nowhere")
        elif whole and job not in places and status == "started" and token:
            looked.add("started_without_claim", job, f"the job {job} of '{origin}' counts as started, without a claim")
        elif status in _OVER and said.get("status") in UNFINISHED:
            text = f"the job {job} of '{origin}' is {status} for RQ, and {said['status']} in its Record"
            looked.add("record_unfinished", job, text)
        elif status in _OVER and said.get("status") in FINAL:
            ended.append(job)
    await look_at_logs(reader, ended)


async def standings(reader: Reader, attempts: Sequence[AttemptKey]) -> list[Standing]:
    """Where attempts that somebody found stand."""
    rows = await reader.hashes([f"rq:job:{a.id}" for a in attempts], "status", "longshore_token", "longshore")
    held = await reader.all(
        ("ZSCORE", f"rq:wip:{a.queue}", f"{a.id}:{row[1]}") for a, row in zip(attempts, rows, strict=True)
    )
    found = []
    for attempt, (status, _, record), score in zip(attempts, rows, held, strict=True):
        word = "gone" if not status else "held" if score is not None else "waiting" if status in _WAITS else "over"
        found.append(standing_of((word.encode(), record.encode()), attempt.attempt))
    return found
