"""The producer's Redis scripts beside Faktory: what is known of a job from its enqueueing on.

Only a job with a key, with tags or for later is noted before it is pushed: `longshore:key:<hash>` names a key's job,
`longshore:tag:<tag>` lists jobs by time, and `longshore_pushed` in a job's hash says that Faktory has taken it.
"""

NOTE = """
-- 1 seconds to keep, 2 seconds to remember a key, 3 most jobs of a tag, 4 seconds to remember a tag; then for each job:
-- jid, key's hash or '', when the key makes a new job, its Record, number of tags, tags....
-- Answers {jid, whether Faktory has it already}. A job that was noted and never told to be pushed is to be pushed
-- again: twice the same jid runs once.
local over = {succeeded = true, failed = true, cancelled = true}
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local tags = {}
local function same_job(key, again)
  local jid = redis.call('GET', key)
  local fields = jid and redis.call('HMGET', 'longshore:job:' .. jid, 'longshore_status', 'longshore_pushed')
  local status = fields and fields[1]
  if not status then return nil end
  if over[status] and (again == 'ended' or again == 'failed' and status ~= 'succeeded') then return nil end
  return jid, fields[2] == '1' or status ~= 'queued'
end
local answers, at = {}, 5
while at <= #ARGV do
  local jid, key, ntags = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 4])
  local same, pushed = nil, false
  if key ~= '' then
    key = 'longshore:key:' .. key
    same, pushed = same_job(key, ARGV[at + 2])
    redis.call('SET', key, same or jid, 'EX', ARGV[2])
  end
  if not same then
    local hash = 'longshore:job:' .. jid
    redis.call('HSET', hash, 'longshore', ARGV[at + 3], 'longshore_status', 'queued')
    redis.call('EXPIRE', hash, ARGV[1])
    for i = at + 5, at + 4 + ntags do
      redis.call('ZADD', 'longshore:tag:' .. ARGV[i], now, jid)
      tags[ARGV[i]] = true
    end
  end
  answers[#answers + 1] = {same or jid, pushed and 1 or 0}
  at = at + 5 + ntags
end
for tag in pairs(tags) do
  local key = 'longshore:tag:' .. tag
  redis.call('ZREMRANGEBYRANK', key, 0, -1 - ARGV[3])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - ARGV[4])
  redis.call('EXPIRE', key, ARGV[4])
end
return answers
"""

LOOK = """
-- jids: their Records
local rows = {}
for i = 1, #ARGV do rows[i] = redis.call('HGET', 'longshore:job:' .. ARGV[i], 'longshore') end
return rows
"""

KNOWN = """
-- jids: which of them have a Record
local known = {}
for i = 1, #ARGV do known[i] = redis.call('EXISTS', 'longshore:job:' .. ARGV[i]) end
return known
"""

PUSHED = """
-- jid, '1' if Faktory has taken it or '0' if it was refused, for each job
for i = 1, #ARGV, 2 do
  local key = 'longshore:job:' .. ARGV[i]
  if ARGV[i + 1] == '0' then
    if redis.call('HGET', key, 'longshore_status') == 'queued' then redis.call('DEL', key) end
  elseif redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'longshore_pushed', '1')
  end
end
"""

CANCEL = """
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
