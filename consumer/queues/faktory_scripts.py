"""The Redis scripts that stand beside Faktory: who holds a job that was fetched, and what Faktory is yet to be told.

In `longshore:job:<jid>`, beside what every Record has: `longshore_instance` (the consumer that holds it),
`longshore_payload` (while it runs), `longshore_ending` (from the recorded outcome until Faktory was told),
`longshore_failures` (as Faktory counted them when another consumer was handed the job while it ran: ended
reservations count there);
`longshore:claims:<queue>` lists both kinds by the end of their reservations.
"""

FAKTORY_CLAIM = """
-- KEYS: the job's hash, its log. 1 token, 2 instance, 3 ttl, 4 jid, 5 queue, 6 payload, 7 end of the reservation,
-- 8 failures
local key = KEYS[1]
local fields = redis.pcall('HMGET', key, 'longshore_status', 'longshore_instance', 'longshore_attempt', 'longshore',
  'longshore_cancel')
if fields.err then return redis.call('TYPE', key).ok ~= 'hash' and {'spoilt', 0, '', 0} or fields end
local status, holder, attempt = fields[1], fields[2], tonumber(fields[3] or 0)
local untold = redis.call('HEXISTS', key, 'longshore_ending') == 1
local unfinished = status == 'claimed' or status == 'starting' or status == 'running'
if status == 'succeeded' or status == 'cancelled' then return {'final', attempt, fields[4] or '', 0} end
if unfinished and holder ~= ARGV[2] and redis.call('EXISTS', 'longshore:consumer:' .. (holder or '')) == 1 then
  redis.call('HSET', key, 'longshore_failures', ARGV[8])
  return {'held', attempt, fields[4] or '', 0}
end
if status == 'failed' and untold then return {'failed', attempt, fields[4] or '', 0} end
if not unfinished then attempt = attempt + 1 end
if attempt == 1 and not unfinished then redis.call('DEL', KEYS[2]) end  -- the log of an earlier job with this id
redis.call('HSET', key, 'longshore_token', ARGV[1], 'longshore_instance', ARGV[2], 'longshore_attempt', attempt,
  'longshore_status', 'claimed', 'longshore_queue', ARGV[5], 'longshore_payload', ARGV[6])
redis.call('HDEL', key, 'longshore_ending', 'longshore_failures')
redis.call('EXPIRE', key, ARGV[3])
redis.call('ZADD', 'longshore:claims:' .. ARGV[5], ARGV[7], ARGV[4])
redis.call('EXPIRE', 'longshore:claims:' .. ARGV[5], ARGV[3])
return {'ours', attempt, fields[4] or '', fields[5] and 1 or 0}
"""

FAKTORY_TAKEOVER = """
-- instance, slots, number of queues, queues..., tokens...: what dead consumers held; the same attempt goes on
local slots, queues = tonumber(ARGV[2]), tonumber(ARGV[3])
local taken, alive = {}, {}
-- As for RQ: whoever was cut off from this server a moment ago, as we were, can't be told from the dead.
local since = tonumber(redis.call('HGET', 'longshore:consumer:' .. ARGV[1], 'since') or '')
if not since or redis.call('TIME')[1] - since < 8 then return taken end
for i = 1, queues do
  local index = 'longshore:claims:' .. ARGV[3 + i]
  for _, jid in ipairs(redis.pcall('ZRANGE', index, 0, -1)) do
    if #taken >= slots then break end
    local key = 'longshore:job:' .. jid
    local fields = redis.pcall('HMGET', key, 'longshore_instance', 'longshore_payload', 'longshore_attempt',
      'longshore', 'longshore_cancel', 'longshore_ending')
    local holder = fields[1]
    if not fields.err and not (holder and (fields[2] or fields[6])) then
      redis.call('ZREM', index, jid)
    elseif holder and not fields[6] then
      if alive[holder] == nil then
        alive[holder] = holder == ARGV[1] or redis.call('EXISTS', 'longshore:consumer:' .. holder) == 1
      end
      if not alive[holder] then
        local token = ARGV[3 + queues + #taken + 1]
        redis.call('HSET', key, 'longshore_token', token, 'longshore_instance', ARGV[1])
        taken[#taken + 1] = {token, fields[2], tonumber(fields[3]), fields[4] or '', fields[5] and 1 or 0,
          redis.call('ZSCORE', index, jid)}
      end
    end
  end
end
return taken
"""

FAKTORY_UNTOLD = """
-- instance, most, queues...: claims whose outcome dead consumers have recorded, and of which nobody knows whether
-- Faktory was told; ours to tell from now on
local found, alive = {}, {}
local since = tonumber(redis.call('HGET', 'longshore:consumer:' .. ARGV[1], 'since') or '')
if not since or redis.call('TIME')[1] - since < 8 then return found end
for i = 3, #ARGV do
  local index = 'longshore:claims:' .. ARGV[i]
  for _, jid in ipairs(redis.pcall('ZRANGE', index, 0, -1)) do
    if #found >= tonumber(ARGV[2]) then break end
    local key = 'longshore:job:' .. jid
    local fields = redis.pcall('HMGET', key, 'longshore_ending', 'longshore_instance', 'longshore_token')
    local holder = fields[2]
    if fields[1] and holder then
      if alive[holder] == nil then
        alive[holder] = holder == ARGV[1] or redis.call('EXISTS', 'longshore:consumer:' .. holder) == 1
      end
      if not alive[holder] then
        redis.call('HSET', key, 'longshore_instance', ARGV[1])
        found[#found + 1] = {jid, fields[3], fields[1], redis.call('ZSCORE', index, jid)}
      end
    end
  end
end
return found
"""

FAKTORY_TOLD = """
-- jid, token of each claim of whose end Faktory knows now
for i = 1, #ARGV, 2 do
  local key = 'longshore:job:' .. ARGV[i]
  local fields = redis.pcall('HMGET', key, 'longshore_token', 'longshore_queue')
  if fields[1] == ARGV[i + 1] then
    redis.call('HDEL', key, 'longshore_ending')
    redis.pcall('ZREM', 'longshore:claims:' .. (fields[2] or ''), ARGV[i])
  end
end
"""

FAKTORY_FORGOTTEN = """
-- instance, then id, token, attempt of claims that were settled: which are to be written again, as this store was set
-- back? Where it knows nothing of the claim, the claim is written as well.
local over = {succeeded = true, failed = true, cancelled = true, queued = true}
local again = {}
for i = 2, #ARGV, 3 do
  local key, token, attempt = 'longshore:job:' .. ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local fields = redis.pcall('HMGET', key, 'longshore_token', 'longshore_attempt', 'longshore_status')
  if fields.err then  -- it is no hash any more: there is nothing to write to
  elseif tonumber(fields[2] or 0) < attempt then
    redis.call('HSET', key, 'longshore_token', token, 'longshore_attempt', attempt, 'longshore_instance', ARGV[1])
    again[#again + 1] = i
  elseif fields[1] == token and not over[fields[3] or ''] then
    again[#again + 1] = i
  end
end
return again
"""

FAKTORY_BEAT = """
-- id, token for each claim
local answers = {}
for i = 1, #ARGV, 2 do
  local fields = redis.pcall('HMGET', 'longshore:job:' .. ARGV[i], 'longshore_token', 'longshore_cancel')
  answers[#answers + 1] = fields.err and 'ok' or fields[1] ~= ARGV[i + 1] and 'lost' or fields[2] and 'cancel' or 'ok'
end
return answers
"""
