"""What the Records know of an attempt whose pod somebody found, and whose Records they are."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from consumer.model import AttemptKey, Standing
from enqueue.errors import QueueUnavailable
from enqueue.record import Status
from enqueue.wire import records as wire

STANDING = """
-- id, queue -> gone, held, waiting or over, and the Record. RQ's jobs and those of Faktory may share one store, which
-- has one identity: whoever sweeps finds the pods of both.
local function on_rq()
  local key = 'rq:job:' .. ARGV[1]
  local fields = redis.pcall('HMGET', key, 'status', 'longshore_token', 'longshore')
  if fields.err then return {'held', ''} end  -- somebody wrote over it: its pod is left alone, and so are all others
  if redis.call('EXISTS', key) == 0 then return {'gone', ''} end
  if fields[2] and redis.call('ZSCORE', 'rq:wip:' .. ARGV[2], ARGV[1] .. ':' .. fields[2]) then return {'held', ''} end
  local waits = {created = true, queued = true, scheduled = true, deferred = true}
  return {waits[fields[1]] and 'waiting' or 'over', fields[3] or ''}
end
local function on_faktory()
  local fields = redis.pcall('HMGET', 'longshore:job:' .. ARGV[1], 'longshore_status', 'longshore')
  if fields.err then return {'held', ''} end
  local status = fields[1]
  if not status then return {'gone', ''} end
  if status == 'claimed' or status == 'starting' or status == 'running' then return {'held', ''} end
  return {status == 'queued' and 'waiting' or 'over', fields[2] or ''}
end
local first = on_rq()
if first[1] == 'held' or first[1] == 'waiting' then return first end
local second = on_faktory()
return second[1] == 'gone' and first or second
"""

AT_ONCE = 200
"""Jobs looked at in one round trip."""


class Standings:
    """Asks one store of Records."""

    def __init__(self, redis: Redis) -> None:
        self._redis, self._look = redis, redis.register_script(STANDING)
        self._source = ""

    async def identify(self) -> str:
        """The store's identity; a new store gets one. Raises RedisError."""
        await self._redis.set(wire.SOURCE, uuid.uuid4().hex, nx=True)
        self._source = await self._identity()
        return self._source

    async def ask(self, attempts: Sequence[AttemptKey]) -> Sequence[Standing]:
        """Where each attempt stands. Raises QueueUnavailable, also if the store was emptied or isn't the same."""
        found: list[Standing] = []
        try:
            if attempts and await self._identity() != self._source:
                raise QueueUnavailable("the Records aren't those that this consumer began with")
            for start in range(0, len(attempts), AT_ONCE):
                found += await self._some(attempts[start : start + AT_ONCE])
        except RedisError as error:
            raise QueueUnavailable(f"the Records can't be read: {wire.without_secrets(str(error))}") from None
        return found

    async def _some(self, attempts: Sequence[AttemptKey]) -> list[Standing]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for attempt in attempts:
                await self._look(args=[attempt.id, attempt.queue], client=pipe)
            answers = await pipe.execute()
        return [standing_of(answer, attempt.attempt) for answer, attempt in zip(answers, attempts, strict=True)]

    async def _identity(self) -> str:
        stored: Any = await self._redis.get(wire.SOURCE)
        return stored.decode() if stored else ""


def standing_of(answer: Sequence[bytes], attempt: int) -> Standing:
    """A script's answer in the caller's words: where this attempt stands."""
    job, stored = answer
    if job == b"held":
        return Standing.HELD
    record = wire.read_record(stored)
    ended = next((a for a in record.attempts if a.attempt == attempt), None) if record else None
    if ended is not None:
        return Standing.FAILED if ended.status is Status.FAILED else Standing.ENDED
    return Standing.HELD if job == b"waiting" else Standing.GONE
