"""Scripts on Records and signs of life, for both queues: each one step that happens whole or not at all.

`longshore:consumer:<instance>` lives as long as a consumer does. Keys are computed, so no Redis Cluster.
"""

LIVE = """
-- KEYS: the consumer's key. 1 its name, 2 seconds to live, 3 seconds that are left if it wasn't cut off, 4 its id,
-- 5 its queues, 6 why it can start nothing, or '', 7 seconds without a sign after which others count as gone
-- `longshore:consumers` lists consumers by their last sign of life
-- `since`: from when on it has given signs of life without a break. Answers with this run of the server, and with
-- how many consumers are gone without a word: one more than before, and their claims may be taken over; and its clock
local left = redis.call('TTL', KEYS[1])
if left < tonumber(ARGV[3]) then
  if left ~= -1 then redis.call('HSET', KEYS[1], 'since', redis.call('TIME')[1]) end
  redis.call('HSET', KEYS[1], 'name', ARGV[1], 'queues', ARGV[5])
end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'trouble', ARGV[6]) else redis.call('HDEL', KEYS[1], 'trouble') end
redis.call('EXPIRE', KEYS[1], ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZADD', 'longshore:consumers', now, ARGV[4])
redis.call('ZREMRANGEBYSCORE', 'longshore:consumers', '-inf', now - 86400)
redis.call('EXPIRE', 'longshore:consumers', 86400)
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
return {run, redis.call('ZCOUNT', 'longshore:consumers', '-inf', now - ARGV[7]), tostring(now)}
"""

WRITE = """
-- KEYS: the job's hash. 1 token, 2 record, 3 our status, 4 id, 5 ttl or '', 6 wip set or '', 7 its member,
-- 8 touch meta, 9 meta expected, 10 meta, 11 what the queue is yet to be told (Faktory)
local key = KEYS[1]
if redis.call('HGET', key, 'longshore_token') ~= ARGV[1] then return {'lost'} end
if ARGV[6] ~= '' and not redis.call('ZSCORE', ARGV[6], ARGV[7]) then
  return {redis.call('HGET', key, 'status') == 'canceled' and 'canceled' or 'lost'}
end
if ARGV[8] == '1' then
  local meta = redis.call('HGET', key, 'meta') or ''
  if meta ~= ARGV[9] then return {'meta', meta} end
  redis.call('HSET', key, 'meta', ARGV[10])
end
redis.call('HSET', key, 'longshore', ARGV[2], 'longshore_status', ARGV[3])
if ARGV[5] ~= '' then
  redis.call('EXPIRE', key, ARGV[5])
  redis.call('EXPIRE', 'longshore:log:' .. ARGV[4], ARGV[5])
  redis.call('EXPIRE', 'longshore:variables:' .. ARGV[4], ARGV[5])
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

KEEP = """
-- KEYS: the job's hash, that of its large variables. 1 token, 2 ttl, names and values...
if redis.call('HGET', KEYS[1], 'longshore_token') ~= ARGV[1] then return 'lost' end
redis.call('HSET', KEYS[2], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 'ok'
"""

APPEND = """
-- KEYS: the job's hash, the log's stream. 1 token, 2 entry id, 3 ttl, fields...
local held = redis.call('HMGET', KEYS[1], 'longshore_token', 'longshore_done', 'longshore_status')
local over = {succeeded = true, failed = true, cancelled = true, queued = true}
-- what was sent long ago, and has been told as not stored since, isn't stored behind the end
if held[1] ~= ARGV[1] or held[2] == ARGV[1] or over[held[3]] then return 'lost' end
local answer = redis.pcall('XADD', KEYS[2], ARGV[2], unpack(ARGV, 4))
if type(answer) == 'table' and answer['err'] then
  if string.find(answer['err'], 'equal or smaller') then return 'repeated' end
  return answer
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 'ok'
"""
