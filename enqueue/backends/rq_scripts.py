"""The producer's Redis scripts for RQ: each one step that happens whole or not at all.

Source of the keys: rq 2.6 to 2.12. `longshore:key:<hash>` names a key's job; `longshore:tag:<tag>` lists jobs by time.
"""

ENQUEUE = """
-- 1 mark of this call, 2 seconds to remember a key, 3 most jobs of a tag, 4 seconds to remember a tag; then for each
-- order: id, queue, key's hash or '', when the key makes a new job, due or '', at front, number of tags, number of
-- fields, tags..., fields.... Sent again (its answer was lost), it changes nothing. Answers a job's id, or -1: in use.
local over = {finished = true, failed = true, canceled = true, stopped = true}
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local queues, tags, sound, bar = {}, {}, {}, nil
local function look(name, kind)  -- all are enqueued or none: what would fail is found before anything is written
  if sound[name] then return end
  local found = redis.call('TYPE', name).ok
  sound[name] = found == 'none' or found == kind
  if not sound[name] then bar = name .. ' is of type ' .. found .. ', not ' .. kind end
end
local function same_job(key, again)
  local id = redis.call('GET', key)
  local status = id and redis.call('HGET', 'rq:job:' .. id, 'status')
  if not status then return nil end
  if over[status] and (again == 'ended' or again == 'failed' and status ~= 'finished') then return nil end
  return id
end
local function place(at, mark)
  local id, queue, key, due = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 4]
  local ntags, nfields = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
  local hash = 'rq:job:' .. id
  if redis.call('HGET', hash, 'longshore_call') == mark then return id end
  if key ~= '' then
    key = 'longshore:key:' .. key
    local same = same_job(key, ARGV[at + 3])
    redis.call('SET', key, same or id, 'EX', ARGV[2])
    if same then return same end
  end
  local former = redis.call('HMGET', hash, 'status', 'origin')
  if former[1] then  -- an earlier job with this id
    if not over[former[1]] then return -1 end
    for _, name in ipairs({queue, former[2] or queue}) do
      for _, kind in ipairs({'finished', 'failed', 'canceled'}) do
        redis.pcall('ZREM', 'rq:' .. kind .. ':' .. name, id)
      end
    end
    redis.call('DEL', hash, 'rq:results:' .. id)
  end
  redis.call('DEL', 'longshore:log:' .. id)
  redis.call('HSET', hash, 'longshore_call', mark, unpack(ARGV, at + 8 + ntags, at + 7 + ntags + nfields))
  for i = at + 8, at + 7 + ntags do
    redis.call('ZADD', 'longshore:tag:' .. ARGV[i], now, id)
    tags[ARGV[i]] = true
  end
  queues[queue] = true
  if due ~= '' then
    redis.call('ZADD', 'rq:scheduled:' .. queue, due, id)
  else
    redis.call(ARGV[at + 5] == '1' and 'LPUSH' or 'RPUSH', 'rq:queue:' .. queue, id)
  end
  return id
end
local answers, at = {}, 5
while at <= #ARGV do
  if ARGV[at + 4] ~= '' then look('rq:scheduled:' .. ARGV[at + 1], 'zset')
  else look('rq:queue:' .. ARGV[at + 1], 'list') end
  for i = at + 8, at + 7 + ARGV[at + 6] do look('longshore:tag:' .. ARGV[i], 'zset') end
  at = at + 8 + ARGV[at + 6] + ARGV[at + 7]
end
if bar then return redis.error_reply('WRONGTYPE ' .. bar) end
at = 5
while at <= #ARGV do
  answers[#answers + 1] = place(at, ARGV[1] .. ':' .. #answers)
  at = at + 8 + ARGV[at + 6] + ARGV[at + 7]
end
for queue in pairs(queues) do redis.pcall('SADD', 'rq:queues', 'rq:queue:' .. queue) end
for tag in pairs(tags) do
  local key = 'longshore:tag:' .. tag
  redis.call('ZREMRANGEBYRANK', key, 0, -1 - ARGV[3])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - ARGV[4])
  redis.call('EXPIRE', key, ARGV[4])
end
return answers
"""

CANCEL = """
-- KEYS: the job. 1 id, 2 the record if it is cancelled now, 3 ttl, 4 now
local key = KEYS[1]
local status = redis.call('HGET', key, 'status')
if not status then return 'unknown' end
if status == 'finished' or status == 'failed' or status == 'canceled' or status == 'stopped' then return 'ended' end
if status == 'started' then
  redis.call('HSET', key, 'longshore_cancel', '1')
  redis.call('PUBLISH', 'longshore:cancel', ARGV[1])
  return 'requested'
end
local queue = redis.call('HGET', key, 'origin') or ''
redis.pcall('LREM', 'rq:queue:' .. queue, 0, ARGV[1])  -- where a key is of a wrong type, it isn't in it
redis.pcall('ZREM', 'rq:scheduled:' .. queue, ARGV[1])
redis.pcall('ZREM', 'rq:deferred:' .. queue, ARGV[1])
redis.call('HSET', key, 'status', 'canceled', 'longshore', ARGV[2], 'longshore_status', 'cancelled')
redis.pcall('ZADD', 'rq:canceled:' .. queue, ARGV[4], ARGV[1])
redis.call('EXPIRE', key, ARGV[3])
redis.call('EXPIRE', 'rq:results:' .. ARGV[1], ARGV[3])
redis.call('EXPIRE', 'longshore:log:' .. ARGV[1], ARGV[3])
redis.call('PUBLISH', 'longshore:record:' .. ARGV[1], 'cancelled')
return 'cancelled'
"""

LOOK = """
-- 1 number of fields, fields..., ids...
local names, rows = {}, {}
for i = 2, ARGV[1] + 1 do names[#names + 1] = ARGV[i] end
for i = ARGV[1] + 2, #ARGV do rows[#rows + 1] = redis.call('HMGET', 'rq:job:' .. ARGV[i], unpack(names)) end
return rows
"""

LIST = """
-- 1 queue, 2 most of each kind, kinds...; members of wip are <id>:<execution>
local found = {}
for i = 3, #ARGV do
  local ids
  if ARGV[i] == 'queue' then
    ids = redis.call('LRANGE', 'rq:queue:' .. ARGV[1], 0, ARGV[2] - 1)
  else
    ids = redis.call('ZREVRANGE', 'rq:' .. ARGV[i] .. ':' .. ARGV[1], 0, ARGV[2] - 1)
  end
  for _, id in ipairs(ids) do
    found[#found + 1] = ARGV[i] == 'wip' and string.match(id, '^(.*):[^:]+$') or id
  end
end
return found
"""

LOOKED_AT = 100_000
"""Jobs of a queue among which a job's place is looked for."""

FACTS = f"""
-- id, queue: whether RQ is suspended, place in the queue or -1, the queue's length, due or '', jobs that it waits for
local id, queue = ARGV[1], ARGV[2]
local waits = {{}}
for _, other in ipairs(redis.call('SMEMBERS', 'rq:job::' .. id .. ':dependencies')) do
  waits[#waits + 1] = other
  waits[#waits + 1] = redis.call('HGET', 'rq:job:' .. other, 'status') or ''
end
if redis.call('HGET', 'rq:job:' .. id, 'status') ~= 'deferred' then waits = {{}} end
local place = redis.call('LPOS', 'rq:queue:' .. queue, id, 'MAXLEN', {LOOKED_AT})
return {{redis.call('EXISTS', 'rq:suspended'), place or -1, redis.call('LLEN', 'rq:queue:' .. queue),
  redis.call('ZSCORE', 'rq:scheduled:' .. queue, id) or '', waits}}
"""
