"""Why a job isn't running, or why it failed, in one answer. The facts come by steps, the answer is pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from enqueue.protocol import Backend, Command, Steps
from enqueue.record import Record, Status
from enqueue.times import epoch, rfc3339

TAKEOVER = "another one goes on with the job within some 10 seconds, if there is one"

_CONSUMERS = """
-- the consumers that live: name, queues with commas between them, why it can start nothing
local found = {}
for _, instance in ipairs(redis.call('ZRANGE', 'longshore:consumers', 0, -1)) do
  local key = 'longshore:consumer:' .. instance
  if redis.call('EXISTS', key) == 1 then
    local fields = redis.call('HMGET', key, 'name', 'queues', 'trouble')
    found[#found + 1] = {fields[1] or '', fields[2] or '', fields[3] or ''}
  else
    redis.call('ZREM', 'longshore:consumers', instance)
  end
end
return found
"""


_LIMIT = """
-- KEYS: the job's hash -> what it waits for, as `<arrival> <concurrency> <key>` (empty if for nothing), how many hold
-- a place, some of them, how many wait before it (of more than LOOKED_AT all others count)
local LOOKED_AT = 1000
local waits = redis.call('HGET', KEYS[1], 'longshore_waits')
local key = waits and string.match(waits, '^%S+ %d+ (.*)$')
if not key then return {'', 0, {}, 0} end
local function waiting(name)  -- not cancelled or deleted by somebody who knows nothing of limits
  local fields = redis.pcall('HMGET', name, 'origin', 'longshore_status')
  local id = string.match(name, '^rq:job:(.*)$')
  if not id then return fields[2] == 'queued' end
  return type(redis.pcall('ZSCORE', 'rq:scheduled:' .. (fields[1] or ''), id)) == 'string'
end
local limit, parked = 'longshore:limit:' .. key, 'longshore:parked:' .. key
local names = redis.call('HKEYS', limit)
local before = redis.call('ZRANK', parked, KEYS[1]) or 0
for _, name in ipairs(before > 0 and redis.call('ZRANGE', parked, 0, math.min(before, LOOKED_AT) - 1) or {}) do
  if not waiting(name) then before = before - 1 end
end
return {waits, #names, {unpack(names, 1, math.min(5, #names))}, before}
"""


@dataclass(frozen=True, slots=True)
class Limited:
    """The limit that a job waits for: how many of its key hold a place, ids of some of them, how many wait before."""

    key: str
    concurrency: int
    held: int
    holders: tuple[str, ...]
    ahead: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the servers say of a job that waits."""

    suspended: bool = False
    listed: bool | None = None
    """It stands in its queue; None: that can't be asked."""
    ahead: int | None = None
    """Jobs before it; None: that can't be asked, or they are very many."""
    length: int | None = None
    """Jobs in its queue."""
    due: float | None = None
    """It is scheduled for then, in seconds since the epoch."""
    waits_for: tuple[tuple[str, str], ...] = ()
    """Jobs that must end first: id and status."""
    limit: Limited | None = None
    """Its limit, if it waits for a place."""


def limited(job_hash: str) -> Steps[Limited | None]:
    """What a job that waits is told of its limit."""
    waits, held, names, ahead = yield Command(("EVAL", _LIMIT, 1, job_hash))
    if not waits:
        return None
    _, concurrency, key = waits.decode().split(" ", 2)
    holders = tuple(name.decode().removeprefix("rq:job:").removeprefix("longshore:job:") for name in names)
    return Limited(key, int(concurrency), held, holders, ahead)


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that keeps a job, or ended it: a word for programs, a sentence for people."""

    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job stands where it stands; the first cause is the one that matters most."""

    id: str
    queue: str
    status: str
    causes: tuple[Cause, ...]
    hint: str | None = None

    @property
    def text(self) -> str:
        """For people, in a few lines."""
        lines = [f"job {self.id} is {self.status}", *(f"- {cause.text}" for cause in self.causes)]
        return "\n".join([*lines, f"what to do: {self.hint}"] if self.hint else lines)

    def as_dict(self) -> dict[str, Any]:
        """For programs: JSON types only."""
        return asdict(self) | {"causes": [asdict(cause) for cause in self.causes]}


def explain(backend: Backend, job_id: str) -> Steps[Explanation]:
    """Ask and answer. Raises UnknownJob, RecordsUnavailable, QueueUnavailable."""
    record = yield from backend.record(job_id)
    if record.status.final:
        return told(record, Facts(), {}, time.time())
    rows = yield Command(("EVAL", _CONSUMERS, 0))
    consumers = {name.decode(): queues.decode().split(",") if queues else [] for name, queues, _ in rows}
    troubles = {name.decode(): trouble.decode(errors="replace") for name, _, trouble in rows if trouble}
    facts = (yield from backend.facts(record)) if record.status is Status.QUEUED else Facts()
    return told(record, facts, consumers, time.time(), troubles)


def told(
    record: Record,
    facts: Facts,
    consumers: dict[str, list[str]],
    now: float,
    troubles: Mapping[str, str] = MappingProxyType({}),
) -> Explanation:
    """The answer. `consumers`: the living, and their queues (none said: all). `troubles`: why they start nothing."""
    hint = record.hint
    if record.status.final:
        causes = list(_of_its_end(record))
    elif record.status is Status.QUEUED:
        causes = list(_of_waiting(record, facts, consumers, now, troubles))
        hint = _HINTS.get(causes[0].word) if causes else None
    else:
        causes = list(_of_running(record, consumers, troubles))
    return Explanation(record.id, record.queue, record.status.value, tuple(causes), hint)


_HINTS = {
    "limit": "It starts as soon as one of those ends.",
    "suspended": "`rq resume` lets consumers take jobs again.",
    "no_consumer": "Start one: longshore run --queues with this queue's name; or look why those that run are gone.",
    "unlisted": "Enqueue it again, if it doesn't come by itself.",
    "unknown": "Is the id right, and is this the server that it was enqueued on?",
}


def _of_its_end(record: Record) -> Iterator[Cause]:
    if record.status is Status.SUCCEEDED:
        yield Cause("succeeded", f"it ended well at {record.times.ended or 'an unknown time'}")
        return
    yield Cause(record.reason or record.status.value, record.message or "nobody said why")
    tries = len(record.attempts)
    if tries > 1:
        former = "; ".join(f"{a.attempt}: {a.message or a.reason or a.status.value}" for a in record.attempts[:-1])
        yield Cause("attempts", f"that was try {tries}; the former ones: {former}")


def _of_waiting(
    record: Record, facts: Facts, consumers: dict[str, list[str]], now: float, troubles: Mapping[str, str]
) -> Iterator[Cause]:
    here = [name for name, queues in consumers.items() if not queues or record.queue in queues]
    due = facts.due if facts.due is not None else epoch(record.times.due)
    if facts.suspended:
        yield Cause("suspended", "RQ is suspended: no consumer takes any job")
    if facts.limit is not None:
        yield Cause("limit", _of_limit(facts.limit))
    for job_id, status in facts.waits_for:
        yield Cause("deferred", f"it waits for job {job_id}, which is {status or 'gone'}")
    if due is not None and due > now and facts.limit is None:
        yield Cause("scheduled", f"it is due at {rfc3339(due)}, in {due - now:.0f} s")
    if not record.queue:
        yield Cause("unknown", "nothing is known of it: it waits in Faktory, or it was never enqueued")
        return
    if not here:
        others = f"; those that live take others: {_few(sorted(consumers))}" if consumers else ""
        yield Cause("no_consumer", f"no living consumer takes jobs from queue '{record.queue}'{others}")
    for name in here:
        yield from _of_consumer(name, troubles)
    if facts.listed and facts.ahead is None:
        yield Cause("position", f"very many jobs are before it in queue '{record.queue}', of {facts.length}")
    elif facts.listed:
        before = {0: "it is the next one", 1: "one job is before it"}.get(
            facts.ahead or 0, f"{facts.ahead} are before it"
        )
        yield Cause("position", f"{before} in queue '{record.queue}', of {facts.length}")
    elif facts.listed is None and facts.length is not None:
        word = "one job waits" if facts.length == 1 else f"{facts.length} jobs wait"
        yield Cause("position", f"{word} in queue '{record.queue}'; Faktory tells no place, nor who is paused")
    elif facts.listed is False and due is None and not facts.waits_for:
        yield Cause("unlisted", "it stands in no list of the queue: something took it without saying so")
    if here:
        yield Cause("consumers", f"the queue's consumers: {_few(here)}")
    if record.attempts:
        last = record.attempts[-1]
        yield Cause("retry", f"try {last.attempt} failed: {last.message or last.reason}")


def _of_limit(limit: Limited) -> str:
    before = {0: "it is the next one", 1: "one job waits before it"}.get(limit.ahead, f"{limit.ahead} wait before it")
    held = f", held by {_few(list(limit.holders), limit.held)}" if limit.holders else ""
    return f"it waits for its limit '{limit.key}': {limit.held} of {limit.concurrency} in use{held}; {before}"


def _of_consumer(name: str, troubles: Mapping[str, str]) -> Iterator[Cause]:
    if name in troubles:
        yield Cause("consumer_trouble", f"consumer {name} can't start anything now: {troubles[name]}")


def _of_running(record: Record, consumers: dict[str, list[str]], troubles: Mapping[str, str]) -> Iterator[Cause]:
    where, times = record.where, record.times
    place = ", ".join(
        f"{k} {v}" for k, v in (("pod", where.pod), ("container", where.container), ("node", where.node)) if v
    )
    if where.consumer and where.consumer not in consumers:
        yield Cause("consumer_lost", f"its consumer {where.consumer} gives no sign of life; {TAKEOVER}")
    if record.status is Status.STARTING:
        yield from _of_consumer(where.consumer or "", troubles)
        said = record.message or "it is being started"
        yield Cause("starting", f"{said} (since {times.claimed}{', ' + place if place else ''})")
    else:
        at = f"it runs since {times.started or times.claimed}"
        yield Cause("running", f"{at}{', ' + place if place else ''}")
    if record.progress is not None:
        yield Cause("progress", f"{record.progress.percent:g} % {record.progress.message or ''}".rstrip())


def _few(names: list[str], all: int = 0) -> str:
    count = all or len(names)
    return ", ".join(names[:5]) + (f" and {count - 5} more" if count > 5 else "")
