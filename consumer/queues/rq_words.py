"""Between RQ's words and ours, without any I/O: a claimed row as a Claim, a Settlement as a script's arguments."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any

from consumer.errors import unforeseen
from consumer.model import Claim, Settlement, Verdict
from consumer.queues.limits import key_of
from consumer.queues.rq_follow_up import NO_WISHES, Wishes, callback_of, refusal, webhooks_of, wishes_of
from consumer.settings import Retention, Rq
from consumer.typed import TypedJob
from enqueue.errors import InvalidJob
from enqueue.job import JOB_NAME, Job
from enqueue.record import Record, Status, job_failures
from enqueue.wire import records as record_wire
from enqueue.wire import rq as wire
from enqueue.wire.call import Call, Load, the_job

_RESULT = {"finished": "1", "failed": "2", "stopped": "2", "queued": "4", "scheduled": "4"}

LONGEST = 10 * 365 * 86_400
"""Seconds: a longer time of RQ's counts as this, since Redis refuses times that it can't add to the clock."""


@dataclass(slots=True)
class Native:
    """What RQ knows of a claim and we need at its end."""

    serializer: wire.Serializer
    meta: bytes
    """As it is in Redis, as far as we know."""
    result_ttl: int | None
    failure_ttl: int | None
    retries_left: int | None
    retry_intervals: list[int]
    at_front: bool
    wishes: Wishes = NO_WISHES
    stopped: bool = False
    """Somebody sent RQ's command `stop-job`."""
    _read: tuple[bytes, dict[Any, Any] | None] | None = None

    def meta_change(self, record: Record) -> list[Any]:
        """Whether to touch the job's meta, what it must be now, what it shall be."""
        if self._read is None or self._read[0] != self.meta:
            self._read = self.meta, wire.read_meta(self.meta)
        value = self._read[1]
        if value is not None:
            with contextlib.suppress(TypeError, ValueError, RecursionError):  # such as bytes, and the answer is JSON
                return ["1", self.meta, wire.meta_with(value, record.short, self.serializer)]
        return ["0", "", ""]

    def meta_changed(self, fresh: bytes) -> None:
        """The change was taken."""
        if fresh:
            value = self._read[1] if self._read else None
            self.meta, self._read = fresh, (fresh, value)


def claim_of(row: list[Any], max_bytes: int, load: Load = the_job, callback_queue: str | None = None) -> Claim:
    """The Claim of a row that the claim scripts return. Without a `callback_queue` no job may have callbacks."""
    job_id, queue, token = row[0].decode(), row[1].decode(), row[2].decode()
    attempt, size, data = int(row[3]), int(row[4]), row[5]
    meta, timeout, result_ttl, failure_ttl, retries_left, intervals, at_front, enqueued_at = row[6][:8]
    record, cancel, created = row[6][8:11]
    job, problem, serializer = None, None, wire.serializer_of(data)
    function = JOB_NAME

    def noted(call: Call) -> Job:
        nonlocal function
        function = call.name
        return load(call)

    try:
        if size > max_bytes:
            raise InvalidJob(
                f"the payload is {size} bytes; at most {max_bytes} are accepted (put large input elsewhere)"
            )
        job, serializer = wire.read_payload(data, max_bytes, noted)
    except InvalidJob as error:
        problem = str(error)
    except Exception as error:  # it must come to an end, too
        problem = unforeseen(error)
    history = record_wire.read_record(record)
    left = wire.whole(retries_left)
    seconds = wire.whole(timeout)
    allowed = left
    if allowed is None:
        failures = job_failures(history)
        allowed = max(0, (job.retries or 0) - failures) if job else 0
    try:
        pauses = [min(LONGEST, max(0, int(pause))) for pause in json.loads(intervals or b"[]")]
    except (ValueError, TypeError, OverflowError, RecursionError):
        pauses = []
    wishes = wishes_of(row[6][11:], function, enqueued_at)
    return Claim(
        id=job_id,
        queue=queue,
        attempt=attempt,
        token=token,
        job=job,
        problem=problem,
        refusal=refusal(wishes) if wishes.callbacks and not callback_queue else None,
        timeout=float(min(LONGEST, seconds)) if seconds and seconds > 0 else None,
        retries_left=allowed,
        queued_at=wire.from_utc(enqueued_at),
        created=(created or b"")[:64].decode("ascii", "replace"),
        claimed_at=time.time(),
        cancelled=bool(cancel),
        history=history,
        native=Native(
            serializer,
            meta or b"",
            wire.whole(result_ttl),
            wire.whole(failure_ttl),
            left,
            pauses,
            at_front == b"1",
            wishes,
        ),
    )


def settling(settlement: Settlement, retention: Retention, consumer: str, rq: Rq) -> list[Any]:
    """The arguments of the settle script."""
    claim, record, outcome = settlement.claim, settlement.record, settlement.outcome
    native: Native = claim.native
    status, pause = _status_of(settlement), 0
    if settlement.verdict is Verdict.RETRY:
        pause = _pause(settlement)
        status = "scheduled" if pause else "queued"
    kind, text = _RESULT.get(status, ""), settlement.text
    if status == "stopped":
        text = f"Job stopped by user: {outcome.message}"
    field, value = "", ""
    if kind == "1":
        own = isinstance(claim.job, TypedJob) and claim.job.returns
        result = outcome.result if own else outcome.model_dump(mode="json", exclude={"result"})
        field, value = "return_value", wire.pack_value(result, native.serializer)
    elif kind:
        field, value = "exc_string", wire.pack_text(text)
    ended = time.time()
    fewer = settlement.verdict is Verdict.RETRY and not settlement.infrastructure and bool(native.retries_left)
    return [
        claim.id,
        claim.queue,
        claim.token,
        status,
        wire.utc(ended),
        record.dumps(),
        record.status.value,
        kind,
        field,
        value,
        _ttl(native, claim, outcome.status, retention),
        *native.meta_change(record),
        consumer,
        claim.claimed_at,
        ended,
        "1" if native.at_front else "0",
        "1" if fewer else "0",
        pause,
        key_of(claim),
        *callback_of(settlement, native, status, text, rq, ended),
        *webhooks_of(claim, native.wishes, status, text, rq, ended),
    ]


def _status_of(settlement: Settlement) -> str:
    """The word that RQ has for the end."""
    if settlement.outcome.status is Status.CANCELLED:
        return "stopped" if settlement.claim.native.stopped else "canceled"
    return "finished" if settlement.outcome.status is Status.SUCCEEDED else "failed"


def _pause(settlement: Settlement) -> int:
    """Seconds until the next try."""
    native: Native = settlement.claim.native
    if not native.retry_intervals or settlement.infrastructure or not native.retries_left:
        return 0
    index = max(0, len(native.retry_intervals) - native.retries_left)
    return native.retry_intervals[min(index, len(native.retry_intervals) - 1)]


def _ttl(native: Native, claim: Claim, status: Status, retention: Retention) -> int:
    success = status is Status.SUCCEEDED
    own = native.result_ttl if success else native.failure_ttl
    if own is not None:
        return min(LONGEST, own)
    wanted = claim.job.retention if claim.job else None
    chosen = (wanted.success if success else wanted.failure) if wanted else None
    return chosen or (retention.success if success else retention.failure)
