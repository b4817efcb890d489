"""Producing for RQ: the keys that stock RQ writes, the Record beside them. No I/O (see `enqueue.protocol`)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from enqueue.backends import rq_scripts as scripts
from enqueue.errors import UsageError
from enqueue.explain import Facts, limited
from enqueue.order import Order, Placed
from enqueue.protocol import Command, Steps, cancelled_record, checked, unknown, whole
from enqueue.record import HINTS, Reason, Record, Status, Times
from enqueue.times import rfc3339
from enqueue.wire import records as record_wire
from enqueue.wire import rq as wire

_STATUS = {
    b"finished": Status.SUCCEEDED,
    b"failed": Status.FAILED,
    b"canceled": Status.CANCELLED,
    b"stopped": Status.CANCELLED,
    b"started": Status.STARTING,
}

_FIELDS = ("status", "longshore", "origin", "enqueued_at", "ended_at", "longshore_tags")

_LISTS = {
    Status.STARTING: ("wip",),
    Status.RUNNING: ("wip",),
    Status.QUEUED: ("queue", "scheduled", "deferred"),
    Status.SUCCEEDED: ("finished",),
    Status.FAILED: ("failed",),
    Status.CANCELLED: ("canceled", "failed"),
}
"""Where RQ keeps the ids of such jobs."""

_KEPT = 7 * 86_400


class RqBackend:
    """A `Backend` for RQ. `serializer`: RQ's default reads "pickle" (of plain values), its JSONSerializer "json"."""

    def __init__(self, default_queue: str, serializer: wire.Serializer = "pickle") -> None:
        self.default_queue = default_queue
        self._serializer = serializer

    def needs_records(self) -> None:
        """RQ keeps the Record with the job."""

    def arguments(self, order: Order) -> list[Any]:
        """An order as the script takes it; its size is that of the payload. Raises InvalidJob."""
        queue, job = order.queue or self.default_queue, wire.suited(order.job)
        job_id, fields = wire.new_job(
            job, queue, job_id=order.job_id, serializer=self._serializer, payload=checked(job), due=order.due
        )
        flat = [item for pair in fields.items() for item in pair]
        due = "" if order.due is None else int(-(-order.due // 1))
        front = int(order.at_front)
        return [
            job_id, queue, order.fingerprint, order.again, due, front, len(job.tags), len(flat), *job.tags, *flat
        ]  # fmt: skip

    def size(self, prepared: list[Any]) -> int:
        """Bytes of what `arguments` made, but for a little."""
        return sum(len(item) for item in prepared if isinstance(item, (bytes, str)))

    def enqueue(self, prepared: Sequence[list[Any]]) -> Steps[list[Placed]]:
        """Put jobs on their queues in one step."""
        args = [item for order in prepared for item in order]
        bounds = (record_wire.KEY_KEPT, record_wire.TAG_MOST, record_wire.TAG_KEPT)
        answers = yield Command(("EVAL", scripts.ENQUEUE, 0, uuid.uuid4().hex, *bounds, *args))
        return [_placed(order[0], answer) for order, answer in zip(prepared, answers, strict=True)]

    def record(self, job_id: str) -> Steps[Record]:
        """Where a job stands: the Record, unless RQ itself knows better. Raises UnknownJob."""
        row = yield Command(("HMGET", wire.job_key(job_id), *_FIELDS))
        record = _record_of(job_id, row)
        if record is None:
            raise unknown(job_id)
        return (yield from whole(record))

    def records(self, job_ids: Sequence[str]) -> Steps[list[Record | None]]:
        """The same of some jobs in one round trip; None for one that isn't there."""
        rows = yield Command(("EVAL", scripts.LOOK, 0, len(_FIELDS), *_FIELDS, *job_ids))
        return [_record_of(job_id, row) for job_id, row in zip(job_ids, rows, strict=True)]

    def listed(self, queue: str | None, status: Status | None, limit: int) -> Steps[list[str]]:
        """Ids of a queue's jobs: those that run, that wait, that have ended, the newest of these first."""
        kinds = _LISTS[status] if status is not None else tuple(dict.fromkeys(k for ks in _LISTS.values() for k in ks))
        found = yield Command(("EVAL", scripts.LIST, 0, queue or self.default_queue, limit, *kinds))
        return list(dict.fromkeys(name.decode() for name in found))

    def facts(self, record: Record) -> Steps[Facts]:
        """What RQ says of a job that waits."""
        row = yield Command(("EVAL", scripts.FACTS, 0, record.id, record.queue))
        suspended, place, length, due, dependencies = row
        names = [text.decode() for text in dependencies]
        limit = yield from limited(wire.job_key(record.id))
        return Facts(
            suspended=bool(suspended),
            listed=place >= 0 or length > scripts.LOOKED_AT,
            ahead=place if place >= 0 else None,
            length=length,
            due=float(due) if due else None,
            waits_for=tuple(zip(names[::2], names[1::2], strict=True)),
            limit=limit,
        )

    def cancel(self, job_id: str) -> Steps[bool]:
        """Ask for a job's end; False if it has ended already. Raises UnknownJob."""
        now = time.time()
        record = yield from self.record(job_id)
        data = cancelled_record(record, now).dumps()
        answer = yield Command(("EVAL", scripts.CANCEL, 1, wire.job_key(job_id), job_id, data, _KEPT, int(now)))
        if answer == b"unknown":
            raise unknown(job_id)
        return bool(answer != b"ended")


def _record_of(job_id: str, row: Sequence[bytes | None]) -> Record | None:
    """What Record and RQ say together; None for no job."""
    status, stored, origin, queued, ended, tags = row
    if status is None:
        return None
    record = record_wire.read_record(stored)
    now = _STATUS.get(status, Status.QUEUED)
    if record is None:
        record = Record(
            id=job_id,
            queue=(origin or b"").decode(),
            status=Status.QUEUED if now.final else now,
            times=Times(queued=rfc3339(wire.from_utc(queued)), ended=rfc3339(wire.from_utc(ended))),
            tags=tuple((tags or b"").decode("utf-8", "replace").split()),
        )
    if now.final and not record.status.final:
        return _told_by_rq(record, now, ours=stored is not None and record.status is not Status.QUEUED)
    if {now, record.status} == {Status.SUCCEEDED, Status.FAILED}:  # it was requeued, and a stock worker took it
        former = Record(id=job_id, queue=record.queue, attempt=record.attempt, attempts=record.attempts)
        return _told_by_rq(former, now, ours=False)
    if record.status.final and not now.final:
        return Record(id=job_id, queue=record.queue, attempt=record.attempt, status=now, attempts=record.attempts)
    if not record.status.final and now is Status.QUEUED:
        return record.model_copy(update={"status": Status.QUEUED})
    return record


def _placed(job_id: str, answer: bytes | int) -> Placed:
    if isinstance(answer, int):
        return Placed(error=UsageError(f"job_id: a job '{job_id}' hasn't ended yet; choose another id"))
    found = answer.decode()
    return Placed(found, existed=found != job_id)


def _told_by_rq(record: Record, status: Status, *, ours: bool) -> Record:
    """RQ has ended a job whose Record hasn't heard of it: by a stock cancel, in a stock worker, or (`ours`: a consumer
    had it) since its consumer seemed dead."""
    if status is Status.SUCCEEDED:
        return record.model_copy(update={"status": status})
    if status is Status.CANCELLED:
        reason, message = Reason.REQUESTED, "cancelled through RQ"
    elif ours:
        reason, message = Reason.CONSUMER_LOST, "RQ counts the job as abandoned"
    else:
        reason, message = Reason.EXCEPTION, "it failed in a stock RQ worker"
    hint = HINTS[reason] if reason is not Reason.EXCEPTION else "RQ's own result of the job holds the traceback."
    return record.model_copy(update={"status": status, "reason": reason.value, "message": message, "hint": hint})
