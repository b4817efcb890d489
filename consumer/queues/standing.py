"""What the Records know of an attempt whose pod somebody found, in one look at the job's hash."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.model import Standing
from enqueue.record import Status
from enqueue.wire.records import read_record

RQ_STANDING = """
-- KEYS: the job's hash. 1 id, 2 queue -> gone, held, waiting or over, and the Record
local fields = redis.call('HMGET', KEYS[1], 'status', 'longshore_token', 'longshore')
if redis.call('EXISTS', KEYS[1]) == 0 then return {'gone', ''} end
if fields[2] and redis.call('ZSCORE', 'rq:wip:' .. ARGV[2], ARGV[1] .. ':' .. fields[2]) then return {'held', ''} end
local waits = {created = true, queued = true, scheduled = true, deferred = true}
return {waits[fields[1]] and 'waiting' or 'over', fields[3] or ''}
"""

FAKTORY_STANDING = """
-- KEYS: the job's hash -> gone, held, waiting or over, and the Record
local fields = redis.call('HMGET', KEYS[1], 'longshore_status', 'longshore')
local status = fields[1]
if not status then return {'gone', ''} end
if status == 'claimed' or status == 'starting' or status == 'running' then return {'held', ''} end
return {status == 'queued' and 'waiting' or 'over', fields[2] or ''}
"""


def standing_of(answer: Sequence[bytes], attempt: int) -> Standing:
    """A script's answer in the caller's words: where this attempt stands."""
    job, stored = answer
    if job == b"held":
        return Standing.HELD
    record = read_record(stored)
    ended = next((a for a in record.attempts if a.attempt == attempt), None) if record else None
    if ended is not None:
        return Standing.FAILED if ended.status is Status.FAILED else Standing.ENDED
    return Standing.HELD if job == b"waiting" else Standing.GONE
