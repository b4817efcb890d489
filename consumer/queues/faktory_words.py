"""Between Faktory's words and ours, without any I/O: a fetched job as a Claim, a Settlement as commands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from consumer.errors import unforeseen
from consumer.model import Claim, Settlement, Verdict
from consumer.opslevel import LegacyJob, MakeLogJob, log_job, outcome_job
from enqueue.errors import InvalidJob
from enqueue.job import Job
from enqueue.record import Fault, Record, Status, fault_of
from enqueue.times import rfc3339
from enqueue.wire import faktory as wire
from enqueue.wire.call import Call, Load, the_job
from enqueue.wire.faktory_fetched import REQUEUES, Fetched

log = structlog.get_logger()

MARGIN = 30.0
"""Seconds before a reservation's end from which on the server may have taken the job back (its clock, its reaper)."""
REQUEUE_DELAY = 5.0
"""Seconds until a job that the infrastructure failed comes back."""
SPOILT_FOR = 300.0
"""Seconds until a job comes back that couldn't be claimed, since the key of its Record is of a wrong type."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The commands that end one claim.

    `before` is to be taken by the server before they are sent; `needs_before`: else the job would be lost.
    """

    token: str
    jid: str
    commands: tuple[bytes, ...]
    before: bytes | None = None
    needs_before: bool = False

    def dumps(self) -> str:
        """For whoever has to tell it in our place; without the token."""
        words = [command.decode("latin-1") for command in self.commands]
        before = self.before.decode("latin-1") if self.before is not None else None
        return json.dumps([words, before, self.needs_before], separators=(",", ":"))


def job_of(fetched: Fetched, max_bytes: int, load: Load = the_job) -> Job:
    """The Job of a fetched job. Raises InvalidJob with a sentence that names what is wrong."""
    native = fetched.native
    args = native.get("args")
    size = fetched.size
    if not fetched.truncated and size > max_bytes:
        size = len(json.dumps(args, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"))
    if size > max_bytes:
        raise InvalidJob(
            f"args: {size} bytes are more than the {max_bytes} allowed; "
            "put large input into object storage or the image"
        )
    if not isinstance(args, list):
        raise InvalidJob("args: must be a list")
    return load(Call(str(native.get("jobtype")), "jobtype", args, custom=fetched.custom))


def claim_of(
    fetched: Fetched,
    *,
    token: str,
    now: float,
    max_bytes: int,
    attempt: int | None = None,
    record: Record | None = None,
    cancelled: bool = False,
    load: Load = the_job,
) -> Claim:
    """The Claim of a fetched job; without a Record the server's own counter tells the attempt."""
    job: Job | None = None
    problem: str | None = None
    try:
        job = job_of(fetched, max_bytes, load)
    except InvalidJob as error:
        problem = str(error)
    except RecursionError:
        problem = "args: nested too deeply"
    except Exception as error:  # it must come to an end, too
        problem = unforeseen(error)
    return Claim(
        id=fetched.jid,
        queue=fetched.queue,
        attempt=attempt or fetched.failures + fetched.requeues + 1,
        token=token,
        job=job,
        problem=problem,
        retries_left=_retries_left(fetched, job, record),
        queued_at=fetched.queued_at,
        created=fetched.created,
        claimed_at=now,
        cancelled=cancelled,
        history=record,
        native=fetched.native,
    )


def _retries_left(fetched: Fetched, job: Job | None, record: Record | None) -> int:
    """What the Job still allows, as far as the server will go along: it buries a job that has no retry left.

    A reservation that ended with nobody having claimed the job was no try, though the server counts it as one.
    """
    if job is None or job.retries is None:
        return fetched.retries_left
    lost = fetched.expired and not fetched.requeues  # what we push again keeps its former failure
    failures = fetched.failures - lost
    if record is not None:
        ended = [attempt for attempt in record.attempts if attempt.status is Status.FAILED]
        failures = sum(fault_of(attempt.reason) is Fault.JOB for attempt in ended)
    return max(0, min(fetched.retries_left + lost, job.retries - failures))


def ending_of(settlement: Settlement, *, late: bool, now: float, failures: int = 0) -> Ending:
    """What to tell Faktory. `late`: the server may have taken the job back and put it into its retries.

    `failures`: as the server counted them when it last handed the job out: ended reservations count there as well.

    - done: the reply job, ACK; when late what the server made of the job meanwhile (a retry, a dead job) is discarded.
    - retry: FAIL, and the server's policy says when; a fault of the infrastructure doesn't count as the job's:
      the job is scheduled again under its jid, then ACKed. So is a job whose ended reservations have cost it the
      server's tries: by FAIL the server would bury it.
    - bury: the reply job, FAIL, and out of the retries into the dead set by jid. OpsLevel's are told as done.
    """
    claim, verdict = settlement.claim, settlement.verdict
    fetched = Fetched(claim.native, 0)
    before: bytes | None = None
    if verdict is not Verdict.RETRY and (reply := reply_of(settlement, fetched)):
        before = wire.push(reply)
    spent = max(failures, fetched.failures) + late >= fetched.retry
    if verdict is Verdict.RETRY and (settlement.infrastructure or spent):
        pushed = wire.push(_again(fetched, now + REQUEUE_DELAY))
        return Ending(claim.token, claim.id, _done(claim.id, late), pushed, needs_before=True)
    if verdict is Verdict.DONE or is_acked(claim.job):
        return Ending(claim.token, claim.id, _done(claim.id, late), before)
    outcome = settlement.outcome
    message = " ".join(part for part in (outcome.message, outcome.hint) if part)
    commands = [wire.fail(claim.id, outcome.reason or outcome.status.value, message, settlement.text.splitlines())]
    if verdict is Verdict.BURY and fetched.failures < fetched.retry:  # else the server buries it by itself
        commands.append(wire.mutate("kill", "retries", jid=claim.id))
    return Ending(claim.token, claim.id, tuple(commands), before)


def _done(jid: str, late: bool) -> tuple[bytes, ...]:
    left = [wire.mutate("discard", where, jid=jid) for where in ("retries", "dead")] if late else []
    return (wire.ack(jid), *left)


def untold_of(jid: str, token: str, stored: bytes, *, late: bool) -> Ending:
    """What a dead consumer was about to tell, or has told; as `dumps` has it. Twice does no harm."""
    words, before, needs = json.loads(stored)
    commands = tuple(word.encode("latin-1") for word in words)
    first = before.encode("latin-1") if before is not None else None
    if commands[0].startswith(b"ACK"):
        commands = _done(jid, late)
    return Ending(token, jid, commands, first, needs)


def outlives(claim: Claim, fetched: Fetched) -> bool:
    """The job may run when its reservation ends, and no retry would bring it back to whoever runs it."""
    timeout = claim.job.timeout if claim.job else 0.0
    return fetched.retry <= 0 and (timeout is None or timeout > fetched.reserve_for - MARGIN)


class Warnings:
    """What Faktory may do to jobs that run: told once for each queue and retry, not for each job."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str, int]] = set()

    def about(self, claim: Claim, fetched: Fetched) -> None:
        """Warn of what this job shows, if nobody was warned yet."""
        if fetched.retry == 0:
            self._once("retry_is_0", fetched, meaning="Faktory forgets it if it fails or its reservation ends")
        if outlives(claim, fetched):
            self._once("reservation_may_end_first", fetched, reserve_for=fetched.reserve_for)

    def _once(self, event: str, fetched: Fetched, **facts: object) -> None:
        kind = event, fetched.queue, fetched.retry
        if kind not in self._told:
            self._told.add(kind)
            log.warning(event, job_id=fetched.jid, queue=fetched.queue, retry=fetched.retry, **facts)


def ack_of(jid: str) -> Ending:
    """For a job that came again after its end."""
    return Ending("", jid, (wire.ack(jid),))


def is_acked(job: Job | None) -> bool:
    """Its failure is told by its reply alone, as OpsLevel's runner does: to Faktory it is done."""
    return isinstance(job, LegacyJob)


def bury_of(fetched: Fetched) -> Ending:
    """For a job that came again although it had failed for good."""
    commands = [wire.fail(fetched.jid, "failed", "The job had failed for good before its reservation ended.")]
    if fetched.failures < fetched.retry:
        commands.append(wire.mutate("kill", "retries", jid=fetched.jid))
    return Ending("", fetched.jid, tuple(commands))


def reply_of(settlement: Settlement, fetched: Fetched) -> dict[str, Any] | None:
    """The reply job with the Record, if the Job or `custom.reply_to` asks for one.

    Its jid follows from job and attempt, so that a reply which is sent twice can be told.
    """
    claim = settlement.claim
    if isinstance(claim.job, LegacyJob):
        return outcome_job(settlement, claim.job)
    queue = _reply_queue(claim, fetched)
    if queue is None:
        return None
    seed = f"{claim.id}\n{claim.attempt}\n{wire.OUTCOME_NAME}"
    record = settlement.record
    if record.large and record.status.final:  # who gets the reply may have no Redis to read them from
        record = record.model_copy(update={"variables": settlement.outcome.variables, "large": ()})
    return _reply(wire.OUTCOME_NAME, json.loads(record.dumps()), seed, queue, claim.id)


def log_jobs_of(claim: Claim) -> MakeLogJob | None:
    """How the log's lines become jobs, if the job asks for that: OpsLevel's, or `custom.reply_logs` with a reply_to."""
    job = claim.job
    if isinstance(job, LegacyJob):
        return lambda line, lines, now: log_job(claim.id, claim.attempt, job, line, lines, now)
    fetched = Fetched(claim.native, 0)
    queue = _reply_queue(claim, fetched)
    if queue is None or fetched.custom.get("reply_logs") is not True:
        return None

    def make(line: int, lines: Sequence[bytes], now: float) -> dict[str, Any]:
        text = "".join(f"{text.decode('utf-8', 'replace')}\n" for text in lines)
        said = {"id": claim.id, "attempt": claim.attempt, "after_line": line, "sent": rfc3339(now), "text": text}
        seed = f"{claim.id}\n{claim.attempt}\n{wire.LOG_NAME}\n{line}"
        return _reply(wire.LOG_NAME, said, seed, queue, claim.id)

    return make


def _reply_queue(claim: Claim, fetched: Fetched) -> str | None:
    queue = (claim.job.reply_to if claim.job else None) or fetched.custom.get("reply_to")
    return queue if isinstance(queue, str) and wire.is_queue_name(queue) else None


def _reply(kind: str, said: Any, seed: str, queue: str, jid: str) -> dict[str, Any]:
    return {
        "jid": hashlib.sha256(seed.encode()).hexdigest()[:32],
        "queue": queue,
        "jobtype": kind,
        "args": [said],
        "retry": 25,
        "custom": {"reply_for": jid},
    }


def later_of(fetched: Fetched, now: float) -> Ending:
    """For a job whose Record's key somebody wrote over: it comes again. One that can't be read fails, as it would."""
    key = f"longshore:job:{fetched.jid}"
    log.error("key_unusable", job_id=fetched.jid, error=f"{key} is no hash", fix=f"delete {key}, or mend it")
    if not fetched.raw:
        return bury_of(fetched)
    again = wire.push(_again(fetched, now + SPOILT_FOR, requeues=0))
    return Ending("", fetched.jid, _done(fetched.jid, late=False), again, needs_before=True)


def parked_of(claim: Claim, at: float, *, late: bool) -> Ending:
    """For a job that waits for its limit: it is scheduled under its jid, then ACKed. Nothing is counted."""
    again = wire.push(_again(Fetched(claim.native, 0), at, requeues=0))
    return Ending(claim.token, claim.id, _done(claim.id, late), again, needs_before=True)


def _again(fetched: Fetched, at: float, requeues: int = 1) -> dict[str, Any]:
    job = {key: value for key, value in fetched.native.items() if key != "enqueued_at"}
    if requeues:
        job["custom"] = {**fetched.custom, REQUEUES: fetched.requeues + requeues}
    return job | {"retry": fetched.retry, "at": rfc3339(at)}
