"""Claims on RQ's keys, as scripts: each one step that either happens whole or not at all.

RQ's keys as rq 2.6 to 2.12 keeps them, and beside them ours: in a job's hash `longshore` (the Record),
`longshore_token` (the execution that may write), `longshore_attempt`, `longshore_done`, `longshore_cancel`,
`longshore_created` (whose job they are told of). Keys are computed, so no Redis Cluster.

Anybody can write to these keys, so a command may fail in the middle of a script, which undoes nothing: a key of a
wrong type, a number that is none. Each script asks what may fail before it takes anything away, and a job that it
can't go on with costs no other one: it is told as `{id or '', queue, why}` among the answers (`spoilt.py`).
"""

from consumer.queues.spoilt import SET_ASIDE, TROUBLES, WRONG

_HOLD = (
    """
-- ARGV of both that claim: now, consumer, instance, lease, most bytes, slots, number of queues, queues..., tokens...
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local lease, slots, queues = tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7])
local claimed = {}
"""
    + TROUBLES
    + """
local function hold(id, queue, attempt)
  local token = ARGV[7 + queues + #claimed + 1]
  local key, member = 'rq:job:' .. id, id .. ':' .. token
  redis.call('PERSIST', key)
  redis.call('HSET', key, 'last_heartbeat', ARGV[1], 'worker_name', ARGV[2], 'longshore_token', token)
  redis.call('HSET', 'rq:execution:' .. member, 'id', token, 'created_at', now, 'last_heartbeat', now,
    'worker_name', ARGV[2], 'longshore', ARGV[3])
  redis.call('EXPIRE', 'rq:execution:' .. member, lease + 60)
  redis.call('ZADD', 'rq:executions:' .. id, now + lease + 60, token)
  redis.call('EXPIRE', 'rq:executions:' .. id, lease + 60)
  redis.call('ZADD', 'rq:wip:' .. queue, now + lease, member)
  local size = redis.call('HSTRLEN', key, 'data')
  local data = size <= tonumber(ARGV[5]) and redis.call('HGET', key, 'data') or ''
  claimed[#claimed + 1] = {id, queue, token, attempt, size, data, redis.call('HMGET', key, 'meta', 'timeout',
    'result_ttl', 'failure_ttl', 'retries_left', 'retry_intervals', 'enqueue_at_front_on_retry', 'enqueued_at',
    'longshore', 'longshore_cancel', 'created_at', 'webhooks', 'success_callback_name', 'success_callback_timeout',
    'failure_callback_name', 'failure_callback_timeout', 'stopped_callback_name', 'stopped_callback_timeout')}
end
local function told()
  for _, row in ipairs(troubles) do claimed[#claimed + 1] = row end
  return claimed
end
"""
)

CLAIM = (
    _HOLD
    + SET_ASIDE
    + """
-- behind the tokens: from which queue each job should come, if the order isn't strict
if redis.call('EXISTS', 'rq:suspended') == 1 then return {} end
local over = {finished = true, failed = true, canceled = true, stopped = true}
local function attempt_of(id, key)
  local created = redis.call('HGET', key, 'created_at') or ''
  local former = redis.call('HGET', key, 'longshore_created')
  if former and former ~= created then  -- an earlier job with this id, that its producer wrote over
    redis.call('HDEL', key, 'longshore', 'longshore_status', 'longshore_attempt', 'longshore_cancel')
  end
  redis.call('HSET', key, 'longshore_created', created)
  local attempt = redis.call('HINCRBY', key, 'longshore_attempt', 1)
  if attempt == 1 then redis.call('DEL', 'longshore:log:' .. id) end
  return attempt
end
local function begin(id, queue)  -- whether it is to run; all that can fail comes before what would have to be undone
  local key = 'rq:job:' .. id
  local status = redis.call('HGET', key, 'status')
  for _, other in ipairs(redis.call('ZRANGE', 'rq:executions:' .. id, 0, -1)) do
    if redis.call('ZSCORE', 'rq:wip:' .. queue, id .. ':' .. other) then return false end
  end
  if not status or over[status] then return false end  -- what has ended was in the list twice
  local attempt = attempt_of(id, key)
  redis.call('HSET', key, 'status', 'started', 'started_at', ARGV[1], 'ended_at', '')
  hold(id, queue, attempt)
  return true
end
local sound = {}
local function take(queue)
  local list, wip = 'rq:queue:' .. queue, 'rq:wip:' .. queue
  if sound[queue] == nil then sound[queue] = usable(list, 'list', queue) and usable(wip, 'zset', queue) end
  while sound[queue] do
    local id = redis.call('LPOP', list)
    if not id then return false end
    local fine, answer = pcall(begin, id, queue)
    if not fine and not set_aside(id, queue, answer) then
      redis.call('LPUSH', list, id)
      error(answer, 0)
    elseif fine and answer then
      return true
    end
  end
end
for i = 7 + queues + slots + 1, #ARGV do take(ARGV[i]) end
for i = 1, queues do
  while #claimed < slots and take(ARGV[7 + i]) do end
end
return told()
"""
)

TAKEOVER = (
    _HOLD
    + """
-- tokens of lost answers stand behind the others; what a dead consumer held, or what we hold without knowing it:
-- the same attempt goes on under a new token
local alive = {[ARGV[3]] = true}
local lost = {}
-- Whoever was cut off from this server a moment ago, as we were, can't be told from the dead: give them time.
local since = tonumber(redis.call('HGET', 'longshore:consumer:' .. ARGV[3], 'since') or '')
local sure = since and now - since >= 8
for i = 7 + queues + slots + 1, #ARGV do lost[ARGV[i]] = true end
local function pass_on(queue, member)
  local holder = redis.call('HGET', 'rq:execution:' .. member, 'longshore')
  if holder and alive[holder] == nil then
    alive[holder] = redis.call('EXISTS', 'longshore:consumer:' .. holder) == 1
  end
  local id, old = string.match(member, '^(.*):([^:]+)$')
  local key = 'rq:job:' .. (id or '')
  local free = holder and (lost[old] or sure and not alive[holder])
  if not holder and id and tonumber(redis.call('ZSCORE', 'rq:wip:' .. queue, member)) < now then
    free = redis.call('HGET', key, 'longshore_token') == old  -- all consumers were away for longer than its lease
  end
  if free and id and redis.call('EXISTS', key) == 1 then
    local attempt = tonumber(redis.call('HGET', key, 'longshore_attempt') or 1) or 1
    redis.call('ZREM', 'rq:executions:' .. id, old)  -- the first two fail if their keys are of a wrong type
    redis.call('DEL', 'rq:execution:' .. member)
    redis.call('ZREM', 'rq:wip:' .. queue, member)
    hold(id, queue, attempt)
  end
end
for i = 1, queues do
  local queue = ARGV[7 + i]
  local wip = 'rq:wip:' .. queue
  for _, member in ipairs(usable(wip, 'zset', queue) and redis.call('ZRANGE', wip, 0, -1) or {}) do
    if #claimed >= slots then break end
    local _, why = guarded(pass_on, queue, member)
    if why then trouble(member, queue, why) end
  end
end
return told()
"""
)

BEAT = (
    """
-- now, lease, then id, queue, token for each claim
"""
    + WRONG
    + """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local lease = tonumber(ARGV[2])
local function beat(id, queue, token)
  local key, member = 'rq:job:' .. id, id .. ':' .. token
  if redis.call('EXISTS', key) == 0 then return 'deleted' end
  if not redis.call('ZSCORE', 'rq:wip:' .. queue, member) then
    return redis.call('HGET', key, 'status') == 'canceled' and 'cancel' or 'lost'
  end
  redis.call('ZADD', 'rq:wip:' .. queue, 'XX', now + lease, member)
  redis.call('ZADD', 'rq:executions:' .. id, now + lease + 60, token)
  redis.call('EXPIRE', 'rq:executions:' .. id, lease + 60)
  redis.call('HSET', 'rq:execution:' .. member, 'last_heartbeat', now)
  redis.call('EXPIRE', 'rq:execution:' .. member, lease + 60)
  redis.call('HSET', key, 'last_heartbeat', ARGV[1])
  return redis.call('HEXISTS', key, 'longshore_cancel') == 1 and 'cancel' or 'ok'
end
local answers = {}
for i = 3, #ARGV, 3 do
  local answer, why = guarded(beat, ARGV[i], ARGV[i + 1], ARGV[i + 2])
  answers[#answers + 1] = answer or {ARGV[i], ARGV[i + 1], said(why)}
end
return answers
"""
)

STOP = """
-- KEYS: the job; somebody wants it stopped in RQ's way
if redis.pcall('HGET', KEYS[1], 'status') == 'started' then redis.call('HSET', KEYS[1], 'longshore_cancel', 'stop') end
"""

FORGOTTEN = (
    WRONG
    + """
-- id, queue, token, attempt of claims that were settled: which are to be settled again, as this server was set back?
-- Of those whose claim is forgotten too, the ones that nobody else has claimed since are ours again.
local time = redis.call('TIME')
local again = {}
local function look(i)
  local id, queue, token, attempt = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local key, wip, member = 'rq:job:' .. id, 'rq:wip:' .. queue, id .. ':' .. token
  local fields = redis.call('HMGET', key, 'longshore_done', 'longshore_attempt', 'status')
  local open = fields[3] and fields[1] ~= token
  if open and redis.call('ZSCORE', wip, member) then
    again[#again + 1] = i
  elseif open and tonumber(fields[2] or 0) == attempt - 1 and redis.call('LREM', 'rq:queue:' .. queue, 1, id) > 0 then
    redis.call('PERSIST', key)
    redis.call('HSET', key, 'longshore_attempt', attempt, 'longshore_token', token, 'status', 'started')
    redis.call('ZADD', wip, time[1] + 60, member)
    again[#again + 1] = i
  end
end
for i = 1, #ARGV, 4 do guarded(look, i) end
return again
"""
)
