"""Limits by key: at most so many jobs of a key run at once, whoever consumes them.

The place of a job is taken right after its claim and given up with its end, by scripts that stand in one Redis: RQ's
own, or the one with Faktory's Records. Jobs of both may share a key there, so a job is named by its hash, `rq:job:<id>`
or `longshore:job:<jid>`:

- `longshore:limit:<key>`: hash, jobs that hold a place -> their queue;
- `longshore:parked:<key>`: sorted set, jobs that wait, by their first arrival;
- `longshore:called:<key>`: sorted set, jobs that were called and for which a place is kept until then;
- `longshore:limits`: sorted set, keys in use by when somebody last looked for places whose holders are gone;
- `longshore_waits` in a job's hash: `<arrival> <concurrency> <key>` of one that waits or was called.

A place belongs to the job, not to a consumer: it passes on with the claim, and is free as soon as the job's claim is
no longer one. Keys are computed, so no Redis Cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Redis

from consumer.model import Claim
from consumer.queues.spoilt import WRONG
from enqueue.record import Record, Status, Times
from enqueue.times import rfc3339
from enqueue.wire.records import without_secrets

log = structlog.get_logger()

SWEEP_EVERY = 5.0
"""Seconds between two looks for places whose holders are gone, and for jobs that were called and didn't come."""

PLACES = """
local CALLED = 2  -- seconds for which a place is kept for a job that was called: less than between two sweeps
local moment = redis.call('TIME')
local clock = moment[1] + moment[2] / 1000000
local function rq_id(name) return string.match(name, '^rq:job:(.*)$') end
local function holds(name, queue)  -- its claim is still one
  local id = rq_id(name)
  if id then
    local token = redis.call('HGET', name, 'longshore_token')
    return token and redis.call('ZSCORE', 'rq:wip:' .. queue, id .. ':' .. token)
  end
  local status = redis.call('HGET', name, 'longshore_status')
  return status == 'claimed' or status == 'starting' or status == 'running'
end
local function waits(name)  -- when it arrived, and its own number
  local arrival, most = string.match(redis.call('HGET', name, 'longshore_waits') or '', '^(%S+) (%d+) ')
  return tonumber(arrival), tonumber(most)
end
local function used(key)
  redis.call('ZREMRANGEBYSCORE', 'longshore:called:' .. key, '-inf', clock)
  return redis.call('HLEN', 'longshore:limit:' .. key) + redis.call('ZCARD', 'longshore:called:' .. key)
end
local function there(name, fields)
  local id = rq_id(name)
  if not id then return fields[3] == 'queued' end
  return type(redis.pcall('ZSCORE', 'rq:scheduled:' .. (fields[2] or ''), id)) == 'string'
end
local jids = {}  -- Faktory's jobs that were called: somebody must tell Faktory
local function call_waiting(key)  -- those who wait the longest get what is free
  local parked, called = 'longshore:parked:' .. key, 'longshore:called:' .. key
  local taken, going, stuck = used(key), {}, 0
  for _, name in ipairs(redis.call('ZRANGE', parked, 0, 99)) do
    local fields = redis.pcall('HMGET', name, 'longshore_waits', 'origin', 'longshore_status')
    local most = tonumber(string.match(fields[1] or '', '^%S+ (%d+) '))
    if not most or not there(name, fields) then
      redis.call('ZREM', parked, name)  -- cancelled, deleted, or on its way by itself; or it is no hash any more
    elseif taken < most then
      taken = taken + 1
      redis.call('ZREM', parked, name)
      redis.call('ZADD', called, clock + CALLED, name)
      redis.call('EXPIRE', called, 60)
      going[#going + 1] = name
    else
      stuck = stuck + 1
      if stuck == 20 then break end
    end
  end
  for i = #going, 1, -1 do  -- so that the first one stands first
    local id = rq_id(going[i])
    if id then
      local queue = redis.call('HGET', going[i], 'origin')
      if type(redis.pcall('LPUSH', 'rq:queue:' .. queue, id)) == 'number' then  -- else it comes when it is due
        redis.call('ZREM', 'rq:scheduled:' .. queue, id)
        redis.call('HSET', going[i], 'status', 'queued')
        redis.pcall('SADD', 'rq:queues', 'rq:queue:' .. queue)
      end
    else
      table.insert(jids, 1, string.sub(going[i], 15))
    end
  end
  if taken == 0 and redis.call('EXISTS', parked) == 0 then redis.call('ZREM', 'longshore:limits', key) end
end
local function release(name, key)
  redis.call('HDEL', 'longshore:limit:' .. key, name)
  call_waiting(key)
end
local function tidy(key)  -- how many places were looked at
  local limit = 'longshore:limit:' .. key
  redis.call('ZADD', 'longshore:limits', clock, key)
  local held = redis.call('HGETALL', limit)
  for i = 1, #held, 2 do
    local fine, still = pcall(holds, held[i], held[i + 1])
    if not fine then still = redis.call('TYPE', held[i]).ok == 'hash' end
    if not still then redis.call('HDEL', limit, held[i]) end
  end
  call_waiting(key)
  return #held / 2
end
"""

ADMIT = (
    WRONG
    + PLACES
    + """
-- for each claim: hash, id, queue, token, key, concurrency, '1' if it runs already, the Record of one that waits, and
-- (Faktory) what Faktory is then to be told. Sent again, it changes nothing.
local FALLBACK = 300  -- seconds after which a parked job of RQ's comes back even if nobody calls it
local function ours(name, id, queue, token)
  local fields = redis.call('HMGET', name, 'longshore_token', 'longshore_status')
  if fields[1] ~= token then return 'gone' end
  if not rq_id(name) and fields[2] == 'queued' then return 'parked' end
  return holds(name, queue) and 'ours' or 'gone'
end
local function has_room(name, key, most)
  if redis.call('ZREM', 'longshore:called:' .. key, name) == 1 then return true end
  if used(key) < most then return true end
  local last = redis.call('ZSCORE', 'longshore:limits', key)
  if not last or clock - last >= 1 then
    tidy(key)
    if used(key) < most then return true end
  end
  local arrival = waits(name)
  if not arrival or used(key) > most then return false end
  for _, other in ipairs(redis.call('ZREVRANGE', 'longshore:called:' .. key, 0, -1)) do
    local theirs = waits(other)
    if theirs and theirs > arrival then  -- called although we were here before it: it waits again when it comes
      redis.call('ZREM', 'longshore:called:' .. key, other)
      return true
    end
  end
  return false
end
local function park(at, name, id, queue, token, key, most)
  local arrival = waits(name) or clock + at / 1000000
  local member = id .. ':' .. token
  if rq_id(name) then redis.call('ZCARD', 'rq:scheduled:' .. queue) end  -- it fails now, or nothing below does
  redis.call('HINCRBY', name, 'longshore_attempt', -1)
  redis.call('HSET', name, 'longshore', ARGV[at + 7], 'longshore_status', 'queued',
    'longshore_waits', string.format('%.6f %d %s', arrival, most, key))
  if rq_id(name) then
    redis.call('DEL', 'rq:execution:' .. member)
    redis.call('ZREM', 'rq:wip:' .. queue, member)
    redis.pcall('ZREM', 'rq:executions:' .. id, token)
    redis.call('HSET', name, 'status', 'scheduled', 'started_at', '', 'worker_name', '', 'origin', queue)
    redis.pcall('SADD', 'rq:queues', 'rq:queue:' .. queue)
    redis.call('ZADD', 'rq:scheduled:' .. queue, math.floor(clock) + FALLBACK, id)
    local ttl = tonumber(redis.call('HGET', name, 'ttl') or '')
    if ttl and ttl > 0 and ttl < 315360000 then redis.call('EXPIRE', name, math.ceil(ttl)) end
  else
    redis.call('HDEL', name, 'longshore_payload')
    redis.call('HSET', name, 'longshore_ending', ARGV[at + 8])
  end
  redis.pcall('ZADD', 'longshore:parked:' .. key, arrival, name)
  redis.call('PUBLISH', 'longshore:record:' .. id, 'queued')
end
local function admit(at, name, id, queue, token, key, most)
  local answer = ours(name, id, queue, token)
  local limit = 'longshore:limit:' .. key
  if answer ~= 'ours' or redis.call('HEXISTS', limit, name) == 1 then return answer end
  redis.call('ZADD', 'longshore:limits', 'NX', clock, key)
  if ARGV[at + 6] == '1' or has_room(name, key, most) then
    redis.call('ZREM', 'longshore:parked:' .. key, name)
    redis.call('HSET', limit, name, queue)
    redis.call('HDEL', name, 'longshore_waits')
    return 'ours'
  end
  park(at, name, id, queue, token, key, most)
  return 'parked'
end
local answers = {}
for at = 1, #ARGV, 9 do
  local name, id, queue, token, key = unpack(ARGV, at, at + 4)
  local most, why = tonumber(ARGV[at + 5]), ''
  local answer, error = guarded(admit, at, name, id, queue, token, key, most)
  if error then  -- a key of the limit is of a wrong type: nobody knows how many run, so it waits
    why = said(error)
    park(at, name, id, queue, token, key, most)
    answer = 'parked'
  end
  local waiting = redis.pcall('ZCARD', 'longshore:parked:' .. key)
  answers[#answers + 1] = {answer, type(waiting) == 'number' and waiting or 0, why}
end
return {answers, jids}
"""
)

RELEASE = (
    WRONG
    + PLACES
    + """
-- hash, key for each job that has ended, unless it has been claimed again meanwhile
local function over(name, key)
  if not holds(name, '') then release(name, key) end
end
for at = 1, #ARGV, 2 do guarded(over, ARGV[at], ARGV[at + 1]) end
return jids
"""
)

SWEEP = (
    WRONG
    + PLACES
    + """
-- seconds between two looks at a key
local looked = 0
for _, key in ipairs(redis.call('ZRANGEBYSCORE', 'longshore:limits', '-inf', clock - ARGV[1], 'LIMIT', 0, 200)) do
  looked = looked + (guarded(tidy, key) or 1)
  if looked > 1000 then break end
end
return jids
"""
)


class Admission(NamedTuple):
    """What became of a claim with a limit: "ours" to run, "parked", or "gone" to another consumer.

    `waiting`: how many wait for its key.
    """

    verdict: str
    waiting: int


class Limits:
    """The limits in one Redis. The methods raise RedisError, and answer with jids that Faktory is to bring back."""

    def __init__(self, redis: Redis) -> None:
        self._admit = redis.register_script(ADMIT)
        self._release = redis.register_script(RELEASE)
        self._sweep = redis.register_script(SWEEP)

    async def admit(self, claims: Sequence[tuple[str, Claim, str]]) -> tuple[list[Admission], list[str]]:
        """Take a place for each claim, or park it: a claim is given with its hash and what Faktory is then to be told.

        A parked one is as before its claim: no try is used up.
        """
        args: list[Any] = []
        for name, claim, ending in claims:
            assert claim.job is not None
            assert claim.job.limit is not None
            key, most = claim.job.limit.key, claim.job.limit.concurrency
            record = _waiting(claim).dumps()
            args += [name, claim.id, claim.queue, claim.token, key, most, int(_begun(claim)), record, ending]
        answers, jids = await self._admit(keys=[], args=args)
        for (_, claim, _), (verdict, _, why) in zip(claims, answers, strict=True):
            if why:
                text = without_secrets(why.decode("utf-8", "replace"))
                fix = f"delete what is of a wrong type: longshore:limit:{key_of(claim)}, or called or parked for limit"
                log.error("limit_unusable", job=claim.id, became=verdict.decode(), error=text, fix=fix)
        return [Admission(verdict.decode(), waiting) for verdict, waiting, _ in answers], _texts(jids)

    async def release(self, ended: Sequence[tuple[str, Claim]]) -> list[str]:
        """Give up the places of claims that have ended."""
        args = [text for name, claim in ended for text in (name, key_of(claim))]
        return _texts(await self._release(keys=[], args=args))

    async def sweep(self) -> list[str]:
        """Give up the places whose holders are gone, and call whom nobody has called."""
        return _texts(await self._sweep(keys=[], args=[SWEEP_EVERY]))


def key_of(claim: Claim) -> str:
    """The key of a claim's limit; empty without one."""
    return claim.job.limit.key if claim.job is not None and claim.job.limit is not None else ""


def needs_place(claim: Claim) -> bool:
    """It must have a place before it runs. What is refused or was cancelled only comes to its end."""
    return bool(key_of(claim)) and claim.refusal is None and not claim.cancelled


def _begun(claim: Claim) -> bool:
    """A former consumer may have started this very attempt: it runs, whatever the limit."""
    before = claim.history
    return before is not None and before.attempt == claim.attempt and before.status in (Status.STARTING, Status.RUNNING)


def _waiting(claim: Claim) -> Record:
    """The Record of a job that waits for its limit: as it was, and why it waits."""
    assert claim.job is not None
    assert claim.job.limit is not None
    times = Times(queued=rfc3339(claim.queued_at))
    former = claim.history or Record(id=claim.id, queue=claim.queue, times=times, tags=claim.job.tags)
    number = claim.job.limit.concurrency
    text = f"waits for its limit '{claim.job.limit.key}' ({number} of {number} in use)"
    return former.model_copy(update={"status": Status.QUEUED, "message": text})


def _texts(names: Sequence[bytes]) -> list[str]:
    return [name.decode() for name in names]
