"""The Records of Faktory's jobs, audited: claims, holders, what Faktory wasn't told. Reads only.

What lies in Faktory's own queues and sets can't be listed by its protocol; a job that only Faktory knows is its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.audit_kinds import Held
from consumer.model import AttemptKey, Standing
from consumer.queues.audit import FINAL, UNFINISHED, Reader, living, look_at_logs, record_of
from consumer.queues.standing import standing_of

_FIELDS = (
    "longshore_status",
    "longshore_instance",
    "longshore_ending",
    "longshore_queue",
    "longshore_payload",
    "longshore",
)


async def look_at_faktory(reader: Reader, queues: Sequence[str]) -> None:
    """Claims, and the Records of these queues' jobs."""
    looked = reader.looked
    claims = [(queue, jid) for queue in queues for jid in await reader.members(f"longshore:claims:{queue}")]
    looked.count("claims", len(claims))
    rows = await reader.hashes([f"longshore:job:{jid}" for _, jid in claims], *_FIELDS)
    alive = await living(reader, (row[1] for row in rows))
    for (queue, jid), (status, holder, ending, _, payload, record) in zip(claims, rows, strict=True):
        if not status or not (payload or ending):
            why = "nothing is known of the job" if not status else f"the job is {status}"
            looked.add("claim_without_job", jid, f"the claim {jid} in '{queue}': {why}")
        elif ending:
            text = f"the job {jid} of '{queue}' has an outcome, {status}, of which Faktory wasn't told"
            looked.add("end_not_told", jid, text)
        elif holder not in alive:
            said = record_of(record).get("where") or {}
            who = said.get("consumer") or holder
            text = f"the job {jid} in '{queue}' is held by the consumer {who}, which is gone"
            looked.add("claim_abandoned", jid, text)
    claimed = {jid for _, jid in claims}
    whole, keys = not looked.partial, await reader.scan("longshore:job:*")
    looked.count("jobs", len(keys))
    ended = []
    for key, row in zip(keys, await reader.hashes(keys, *_FIELDS), strict=True):
        jid, (status, _, _, queue, _, record) = key.removeprefix("longshore:job:"), row
        if queue not in queues:
            continue
        if status in UNFINISHED:
            if whole and jid not in claimed:
                text = f"the job {jid} of '{queue}' counts as {status}, without a claim"
                looked.add("started_without_claim", jid, text)
            where = record_of(record).get("where") or {}
            if status == "running" and where.get("pod"):
                looked.held.append(Held(jid, queue, where.get("namespace") or "", where["pod"]))
        elif status in FINAL:
            ended.append(jid)
    await look_at_logs(reader, ended)


async def standings(reader: Reader, attempts: Sequence[AttemptKey]) -> list[Standing]:
    """Where attempts that somebody found stand."""
    rows = await reader.hashes([f"longshore:job:{a.id}" for a in attempts], "longshore_status", "longshore")
    found = []
    for attempt, (status, record) in zip(attempts, rows, strict=True):
        word = "gone" if not status else "held" if status in UNFINISHED else "waiting" if status == "queued" else "over"
        found.append(standing_of((word.encode(), record.encode()), attempt.attempt))
    return found
