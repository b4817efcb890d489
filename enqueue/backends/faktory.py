"""Producing for Faktory: jobs by its own protocol, Records in the Redis beside it. No I/O (see `enqueue.protocol`)."""

from __future__ import annotations

import time

from enqueue.errors import ProtocolError, RecordsUnavailable, UsageError
from enqueue.job import Job
from enqueue.protocol import Command, Push, Steps, cancelled_record, checked
from enqueue.record import Record
from enqueue.wire import faktory as wire
from enqueue.wire import records as record_wire

_CANCEL = """
-- KEYS: the job. 1 id, 2 the record if it is cancelled now, 3 ttl
local key = KEYS[1]
local status = redis.call('HGET', key, 'longshore_status')
if status == 'succeeded' or status == 'failed' or status == 'cancelled' then return 'ended' end
if status and status ~= 'queued' then
  redis.call('HSET', key, 'longshore_cancel', '1')
  redis.call('PUBLISH', 'longshore:cancel', ARGV[1])
  return 'requested'
end
redis.call('HSET', key, 'longshore', ARGV[2], 'longshore_status', 'cancelled')
redis.call('EXPIRE', key, ARGV[3])
redis.call('PUBLISH', 'longshore:record:' .. ARGV[1], 'cancelled')
return 'cancelled'
"""

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

    def enqueue(self, job: Job, queue: str, job_id: str | None) -> Steps[str]:
        """Push one job; its jid."""
        if job_id is not None and len(job_id) < 8:
            raise UsageError("job_id: Faktory wants at least 8 characters")
        if job_id is not None and self._records:
            used = yield Command(("EXISTS", record_wire.faktory_job_key(job_id)))
            if used:
                raise UsageError(f"job_id: there is a record of a job '{job_id}' already; choose another id")
        payload = wire.build_job(checked(job), queue, jid=job_id)
        refused = yield Push((payload,))
        if refused:
            raise ProtocolError(f"Faktory refused the job: {next(iter(refused.values()))}")
        return str(payload["jid"])

    def record(self, job_id: str) -> Steps[Record]:
        """Where a job stands. A job without a Record is taken to be queued: Faktory can't be asked."""
        self.needs_records()
        stored = yield Command(("HGET", record_wire.faktory_job_key(job_id), "longshore"))
        return record_wire.read_record(stored) or Record(id=job_id)

    def cancel(self, job_id: str) -> Steps[bool]:
        """Ask for a job's end; False if it has ended already."""
        self.needs_records()
        record = yield from self.record(job_id)
        data = cancelled_record(record, time.time()).dumps()
        answer = yield Command(("EVAL", _CANCEL, 1, record_wire.faktory_job_key(job_id), job_id, data, _KEPT))
        return bool(answer != b"ended")
