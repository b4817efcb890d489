"""The Record as a job goes on: pure steps, the last one after Outcome and Verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from consumer.errors import internal
from consumer.model import Claim, Exit, Gap, LogPosition, Settlement, Verdict
from consumer.outcome import failure_text, has_begun, outcome_of_fault, overdue
from enqueue.record import Attempt, Link, Log, Outcome, Reason, Record, Status, Tally, Times, Where
from enqueue.times import rfc3339
from enqueue.variables import Variables

_NO_STREAM = Log(stream="")


@lru_cache(8)
def _place(executor: str, consumer: str) -> Where:
    return Where(executor=executor, consumer=consumer)


def record_claimed(claim: Claim, consumer: str, executor: str, stream: str) -> Record:
    """The Record of a claim that is about to start; what former attempts left in it stays.

    An attempt that ran already under a former consumer stays `running`: it must never be started again.
    """
    history, place = claim.history, _place(executor, consumer)
    begun = has_begun(claim)
    return Record(
        id=claim.id,
        queue=claim.queue,
        attempt=claim.attempt,
        token=claim.token,
        status=Status.RUNNING if begun else Status.STARTING,
        reason=history.reason if begun and history else None,
        message=history.message if begun and history else None,
        times=Times(
            queued=rfc3339(claim.queued_at) or (history.times.queued if history else None),
            claimed=history.times.claimed if begun and history else rfc3339(claim.claimed_at),
            started=history.times.started if begun and history else None,
        ),
        where=_merged(history.where, place) if begun and history and history.where.executor == executor else place,
        variables=history.variables if begun and history else Variables(),
        notices=history.notices if begun and history else (),
        large=history.large if begun and history else (),
        attempts=history.attempts if history else (),
        log=Log(stream=stream) if stream else _NO_STREAM,
        tags=claim.job.tags if claim.job else (),
        parent=claim.job.parent if claim.job else None,
        children=history.children if history else (),
    )


def record_running(
    record: Record, where: Where, started_at: float | None, said: Mapping[str, Any] = MappingProxyType({})
) -> Record:
    """The Record of a job that runs. `said`: what the job has said since, by the Record's fields."""
    return record.model_copy(
        update={
            "status": Status.RUNNING,
            "where": _merged(record.where, where),
            "times": record.times.model_copy(update={"started": rfc3339(started_at)}),
            **said,
        }
    )


def record_waiting(record: Record, where: Where, why: str) -> Record:
    """The Record of a job whose start takes long."""
    return record.model_copy(update={"where": _merged(record.where, where), "message": why})


def record_overdue(record: Record, timeout: float | None) -> Record:
    """The Record of a job that is about to be stopped: whoever goes on, should we die, knows what ended it."""
    return record.model_copy(update={"reason": Reason.DEADLINE.value, "message": overdue(timeout)})


def record_ended(
    record: Record, outcome: Outcome, verdict: Verdict, where: Where, exit: Exit | None, log: Log, now: float
) -> Record:
    """The Record after an attempt: final, or queued again with the attempt's outcome kept."""
    where = _merged(record.where, where)
    times = Times(
        queued=record.times.queued,
        due=record.times.due,
        claimed=record.times.claimed,
        started=rfc3339(exit.started_at) if exit and exit.started_at else record.times.started,
        ended=rfc3339(exit.ended_at if exit and exit.ended_at else now),
    )
    attempt = Attempt(
        attempt=record.attempt,
        status=outcome.status,
        reason=outcome.reason,
        message=outcome.message,
        hint=outcome.hint,
        exit_code=outcome.exit_code,
        times=times,
        where=where,
        log=log,
    )
    attempts = (*(a for a in record.attempts if a.attempt != record.attempt), attempt)
    if verdict is Verdict.RETRY:
        return record.model_copy(
            update={
                "status": Status.QUEUED,
                "attempts": attempts,
                "where": where,
                "times": Times(queued=record.times.queued),
                "progress": None,
                "notices": (),
                "large": (),
                "log": log,
            }
        )
    return record.model_copy(
        update={
            "status": outcome.status,
            "reason": outcome.reason,
            "message": outcome.message,
            "hint": outcome.hint,
            "exit_code": outcome.exit_code,
            "variables": outcome.variables,
            "result": outcome.result,
            "notices": outcome.notices,
            "where": where,
            "times": times,
            "attempts": attempts,
            "log": log,
        }
    )


def crashed(claim: Claim, error: Exception, consumer: str, executor: str, stream: str, now: float) -> Settlement:
    """The end of a job at which our own code failed: what is told then is as little as can be."""
    outcome = outcome_of_fault(internal(error))
    verdict = Verdict.BURY
    record = record_claimed(claim, consumer, executor, stream)
    record = record_ended(record, outcome, verdict, Where(), None, log_of(stream, LogPosition()), now)
    return Settlement(claim, verdict, outcome, record, failure_text(record, outcome, verdict, ()))


def _merged(old: Where, new: Where) -> Where:
    had = old.__dict__  # not by pydantic's own iterator, which costs more than all the rest
    known = {name: value for name, value in new.__dict__.items() if value is not None and value != had[name]}
    return old.model_copy(update=known) if known else old


_NOTHING, _NO_LOG = LogPosition(), Log(complete="no_gap_seen")


def log_of(stream: str | None, position: LogPosition, links: Sequence[Link] = (), written: Tally | None = None) -> Log:
    """What the Record says of the log. `written`: what the job counted of its own output."""
    if position == _NOTHING and not links and written is None:
        return _NO_LOG
    gaps, read = position.gaps, position.read
    if written is not None and read is not None and (missing := _unread(written, read, gaps)) is not None:
        gaps = (*gaps, missing.after(position.lines))
    if not position.entries and position.bytes and links and all(link.problem for link in links):
        gaps = (*gaps, _nowhere(position, links))
    complete = "gap" if gaps else "complete" if written is not None and written == read else "no_gap_seen"
    return Log(
        stream=stream if position.entries else None,
        entries=position.entries,
        lines=position.lines,
        bytes=position.bytes,
        gaps=gaps,
        complete=complete,
        links=tuple(links),
        digest=position.digest.hex() if position.entries and position.digest else None,
        written=written,
        read=read if written is not None else None,
    )


def _nowhere(position: LogPosition, links: Sequence[Link]) -> dict[str, Any]:
    """The gap of a log that no store has whole."""
    kept = max(link.bytes for link in links)
    size = position.bytes - kept - sum(gap.get("bytes", 0) for gap in position.gaps)
    lines = None if kept else position.lines - sum(gap.get("lines", 0) for gap in position.gaps)
    return Gap("not_stored", lines, max(0, size), "no store has all of the log: see its links").after(0)


def _unread(written: Tally, read: Tally, gaps: Sequence[Mapping[str, Any]]) -> Gap | None:
    """What the job wrote and nobody read; what its executor has dropped is counted in a gap of its own."""
    dropped = [gap for gap in gaps if gap.get("reason") == "output_dropped"]
    lines = written.lines - read.lines - sum(gap.get("lines", 0) for gap in dropped)
    size = written.bytes - read.bytes - sum(gap.get("bytes", 0) for gap in dropped)
    if lines <= 0 and size <= 0:
        return None
    return Gap("unread", max(lines, 0), max(size, 0), "the job wrote more than could be read")
