"""The end of an RQ job and all that follows from it, as one script; and what brings scheduled jobs back.

What follows is what rq 2.12 does (`rq/worker/base.py`, `rq/job.py`, `rq/queue.py`): repeats, dependents, retries. A
callback's job and the webhooks that are to be sent go in with the end, so that no crash comes between.

A command that fails undoes nothing of what its script did before. So what the job's way on needs (its claim, the queue
or registry that it comes back to, what is enqueued for it) is looked at before anything is written: where one of these
keys is of a wrong type, nothing is. All else (results, the worker's counts, registries of what has ended, dependents,
limits) can't keep the end from being written: it is left out, and told by name.
"""

from consumer.queues.limits import PLACES
from consumer.queues.spoilt import SET_ASIDE, TROUBLES, WRONG

_ENQUEUE = """
local time = redis.call('TIME')
local now = tonumber(time[1])
local LONGEST = 315360000
local function seconds(text)  -- a whole number that Redis can add to its clock; nil for what is none
  local number = tonumber(text or '')
  if not number or number ~= number then return nil end
  return math.floor(math.max(-1, math.min(LONGEST, number)))
end
local function wait(id, least)  -- as rq's Job.cleanup of a job that is to run: it is gone after its `ttl`
  local ttl = seconds(redis.call('HGET', 'rq:job:' .. id, 'ttl'))
  if not ttl or ttl <= 0 then return end
  for _, name in ipairs({'rq:job:' .. id, 'rq:job:' .. id .. ':dependents', 'rq:job::' .. id .. ':dependencies'}) do
    redis.call('EXPIRE', name, math.max(ttl, least))
  end
end
local function enqueue(id, queue, front, moment)  -- as rq's Queue._enqueue_job; its hash is one
  local key = 'rq:job:' .. id
  redis.call(front and 'LPUSH' or 'RPUSH', 'rq:queue:' .. queue, id)
  redis.call('HSET', key, 'status', 'queued', 'enqueued_at', moment, 'origin', queue)
  redis.call('HSETNX', key, 'timeout', 180)
  wait(id, 0)
  redis.pcall('SADD', 'rq:queues', 'rq:queue:' .. queue)
end
"""

SETTLE = (
    """
-- 1 id, 2 queue, 3 token, 4 rq status, 5 now, 6 record, 7 our status, 8 result type, 9 its field, 10 its value,
-- 11 ttl, 12 touch meta, 13 meta expected, 14 meta, 15 consumer, 16 started, 17 ended, 18 at front,
-- 19 fewer retries, 20 pause, 21 its limit's key or '', 22 callback's queue or '', 23 its job's id, 24 number of its
-- fields and values, those..., then webhooks to send
"""
    + WRONG
    + _ENQUEUE
    + """
local id, queue, token, status = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key, member = 'rq:job:' .. id, ARGV[1] .. ':' .. ARGV[3]
local ttl = tonumber(ARGV[11])
local final = status ~= 'queued' and status ~= 'scheduled'
local whole = {key, key .. ':dependents', 'rq:job::' .. id .. ':dependencies', 'rq:results:' .. id,
  'longshore:log:' .. id, 'longshore:variables:' .. id}
local left = {}  -- what couldn't be written of an end
local function leave_out(what, error) left[#left + 1] = what .. ': ' .. said(error) end
local function write(command, name, ...)
  local answer = redis.pcall(command, name, ...)
  if type(answer) == 'table' and answer.err then leave_out(name, answer) end
end
local function spare(what, work, ...)
  local fine, error = pcall(work, ...)
  if not fine then leave_out(what, error) end
end
local kind, held = redis.call('TYPE', key).ok, redis.pcall('ZSCORE', 'rq:wip:' .. queue, member)
local bar = kind ~= 'hash' and wrong(key, 'hash')
if type(held) == 'table' then bar = bar or wrong('rq:wip:' .. queue, 'zset') or held.err end
if bar then return redis.error_reply('WRONGTYPE ' .. bar) end
if kind == 'hash' and redis.call('HGET', key, 'longshore_done') == token then return {'ok'} end
local function leave_limit()
  if ARGV[21] == '' then return end
"""
    + PLACES
    + """
  release(key, ARGV[21])
end
if kind == 'none' then
  redis.call('DEL', 'rq:execution:' .. member, 'longshore:log:' .. id, 'longshore:variables:' .. id)
  redis.call('ZREM', 'rq:wip:' .. queue, member)
  redis.pcall('ZREM', 'rq:executions:' .. id, token)
  pcall(leave_limit)
  return {'deleted'}
end
if not held then
  if redis.call('HGET', key, 'longshore_token') ~= token then return {'lost'} end
  if redis.call('HGET', key, 'status') ~= 'canceled' then return {'lost'} end
  if status ~= 'canceled' then return {'canceled'} end
elseif status == 'canceled' and redis.call('HGET', key, 'longshore_cancel') == 'stop' then
  return {'stopped'}
end
local repeats = status == 'finished' and seconds(redis.call('HGET', key, 'repeats_left')) or 0
if not final or repeats > 0 then
  bar = wrong('rq:queue:' .. queue, 'list') or wrong('rq:scheduled:' .. queue, 'zset')
end
if ARGV[22] ~= '' then bar = bar or wrong('rq:queue:' .. ARGV[22], 'list') end
local behind = 24 + ARGV[24]
if #ARGV > behind then bar = bar or wrong('longshore:webhooks', 'zset') end
if bar then return redis.error_reply('WRONGTYPE ' .. bar) end
if ARGV[12] == '1' then
  local meta = redis.call('HGET', key, 'meta') or ''
  if meta ~= ARGV[13] then return {'meta', meta} end
  redis.call('HSET', key, 'meta', ARGV[14])
end

-- The attempt is over.
redis.call('HSET', key, 'longshore', ARGV[6], 'longshore_done', token, 'status', status, 'ended_at', ARGV[5])
redis.call('DEL', 'rq:execution:' .. member)
redis.call('ZREM', 'rq:wip:' .. queue, member)
write('ZREM', 'rq:executions:' .. id, token)
if ARGV[8] ~= '' and ttl ~= 0 then
  local entry = {'type', ARGV[8], 'worker_name', ARGV[15], 'execution_id', token, 'execution_started_at', ARGV[16],
    'execution_ended_at', ARGV[17]}
  if ARGV[9] ~= '' then entry[#entry + 1] = ARGV[9]; entry[#entry + 1] = ARGV[10] end
  write('XADD', 'rq:results:' .. id, 'MAXLEN', 10, '*', unpack(entry))
end
if final then redis.call('HDEL', key, 'longshore_cancel') end
local worker = 'rq:worker:' .. ARGV[15]
if redis.call('EXISTS', worker) == 1 then
  write('HINCRBY', worker, status == 'finished' and 'successful_job_count' or 'failed_job_count', 1)
  write('HINCRBYFLOAT', worker, 'total_working_time', math.max(0, ARGV[17] - ARGV[16]))
  if redis.pcall('HGET', worker, 'current_job') == id then redis.call('HDEL', worker, 'current_job') end
end

-- It comes again: a try that is left, or a repetition.
local function again(pause, front)
  if pause > 0 then
    redis.call('HSET', key, 'status', 'scheduled')
    write('SADD', 'rq:queues', 'rq:queue:' .. queue)
    redis.call('ZADD', 'rq:scheduled:' .. queue, now + pause, id)
    wait(id, pause + 60)  -- not before it is due
  else
    enqueue(id, queue, front, ARGV[5])
  end
  if not final or ttl < 0 then redis.call('EXPIRE', 'rq:results:' .. id, 31536000)
  else redis.call('EXPIRE', 'rq:results:' .. id, ttl) end
  redis.call('EXPIRE', 'longshore:log:' .. id, 31536000)
  redis.call('EXPIRE', 'longshore:variables:' .. id, 31536000)
end
local function repetition()  -- seconds until the next one; nil if there is none
  if repeats <= 0 then return nil end
  redis.call('HSET', key, 'repeats_left', repeats - 1)
  local readable, intervals = pcall(cjson.decode, redis.call('HGET', key, 'repeat_intervals') or '[]')
  if not readable or type(intervals) ~= 'table' or #intervals == 0 then return 0 end
  return math.max(0, seconds(intervals[math.min(repeats, #intervals)]) or 0)
end
local repeated = status == 'finished' and repetition()
if not final then
  if ARGV[19] == '1' and type(redis.pcall('HINCRBY', key, 'retries_left', -1)) == 'table' then
    redis.call('HSET', key, 'retries_left', 0)  -- it was a number when the job was claimed
  end
  again(tonumber(ARGV[20]), ARGV[18] == '1')
elseif repeated then
  again(repeated, false)
end

-- Those who waited for it, and those who want to be told.
local function met(dependent, lenient)  -- as rq's Job.dependencies_are_met
  for _, other in ipairs(redis.call('SMEMBERS', 'rq:job::' .. dependent .. ':dependencies')) do
    local stands = other ~= id and redis.call('HGET', 'rq:job:' .. other, 'status')
    if stands and stands ~= 'finished' and not (lenient and stands == 'failed') then return false end
  end
  return status == 'finished' or lenient
end
local function release(dependent)
  local name = 'rq:job:' .. dependent
  local waits = redis.call('HGET', name, 'status')
  if not waits or waits == 'canceled' then return end
  local lenient = redis.call('HGET', name, 'allow_dependency_failures')
  if not met(dependent, lenient and lenient ~= '0' and lenient ~= '') then return end
  local origin = redis.call('HGET', name, 'origin') or queue
  if redis.call('ZSCORE', 'rq:deferred:' .. origin, dependent) or waits == 'deferred' then
    enqueue(dependent, origin, redis.call('HGET', name, 'enqueue_at_front') == '1', ARGV[5])
    redis.call('ZREM', 'rq:deferred:' .. origin, dependent)
  end
  redis.call('SREM', key .. ':dependents', dependent)
end
if status == 'finished' or status == 'failed' then
  local dependents = redis.pcall('SMEMBERS', key .. ':dependents')
  if dependents.err then leave_out(key .. ':dependents', dependents) end
  for _, dependent in ipairs(dependents) do spare('its dependent ' .. dependent, release, dependent) end
end
if ARGV[22] ~= '' then
  redis.call('DEL', 'rq:job:' .. ARGV[23])
  redis.call('HSET', 'rq:job:' .. ARGV[23], unpack(ARGV, 25, 24 + ARGV[24]))
  write('SADD', 'rq:queues', 'rq:queue:' .. ARGV[22])
  redis.call('RPUSH', 'rq:queue:' .. ARGV[22], ARGV[23])
end
for i = behind + 1, #ARGV do redis.call('ZADD', 'longshore:webhooks', now, ARGV[i]) end

-- Where it is kept, and for how long.
local function keep(score)
  local kind = status == 'stopped' and 'failed' or status
  write('ZADD', 'rq:' .. kind .. ':' .. queue, score, id)
end
if status == 'finished' and ttl ~= 0 then keep(ttl < 0 and '+inf' or now + ttl) end
if (status == 'failed' or status == 'stopped') and ttl ~= 0 then keep(ttl < 0 and -1 or now + ttl) end
if status == 'canceled' and held then keep(now) end
if final and not repeated then
  if ttl == 0 then
    local group = redis.call('HGET', key, 'group_id')
    if group and group ~= '' then write('SREM', 'rq:group:' .. group, id) end
    write('ZREM', 'rq:canceled:' .. queue, id)
    redis.call('DEL', unpack(whole))
  else
    for _, name in ipairs(whole) do
      if ttl < 0 then redis.call('PERSIST', name) else redis.call('EXPIRE', name, ttl) end
    end
  end
end
spare('its limit', leave_limit)
redis.call('PUBLISH', 'longshore:record:' .. id, ARGV[7])
return {'ok', unpack(left)}
"""
)

PROMOTE = (
    """
-- now, queues...: what is due goes back to its queue, unless a stock scheduler holds the queue's lock and does it
"""
    + TROUBLES
    + _ENQUEUE
    + SET_ASIDE
    + """
local function due(id, queue)
  local key = 'rq:job:' .. id
  if redis.call('EXISTS', key) == 1 then
    local front = redis.call('HGET', key, 'enqueue_at_front') == '1'
    local ended = redis.call('HGET', key, 'ended_at')
    if ended and ended ~= '' and redis.call('HGET', key, 'enqueue_at_front_on_retry') == '1' then front = true end
    enqueue(id, queue, front, ARGV[1])
  end
  redis.call('ZREM', 'rq:scheduled:' .. queue, id)
end
local function promote(queue)
  local scheduled = 'rq:scheduled:' .. queue
  if not usable(scheduled, 'zset', queue) or redis.call('EXISTS', 'rq:scheduler-lock:' .. queue) == 1 then return end
  local ids = redis.call('ZRANGEBYSCORE', scheduled, 0, now, 'LIMIT', 0, 200)
  if #ids == 0 or not usable('rq:queue:' .. queue, 'list', queue) then return end
  for _, id in ipairs(ids) do
    local fine, error = pcall(due, id, queue)
    if not fine and set_aside(id, queue, error) then redis.call('ZREM', scheduled, id) end
  end
end
for i = 2, #ARGV do promote(ARGV[i]) end
return troubles
"""
)

MAINTAIN = """
-- queues...: what rq's workers clean every ten minutes
local now = redis.call('TIME')[1]
for _, queue in ipairs(ARGV) do
  if redis.call('EXISTS', 'rq:clean_registries:' .. queue) == 0 then  -- no stock worker is at it
    redis.pcall('ZREMRANGEBYSCORE', 'rq:finished:' .. queue, 0, now)
    redis.pcall('ZREMRANGEBYSCORE', 'rq:failed:' .. queue, 0, now)
    for _, id in ipairs(redis.pcall('ZRANGE', 'rq:canceled:' .. queue, 0, 999)) do
      if redis.call('EXISTS', 'rq:job:' .. id) == 0 then redis.call('ZREM', 'rq:canceled:' .. queue, id) end
    end
  end
end
for _, key in ipairs(redis.pcall('SMEMBERS', 'rq:workers')) do
  if redis.call('EXISTS', key) == 0 then
    redis.pcall('SREM', 'rq:workers', key)
    for _, queue in ipairs(ARGV) do redis.pcall('SREM', 'rq:workers:' .. queue, key) end
  end
end
for _, group in ipairs(redis.pcall('SRANDMEMBER', 'rq:groups', 100)) do
  for _, id in ipairs(redis.pcall('SRANDMEMBER', 'rq:group:' .. group, 1000)) do
    if redis.call('EXISTS', 'rq:job:' .. id) == 0 then redis.pcall('SREM', 'rq:group:' .. group, id) end
  end
  if redis.call('EXISTS', 'rq:group:' .. group) == 0 then redis.pcall('SREM', 'rq:groups', group) end
end
"""
