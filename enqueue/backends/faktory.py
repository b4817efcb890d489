"""Producing for Faktory: jobs by its own protocol, Records in the Redis beside it. No I/O (see `enqueue.protocol`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from enqueue.backends import faktory_scripts as scripts
from enqueue.errors import ProtocolError, RecordsUnavailable, UsageError
from enqueue.explain import Facts, limited
from enqueue.order import Order, Placed
from enqueue.protocol import Ask, Command, Push, Steps, cancelled_record, checked, whole
from enqueue.record import Record, Status, Times
from enqueue.times import rfc3339
from enqueue.wire import faktory as wire
from enqueue.wire import records as record_wire

_KEPT = 30 * 86_400
"""Seconds for which a cancellation outlives a job that waits in its queue."""


class FaktoryBackend:
    """A `Backend` for Faktory. `records`: there is a store of Records."""

    def __init__(self, default_queue: str, *, records: bool) -> None:
        self.default_queue = default_queue
        self._records = records

    def needs_records(self) -> None:
        """Raises RecordsUnavailable if there is no store of Records."""
        if not self._records:
            raise RecordsUnavailable(
                "Faktory keeps no records of its jobs: give the consumer and connect() the same records URL (a Redis)"
            )

    def arguments(self, order: Order) -> tuple[Order, dict[str, Any]]:
        """An order with its job as Faktory takes it. Raises InvalidJob, UsageError."""
        if order.at_front:
            raise UsageError("at_front: Faktory's queues have no front; use a queue that consumers ask first")
        if order.job_id is not None and len(order.job_id) < 8:
            raise UsageError("job_id: Faktory wants at least 8 characters")
        if order.key is not None:
            self.needs_records()
        if order.job.limit is not None and not self._records:
            raise UsageError(
                "limit: needs Records on Faktory: give the consumer and connect() the same records URL (a Redis)"
            )
        queue = order.queue or self.default_queue
        job = order.job
        return order, wire.build_job(job, queue, jid=order.job_id, at=order.due, payload=checked(job))

    def size(self, prepared: tuple[Order, dict[str, Any]]) -> int:
        """Bytes of the payload; of one without long texts the least that counts."""
        return sum(len(text) for text in (*prepared[0].job.commands, *prepared[0].job.args)) + sum(
            len(file.contents) for file in prepared[0].job.files
        )

    def enqueue(self, prepared: Sequence[tuple[Order, dict[str, Any]]]) -> Steps[list[Placed]]:
        """Push jobs. Those with a key, tags or a later time are noted in Redis first: Faktory can't be asked."""
        placed = yield from self._in_use(prepared)
        existed: set[int] = set()
        noted = [
            n
            for n, (order, _) in enumerate(prepared)
            if self._records and n not in placed and (order.key is not None or order.job.tags or order.due)
        ]
        if noted:
            bounds = (_KEPT, record_wire.KEY_KEPT, record_wire.TAG_MOST, record_wire.TAG_KEPT)
            args = [item for n in noted for item in _note(*prepared[n])]
            answers = yield Command(("EVAL", scripts.NOTE, 0, *bounds, *args))
            for n, (found, pushed) in zip(noted, answers, strict=True):
                payload, jid = prepared[n][1], found.decode()
                if jid != payload["jid"]:
                    existed.add(n)
                    payload["jid"] = jid
                if pushed:
                    placed[n] = Placed(jid, existed=n in existed)
        todo = {str(payload["jid"]): payload for n, (_, payload) in enumerate(prepared) if n not in placed}
        refused = (yield Push(tuple(todo.values()))) if todo else {}
        if told := [str(prepared[n][1]["jid"]) for n in noted if n not in placed]:
            yield Command(("EVAL", scripts.PUSHED, 0, *(a for jid in told for a in (jid, int(jid not in refused)))))
        return [placed.get(n) or _placed(payload, refused, n in existed) for n, (_, payload) in enumerate(prepared)]

    def _in_use(self, prepared: Sequence[tuple[Order, dict[str, Any]]]) -> Steps[dict[int, Placed]]:
        """The orders whose `job_id` has a Record already, refused."""
        named = [n for n, (order, _) in enumerate(prepared) if self._records and order.job_id is not None]
        if not named:
            return {}
        known = yield Command(("EVAL", scripts.KNOWN, 0, *(prepared[n][1]["jid"] for n in named)))
        text = "job_id: there is a record of a job '{}' already; choose another id"
        return {
            n: Placed(error=UsageError(text.format(prepared[n][1]["jid"])))
            for n, used in zip(named, known, strict=True)
            if used
        }

    def record(self, job_id: str) -> Steps[Record]:
        """Where a job stands. A job without a Record is taken to be queued: Faktory can't be asked."""
        self.needs_records()
        stored = yield Command(("HGET", record_wire.faktory_job_key(job_id), "longshore"))
        return (yield from whole(record_wire.read_record(stored) or Record(id=job_id)))

    def records(self, job_ids: Sequence[str]) -> Steps[list[Record | None]]:
        """The Records of some jobs in one round trip; None for one that has none (any more)."""
        self.needs_records()
        rows = yield Command(("EVAL", scripts.LOOK, 0, *job_ids))
        return [record_wire.read_record(stored) for stored in rows]

    def listed(self, queue: str | None, status: Status | None, limit: int) -> Steps[list[str]]:
        """Not to be had: raises UsageError."""
        raise UsageError("tag: is needed: of Faktory's jobs only those with tags can be listed")

    def facts(self, record: Record) -> Steps[Facts]:
        """What Faktory says of a job that waits: how many do."""
        info = yield Ask()
        queues = info.get("faktory", {}).get("queues", {})
        limit = yield from limited(record_wire.faktory_job_key(record.id))
        return Facts(length=int(queues.get(record.queue, 0)), limit=limit)

    def cancel(self, job_id: str) -> Steps[bool]:
        """Ask for a job's end; False if it has ended already."""
        self.needs_records()
        record = yield from self.record(job_id)
        data = cancelled_record(record, time.time()).dumps()
        answer = yield Command(("EVAL", scripts.CANCEL, 1, record_wire.faktory_job_key(job_id), job_id, data, _KEPT))
        return bool(answer != b"ended")


def _placed(payload: dict[str, Any], refused: dict[str, str], existed: bool) -> Placed:
    jid = str(payload["jid"])
    if jid in refused:
        return Placed(error=ProtocolError(f"Faktory refused the job: {refused[jid]}"))
    return Placed(jid, existed=existed)


def _note(order: Order, payload: dict[str, Any]) -> list[Any]:
    tags, times = order.job.tags, Times(queued=rfc3339(time.time()), due=rfc3339(order.due))
    record = Record(id=payload["jid"], queue=payload["queue"], tags=tags, times=times)
    return [payload["jid"], order.fingerprint, order.again, record.dumps(), len(tags), *tags]
