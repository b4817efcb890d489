"""Our Redis scripts: each one step that either happens whole or not at all.

RQ's keys as rq 2.6 to 2.12 keeps them, and beside them ours: in a job's hash `longshore` (the Record),
`longshore_token` (the execution that may write), `longshore_attempt`, `longshore_done`, `longshore_cancel`;
`longshore:consumer:<instance>` lives as long as a consumer does. Keys are computed, so no Redis Cluster.
"""

_RQ_HOLD = """
-- ARGV of both that claim: now, consumer, instance, lease, most bytes, slots, number of queues, queues..., tokens...
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local lease, slots, queues = tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7])
local claimed = {}
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
    'longshore', 'longshore_cancel', 'created_at')}
end
"""

RQ_CLAIM = (
    _RQ_HOLD
    + """
if redis.call('EXISTS', 'rq:suspended') == 1 then return {} end
for i = 1, queues do
  local queue = ARGV[7 + i]
  while #claimed < slots do
    local id = redis.call('LPOP', 'rq:queue:' .. queue)
    if not id then break end
    local key = 'rq:job:' .. id
    local status = redis.call('HGET', key, 'status')
    local running = false
    for _, other in ipairs(redis.call('ZRANGE', 'rq:executions:' .. id, 0, -1)) do
      if redis.call('ZSCORE', 'rq:wip:' .. queue, id .. ':' .. other) then running = true end
    end
    if status and status ~= 'canceled' and not running then
      local attempt = redis.call('HINCRBY', key, 'longshore_attempt', 1)
      if attempt == 1 then redis.call('DEL', 'longshore:log:' .. id) end  -- of an earlier job with this id
      redis.call('HSET', key, 'status', 'started', 'started_at', ARGV[1], 'ended_at', '')
      hold(id, queue, attempt)
    end
  end
end
return claimed
"""
)

RQ_TAKEOVER = (
    _RQ_HOLD
    + """
-- tokens of lost answers stand behind the others; what a dead consumer held, or what we hold without knowing it:
-- the same attempt goes on under a new token
local alive = {[ARGV[3]] = true}
local lost = {}
-- Whoever was cut off from this server a moment ago, as we were, can't be told from the dead: give them time.
local since = tonumber(redis.call('HGET', 'longshore:consumer:' .. ARGV[3], 'since') or '')
local sure = since and now - since >= 8
for i = 7 + queues + slots + 1, #ARGV do lost[ARGV[i]] = true end
for i = 1, queues do
  local queue = ARGV[7 + i]
  for _, member in ipairs(redis.call('ZRANGE', 'rq:wip:' .. queue, 0, -1)) do
    if #claimed >= slots then break end
    local holder = redis.call('HGET', 'rq:execution:' .. member, 'longshore')
    if holder and alive[holder] == nil then
      alive[holder] = redis.call('EXISTS', 'longshore:consumer:' .. holder) == 1
    end
    local id, old = string.match(member, '^(.*):([^:]+)$')
    local key = 'rq:job:' .. (id or '')
    if holder and id and (lost[old] or sure and not alive[holder]) and redis.call('EXISTS', key) == 1 then
      redis.call('DEL', 'rq:execution:' .. member)
      redis.call('ZREM', 'rq:wip:' .. queue, member)
      redis.call('ZREM', 'rq:executions:' .. id, old)
      hold(id, queue, tonumber(redis.call('HGET', key, 'longshore_attempt') or 1))
    end
  end
end
return claimed
"""
)

LIVE = """
-- KEYS: the consumer's key. 1 its name, 2 seconds to live, 3 seconds that are left if it wasn't cut off, 4 its id,
-- 5 its queues; `longshore:consumers` lists consumers by their last sign of life
-- `since`: from when on it has given signs of life without a break
local left = redis.call('TTL', KEYS[1])
if left < tonumber(ARGV[3]) then
  if left ~= -1 then redis.call('HSET', KEYS[1], 'since', redis.call('TIME')[1]) end
  redis.call('HSET', KEYS[1], 'name', ARGV[1], 'queues', ARGV[5])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
local now = redis.call('TIME')[1]
redis.call('ZADD', 'longshore:consumers', now, ARGV[4])
redis.call('ZREMRANGEBYSCORE', 'longshore:consumers', '-inf', now - 86400)
redis.call('EXPIRE', 'longshore:consumers', 86400)
"""

RQ_BEAT = """
-- now, lease, then id, queue, token for each claim
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local lease = tonumber(ARGV[2])
local answers = {}
for i = 3, #ARGV, 3 do
  local id, queue, token = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key, member = 'rq:job:' .. id, ARGV[i] .. ':' .. ARGV[i + 2]
  local answer = 'ok'
  if redis.call('EXISTS', key) == 0 then
    answer = 'deleted'
  elseif not redis.call('ZSCORE', 'rq:wip:' .. queue, member) then
    answer = redis.call('HGET', key, 'status') == 'canceled' and 'cancel' or 'lost'
  else
    redis.call('ZADD', 'rq:wip:' .. queue, 'XX', now + lease, member)
    redis.call('ZADD', 'rq:executions:' .. id, now + lease + 60, token)
    redis.call('EXPIRE', 'rq:executions:' .. id, lease + 60)
    redis.call('HSET', 'rq:execution:' .. member, 'last_heartbeat', now)
    redis.call('EXPIRE', 'rq:execution:' .. member, lease + 60)
    redis.call('HSET', key, 'last_heartbeat', ARGV[1])
    if redis.call('HEXISTS', key, 'longshore_cancel') == 1 then answer = 'cancel' end
  end
  answers[#answers + 1] = answer
end
return answers
"""

RQ_SETTLE = """
-- 1 id, 2 queue, 3 token, 4 rq status, 5 now, 6 record, 7 our status, 8 result type, 9 its field, 10 its value,
-- 11 ttl, 12 touch meta, 13 meta expected, 14 meta, 15 consumer, 16 started, 17 ended, 18 at front,
-- 19 fewer retries, 20 due
local id, queue, token, status = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key, member = 'rq:job:' .. id, ARGV[1] .. ':' .. ARGV[3]
local ttl = tonumber(ARGV[11])
local final = status ~= 'queued' and status ~= 'scheduled'
local whole = {key, key .. ':dependents', 'rq:job::' .. id .. ':dependencies', 'rq:results:' .. id,
  'longshore:log:' .. id}
local function expire(name)
  if ttl < 0 then redis.call('PERSIST', name) else redis.call('EXPIRE', name, ttl) end
end
local function expire_all()
  for _, name in ipairs(whole) do expire(name) end
end
if redis.call('HGET', key, 'longshore_done') == token then return {'ok'} end
local held = redis.call('ZSCORE', 'rq:wip:' .. queue, member)
if redis.call('EXISTS', key) == 0 then
  redis.call('DEL', 'rq:execution:' .. member, 'longshore:log:' .. id)
  redis.call('ZREM', 'rq:wip:' .. queue, member)
  return {'deleted'}
end
if not held then
  if redis.call('HGET', key, 'longshore_token') ~= token then return {'lost'} end
  if redis.call('HGET', key, 'status') ~= 'canceled' then return {'lost'} end
  if status ~= 'canceled' then return {'canceled'} end
end
if ARGV[12] == '1' then
  local meta = redis.call('HGET', key, 'meta') or ''
  if meta ~= ARGV[13] then return {'meta', meta} end
  redis.call('HSET', key, 'meta', ARGV[14])
end
redis.call('HSET', key, 'longshore', ARGV[6], 'longshore_done', token, 'status', status)
redis.call('DEL', 'rq:execution:' .. member)
redis.call('ZREM', 'rq:wip:' .. queue, member)
redis.call('ZREM', 'rq:executions:' .. id, token)
if ARGV[8] ~= '' and ttl ~= 0 then
  local entry = {'type', ARGV[8], 'worker_name', ARGV[15], 'execution_id', token, 'execution_started_at', ARGV[16],
    'execution_ended_at', ARGV[17]}
  if ARGV[9] ~= '' then entry[#entry + 1] = ARGV[9]; entry[#entry + 1] = ARGV[10] end
  redis.call('XADD', 'rq:results:' .. id, 'MAXLEN', 10, '*', unpack(entry))
end
local time = redis.call('TIME')
local now = tonumber(time[1])
local score = ttl < 0 and '+inf' or now + ttl
if final then
  redis.call('HSET', key, 'ended_at', ARGV[5])
  redis.call('HDEL', key, 'longshore_cancel')
  expire_all()
else
  redis.call('EXPIRE', 'rq:results:' .. id, 31536000)
  redis.call('EXPIRE', 'longshore:log:' .. id, 31536000)
  if ARGV[19] == '1' then redis.call('HINCRBY', key, 'retries_left', -1) end
end
if status == 'finished' then
  if ttl == 0 then
    redis.call('DEL', unpack(whole))
  else
    redis.call('ZADD', 'rq:finished:' .. queue, score, id)
  end
elseif status == 'failed' then
  redis.call('ZADD', 'rq:failed:' .. queue, score, id)
elseif status == 'canceled' then
  if held then redis.call('ZADD', 'rq:canceled:' .. queue, now, id) end
elseif status == 'scheduled' then
  redis.call('ZADD', 'rq:scheduled:' .. queue, ARGV[20], id)
else
  redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
  redis.call('HSET', key, 'enqueued_at', ARGV[5])
  redis.call(ARGV[18] == '1' and 'LPUSH' or 'RPUSH', 'rq:queue:' .. queue, id)
end
local worker = 'rq:worker:' .. ARGV[15]
if redis.call('EXISTS', worker) == 1 then
  redis.call('HINCRBY', worker, status == 'finished' and 'successful_job_count' or 'failed_job_count', 1)
  redis.call('HINCRBYFLOAT', worker, 'total_working_time', math.max(0, ARGV[17] - ARGV[16]))
end
redis.call('PUBLISH', 'longshore:record:' .. id, ARGV[7])
return {'ok'}
"""

RQ_MARK = """
-- KEYS: the job; somebody wants it stopped
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'longshore_cancel', '1') end
"""

RQ_PROMOTE = """
-- now, queues...: what is due goes back to its queue, unless a stock scheduler does it
local time = redis.call('TIME')
local moved = 0
for i = 2, #ARGV do
  local queue = ARGV[i]
  if redis.call('EXISTS', 'rq:scheduler-lock:' .. queue) == 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'rq:scheduled:' .. queue, 0, time[1], 'LIMIT', 0, 200)) do
      redis.call('ZREM', 'rq:scheduled:' .. queue, id)
      if redis.call('EXISTS', 'rq:job:' .. id) == 1 then
        redis.call('HSET', 'rq:job:' .. id, 'status', 'queued', 'enqueued_at', ARGV[1])
        redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
        redis.call('RPUSH', 'rq:queue:' .. queue, id)
        moved = moved + 1
      end
    end
  end
end
return moved
"""

WRITE = """
-- KEYS: the job's hash. 1 token, 2 record, 3 our status, 4 id, 5 ttl or '', 6 wip set or '', 7 its member,
-- 8 touch meta, 9 meta expected, 10 meta, 11 what the queue is yet to be told (Faktory)
local key = KEYS[1]
if redis.call('HGET', key, 'longshore_token') ~= ARGV[1] then return {'lost'} end
if ARGV[6] ~= '' and not redis.call('ZSCORE', ARGV[6], ARGV[7]) then return {'lost'} end
if ARGV[8] == '1' then
  local meta = redis.call('HGET', key, 'meta') or ''
  if meta ~= ARGV[9] then return {'meta', meta} end
  redis.call('HSET', key, 'meta', ARGV[10])
end
redis.call('HSET', key, 'longshore', ARGV[2], 'longshore_status', ARGV[3])
if ARGV[5] ~= '' then
  redis.call('EXPIRE', key, ARGV[5])
  redis.call('EXPIRE', 'longshore:log:' .. ARGV[4], ARGV[5])
end
local over = {succeeded = true, failed = true, cancelled = true}
if ARGV[6] == '' and (over[ARGV[3]] or ARGV[3] == 'queued') then  -- nobody needs to run it any more
  redis.call('HDEL', key, 'longshore_payload')
  redis.call('HSET', key, 'longshore_ending', ARGV[11])
  if over[ARGV[3]] then redis.call('HDEL', key, 'longshore_cancel') end
end
redis.call('PUBLISH', 'longshore:record:' .. ARGV[4], ARGV[3])
return {'ok'}
"""

APPEND = """
-- KEYS: the job's hash, the log's stream. 1 token, 2 entry id, 3 ttl, fields...
if redis.call('HGET', KEYS[1], 'longshore_token') ~= ARGV[1] then return 'lost' end
local answer = redis.pcall('XADD', KEYS[2], ARGV[2], unpack(ARGV, 4))
if type(answer) == 'table' and answer['err'] then
  if string.find(answer['err'], 'equal or smaller') then return 'repeated' end
  return answer
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 'ok'
"""
