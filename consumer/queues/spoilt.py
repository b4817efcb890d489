"""Keys that somebody wrote over: what a script does about one of a wrong type, so that no job is lost and none waits.

A job of RQ's that can't be claimed is set aside in the sorted set `longshore:aside:<queue>`, by when: it stands in no
queue, so it costs no other one, and whoever mends its keys puts it back with RPUSH.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import structlog
from redis.exceptions import ResponseError

log = structlog.get_logger()

WRONG = """
local function said(error) return type(error) == 'table' and error.err or tostring(error) end
local function spoilt(error)
  local why = said(error)
  return string.find(why, 'WRONGTYPE') or string.find(why, 'not an integer') or string.find(why, 'would overflow')
end
local function guarded(work, ...)  -- its answer; or nil and an error that only this one has
  local fine, answer = pcall(work, ...)
  if fine then return answer end
  if not spoilt(answer) then error(answer, 0) end  -- such as a server that takes no writes
  return nil, answer
end
local function wrong(name, kind)  -- what is wrong with a key, if anything is
  local found = redis.call('TYPE', name).ok
  return found ~= 'none' and found ~= kind and name .. ' is of type ' .. found .. ', not ' .. kind
end
"""

TROUBLES = (
    WRONG
    + """
local troubles = {}
local function trouble(id, queue, error) troubles[#troubles + 1] = {id, queue, said(error)} end
local function usable(name, kind, queue)
  local why = wrong(name, kind)
  if why then trouble('', queue, why) end
  return not why
end
"""
)

SET_ASIDE = """
local function set_aside(id, queue, error)  -- whether no later try could go better, and it stands there now
  local why = wrong('rq:job:' .. id, 'hash') or wrong('rq:executions:' .. id, 'zset') or said(error)
  if not spoilt(error) then return false end
  if type(redis.pcall('ZADD', 'longshore:aside:' .. queue, now, id)) ~= 'number' then return false end
  trouble(id, queue, 'set aside in longshore:aside:' .. queue .. ': ' .. why)
  return true
end
"""
_REMEMBERED = 1000


def usable(answers: Sequence[Any]) -> list[Any]:
    """A pipeline's answers; None for those of keys of a wrong type. Raises RedisError for any other error."""
    for answer in answers:
        wrong = isinstance(answer, ResponseError) and "WRONGTYPE" in str(answer)
        if isinstance(answer, Exception) and not wrong:
            raise answer
    return [None if isinstance(answer, Exception) else answer for answer in answers]


class Troubles:
    """Tells each one once."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[Any, ...], None] = OrderedDict()

    def tell(self, row: Sequence[Any]) -> None:
        """`row`: the job's id or '', its queue, what the server said."""
        if tuple(row) in self._told:
            return
        self._told[tuple(row)] = None
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        job, queue, why = (part.decode("utf-8", "replace")[:500] for part in row)
        fix = "mend or delete the key that is of a wrong type"
        if "longshore:aside:" in why:
            fix += f", then RPUSH rq:queue:{queue} and ZREM longshore:aside:{queue} the job's id"
        log.error("key_unusable", job=job or None, queue=queue, error=why, fix=fix)
