"""What both stores are audited for: limits, webhooks, keys that stay, logs without an end. Reads only, in pages."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from redis.asyncio import Redis

from consumer.audit_kinds import Looked
from consumer.queues.spoilt import usable
from enqueue.wire import records as wire

PAGE = 500
"""Entries, or commands, in one round trip."""
PATIENCE = 60
"""Seconds after which a webhook is overdue."""
UNFINISHED = ("claimed", "starting", "running")
FINAL = ("succeeded", "failed", "cancelled")
_ENDING = ("job", "log", "tag", "key", "consumer", "consumers", "claims", "called")
"""Keys of ours, by their second word, that must go by themselves; on RQ a log goes with its job's hash."""


class Reader:
    """Reads a Redis in pages, `most` entries or keys of a kind at most."""

    def __init__(self, redis: Redis, most: int, looked: Looked) -> None:
        self.redis, self.most, self.looked = redis, most, looked

    async def entries(self, key: str) -> list[str]:
        """A list's entries."""
        return [text(entry) async for entry in self._pages("LRANGE", key)]

    async def members(self, key: str) -> list[str]:
        """A sorted set's members."""
        return [text(entry) async for entry in self._pages("ZRANGE", key)]

    async def _pages(self, command: str, key: str) -> AsyncIterator[Any]:
        for start in range(0, self.most, PAGE):
            [page] = await self.all([(command, key, start, start + PAGE - 1)])
            if page is None:
                self._stopped(f"{key}: it can't be read")
                return
            for entry in page:
                yield entry
            if len(page) < PAGE:
                return
        self._stopped(f"{key}: only the first {self.most} entries were looked at")

    async def scan(self, pattern: str, kind: str | None = None) -> list[str]:
        """Keys by a pattern."""
        found: list[str] = []
        async for key in self.redis.scan_iter(match=pattern, count=PAGE, _type=kind):
            found.append(text(key))
            if len(found) >= self.most:
                self._stopped(f"{pattern}: only {self.most} keys were looked at")
                break
        return list(dict.fromkeys(found))

    async def all(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """The answers to many commands, in pages; None to those about a key of a wrong type."""
        answers: list[Any] = []
        rest = iter(commands)
        while page := list(itertools.islice(rest, PAGE)):
            async with self.redis.pipeline(transaction=False) as pipe:
                for command in page:
                    pipe.execute_command(*command)
                found = await pipe.execute(raise_on_error=False)
            answers += usable(found)
            for command, answer in zip(page, found, strict=True):
                if isinstance(answer, Exception):
                    self._unusable(command[1])
        return answers

    async def hashes(self, keys: Sequence[str], *fields: str) -> list[list[str]]:
        """These fields of many hashes; '' for what isn't there."""
        rows = await self.all(("HMGET", key, *fields) for key in keys)
        return [[text(value) for value in row or (None,) * len(fields)] for row in rows]

    def _unusable(self, key: str) -> None:
        self.looked.add("key_unusable", key, f"the key {key} is of a wrong type")

    def _stopped(self, why: str) -> None:
        if why not in self.looked.partial:
            self.looked.partial.append(why)


def text(value: bytes | str | None) -> str:
    """An answer as text; '' for none."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def record_of(stored: str) -> dict[str, Any]:
    """A Record's JSON; empty for what is none."""
    try:
        found = json.loads(stored) if stored else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


async def living(reader: Reader, instances: Iterable[str]) -> set[str]:
    """Those of the consumers that give signs of life."""
    names = sorted({instance for instance in instances if instance})
    answers = await reader.all(("EXISTS", wire.consumer_key(name)) for name in names)
    return {name for name, there in zip(names, answers, strict=True) if there}


async def look_at_limits(reader: Reader) -> None:
    """Places that nobody has any more, and jobs that nobody calls."""
    keys = await reader.members("longshore:limits")
    reader.looked.count("limits", len(keys))
    seconds, _ = await reader.redis.time()
    for key in keys:
        taken, first, called = await reader.all(
            [
                ("HGETALL", f"longshore:limit:{key}"),
                ("ZRANGE", f"longshore:parked:{key}", "0", "0"),
                ("ZCOUNT", f"longshore:called:{key}", float(seconds), "+inf"),
            ]
        )
        places = {text(k): text(v) for k, v in (taken or {}).items()}
        held = await _claimed(reader, places)
        for name in sorted(places.keys() - held):
            job = _id_of(name)
            said = f"the limit '{key}' counts the job {job}, which has no claim"
            reader.looked.add("place_of_nobody", f"{key}/{job}", said)
        parked = [text(name) for name in first or ()]
        if not parked or taken is None or called is None:
            continue
        [[waits, status, origin]] = await reader.hashes(parked, "longshore_waits", "longshore_status", "origin")
        job, most = _id_of(parked[0]), [*waits.split(" ", 2), "", ""][1]
        if parked[0].startswith("rq:job:"):
            there = await reader.redis.zscore(f"rq:scheduled:{origin}", job) is not None
        else:
            there = status == "queued"
        if there and most.isdigit() and len(places) + called < int(most):
            said = f"the job {job} waits for the limit '{key}', of which {len(places)} of {most} places are taken"
            reader.looked.add("parked_uncalled", job, said)


async def _claimed(reader: Reader, places: dict[str, str]) -> set[str]:
    names = list(places)
    rows = await reader.hashes(names, "longshore_token", "longshore_status")
    jobs = [name for name, (token, _) in zip(names, rows, strict=True) if name.startswith("rq:job:") and token]
    tokens = {name: token for name, (token, _) in zip(names, rows, strict=True)}
    scores = await reader.all(("ZSCORE", f"rq:wip:{places[name]}", f"{_id_of(name)}:{tokens[name]}") for name in jobs)
    found = {name for name, score in zip(jobs, scores, strict=True) if score is not None}
    return found | {
        name
        for name, (_, status) in zip(names, rows, strict=True)
        if not name.startswith("rq:job:") and status in UNFINISHED
    }


def _id_of(name: str) -> str:
    return name.removeprefix("rq:job:").removeprefix("longshore:job:")


async def look_at_webhooks(reader: Reader) -> None:
    """Those that nobody sends. Their addresses may hold secrets, so only their number is told."""
    seconds, _ = await reader.redis.time()
    [late] = await reader.all([("ZCOUNT", "longshore:webhooks", "-inf", float(seconds) - PATIENCE)])
    if late:
        said = f"{late} webhook{'s' if late > 1 else ''} should have been sent {PATIENCE} seconds ago or earlier"
        reader.looked.add("webhooks_overdue", "longshore:webhooks", said)


async def look_at_keys(reader: Reader) -> None:
    """Keys of ours that stay for ever."""
    keys = [key for key in await reader.scan("longshore:*") if key.split(":", 2)[1] in _ENDING]
    reader.looked.count("keys", len(keys))
    lives = await reader.all(("TTL", key) for key in keys)
    staying = [key for key, life in zip(keys, lives, strict=True) if life == -1]
    logs = [key for key in staying if key.startswith("longshore:log:")]
    jobs = await reader.all(("TTL", "rq:job:" + key.removeprefix("longshore:log:")) for key in logs)
    kept = {key for key, life in zip(logs, jobs, strict=True) if life == -1}
    for key in staying:
        if key not in kept:
            reader.looked.add("key_without_ttl", key, f"the key {key} has no TTL")


async def look_at_logs(reader: Reader, ended: Sequence[str]) -> None:
    """Logs of jobs that have ended, and that don't say so."""
    rows = await reader.all(("XREVRANGE", wire.log_key(job), "+", "-", "COUNT", "1") for job in ended)
    for job, found in zip(ended, rows, strict=True):
        if found:
            _, fields = found[0]
            if b"end" not in (fields or ()):
                reader.looked.add("log_without_end", job, f"the log of the job {job} has no end, but the job has")
