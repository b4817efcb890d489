"""Producing for RQ: the keys that stock RQ writes, the Record beside them. No I/O (see `enqueue.protocol`)."""

from __future__ import annotations

import time
import uuid

from enqueue.errors import UsageError
from enqueue.job import Job
from enqueue.protocol import Command, Steps, cancelled_record, checked, unknown
from enqueue.record import HINTS, Reason, Record, Status, Times, rfc3339
from enqueue.wire import records as record_wire
from enqueue.wire import rq as wire

_STATUS = {
    b"finished": Status.SUCCEEDED,
    b"failed": Status.FAILED,
    b"canceled": Status.CANCELLED,
    b"stopped": Status.CANCELLED,
    b"started": Status.STARTING,
}

_ENQUEUE = """
-- KEYS: the job. 1 id, 2 queue, 3 mark of this call, fields... Sent again (its answer was lost), it changes nothing.
if redis.call('HGET', KEYS[1], 'longshore_call') == ARGV[3] then return 0 end
local status = redis.call('HGET', KEYS[1], 'status')
local over = {finished = true, failed = true, canceled = true, stopped = true}
if status and not over[status] then return -1 end
for _, queue in ipairs({ARGV[2], redis.call('HGET', KEYS[1], 'origin') or ARGV[2]}) do  -- an earlier job with this id
  for _, kind in ipairs({'finished', 'failed', 'canceled'}) do
    redis.call('ZREM', 'rq:' .. kind .. ':' .. queue, ARGV[1])
  end
end
redis.call('DEL', KEYS[1], 'rq:results:' .. ARGV[1], 'longshore:log:' .. ARGV[1])
redis.call('HSET', KEYS[1], 'longshore_call', ARGV[3], unpack(ARGV, 4))
redis.call('SADD', 'rq:queues', 'rq:queue:' .. ARGV[2])
redis.call('RPUSH', 'rq:queue:' .. ARGV[2], ARGV[1])
return 1
"""

_CANCEL = """
-- KEYS: the job. 1 id, 2 the record if it is cancelled now, 3 ttl, 4 now
local key = KEYS[1]
local status = redis.call('HGET', key, 'status')
if not status then return 'unknown' end
if status == 'finished' or status == 'failed' or status == 'canceled' or status == 'stopped' then return 'ended' end
if status == 'started' then
  redis.call('HSET', key, 'longshore_cancel', '1')
  redis.call('PUBLISH', 'longshore:cancel', ARGV[1])
  return 'requested'
end
local queue = redis.call('HGET', key, 'origin') or ''
redis.call('LREM', 'rq:queue:' .. queue, 0, ARGV[1])
redis.call('ZREM', 'rq:scheduled:' .. queue, ARGV[1])
redis.call('ZREM', 'rq:deferred:' .. queue, ARGV[1])
redis.call('HSET', key, 'status', 'canceled', 'longshore', ARGV[2], 'longshore_status', 'cancelled')
redis.call('ZADD', 'rq:canceled:' .. queue, ARGV[4], ARGV[1])
redis.call('EXPIRE', key, ARGV[3])
redis.call('EXPIRE', 'rq:results:' .. ARGV[1], ARGV[3])
redis.call('EXPIRE', 'longshore:log:' .. ARGV[1], ARGV[3])
redis.call('PUBLISH', 'longshore:record:' .. ARGV[1], 'cancelled')
return 'cancelled'
"""

_KEPT = 7 * 86_400


class RqBackend:
    """A `Backend` for RQ. `serializer`: RQ's default reads "pickle" (of plain values), its JSONSerializer "json"."""

    def __init__(self, default_queue: str, serializer: wire.Serializer = "pickle") -> None:
        self.default_queue = default_queue
        self._serializer = serializer

    def needs_records(self) -> None:
        """RQ keeps the Record with the job."""

    def enqueue(self, job: Job, queue: str, job_id: str | None) -> Steps[str]:
        """Put one job on a queue; its id. Raises UsageError for an id that is in use."""
        new_id, fields = wire.new_job(wire.suited(checked(job)), queue, job_id=job_id, serializer=self._serializer)
        flat = [item for pair in fields.items() for item in pair]
        once = uuid.uuid4().hex
        answer = yield Command(("EVAL", _ENQUEUE, 1, wire.job_key(new_id), new_id, queue, once, *flat))
        if answer == -1:
            raise UsageError(f"job_id: a job '{new_id}' hasn't ended yet; choose another id")
        return new_id

    def record(self, job_id: str) -> Steps[Record]:
        """Where a job stands: the Record, unless RQ itself knows better. Raises UnknownJob."""
        names = ("status", "longshore", "origin", "enqueued_at", "ended_at")
        status, stored, origin, queued, ended = yield Command(("HMGET", wire.job_key(job_id), *names))
        if status is None:
            raise unknown(job_id)
        record = record_wire.read_record(stored)
        now = _STATUS.get(status, Status.QUEUED)
        if record is None:
            record = Record(
                id=job_id,
                queue=(origin or b"").decode(),
                times=Times(queued=rfc3339(wire.from_utc(queued)), ended=rfc3339(wire.from_utc(ended))),
            )
        if now.final and not record.status.final:
            return _told_by_rq(record, now)
        if record.status.final and not now.final:
            return Record(id=job_id, queue=record.queue, attempt=record.attempt, status=now, attempts=record.attempts)
        if not record.status.final and now is Status.QUEUED:
            return record.model_copy(update={"status": Status.QUEUED})
        return record

    def cancel(self, job_id: str) -> Steps[bool]:
        """Ask for a job's end; False if it has ended already. Raises UnknownJob."""
        now = time.time()
        record = yield from self.record(job_id)
        data = cancelled_record(record, now).dumps()
        answer = yield Command(("EVAL", _CANCEL, 1, wire.job_key(job_id), job_id, data, _KEPT, int(now)))
        if answer == b"unknown":
            raise unknown(job_id)
        return bool(answer != b"ended")


def _told_by_rq(record: Record, status: Status) -> Record:
    """RQ has ended a job whose Record hasn't heard of it: by a stock cancel, or since its consumer seemed dead."""
    if status is Status.SUCCEEDED:
        return record.model_copy(update={"status": status})
    reason = Reason.REQUESTED if status is Status.CANCELLED else Reason.CONSUMER_LOST
    message = "cancelled through RQ" if status is Status.CANCELLED else "RQ counts the job as abandoned"
    return record.model_copy(
        update={"status": status, "reason": reason.value, "message": message, "hint": HINTS[reason]}
    )
