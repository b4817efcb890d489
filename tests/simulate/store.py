"""What longshore keeps in Redis for RQ, in memory: each of its scripts as one step in Python.

It answers as the scripts in consumer/queues do; test_store.py holds it against a real server. Left out is what no
simulated job uses: dependents, repetitions, callbacks, webhooks, limits by key, TTLs, RQ's own registries and pages.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from consumer.queues import rq_scripts, rq_settle, scripts
from consumer.queues.standing import STANDING
from enqueue.wire import records as wire
from support.history import FINAL, Event, What

UNSEEN = ("canceled", "finished", "failed", "stopped")
"""RQ's words for what has ended."""


@dataclass
class Kept:
    """A job's hash, and its log."""

    fields: dict[str, bytes]
    log: dict[tuple[int, int], dict[bytes, bytes]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.fields.get(name, b"").decode()


def raw(value: Any) -> bytes:
    """As it would come back from Redis."""
    return value if isinstance(value, bytes) else str(value).encode()


class Store:
    """One server. `now`: its clock. `note`: told of each thing that happens."""

    def __init__(self, queue: str, now: Callable[[], float], note: Callable[[Event], None], source: str) -> None:
        self.queue, self.now, self.note = queue, now, note
        self.jobs: dict[str, Kept] = {}
        self.waiting: list[str] = []
        self.wip: dict[str, tuple[str, str, float]] = {}
        """Claims by `<id>:<token>`: the job, who holds it, until when."""
        self.consumers: dict[str, dict[str, float]] = {}
        """By instance: `until`, `since`."""
        self.signs: dict[str, float] = {}
        """The last sign of life of each that didn't say goodbye."""
        self.values = {wire.SOURCE: source.encode()}
        self.subscribers: dict[str, list[Callable[[bytes, bytes], None]]] = {}
        self.arrived = asyncio.Event()
        """Set, and replaced, when a job comes onto the queue."""
        self._scripts: dict[str, Callable[..., Any]] = {
            rq_scripts.CLAIM: self._claim,
            rq_scripts.TAKEOVER: self._take_over,
            rq_scripts.BEAT: self._beat,
            rq_scripts.FORGOTTEN: lambda keys, args: [],
            rq_settle.SETTLE: self._settle,
            rq_settle.PROMOTE: lambda keys, args: [],
            scripts.WRITE: self._write,
            scripts.APPEND: self._append,
            scripts.LIVE: self._live,
            STANDING: self._standing,
        }

    def run(self, script: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """The answer of one of our scripts."""
        return self._scripts[script](keys, args)

    # --- producers

    def enqueue(self, job_id: str, fields: dict[str, Any]) -> None:
        """A new job, as `enqueue.wire.rq.new_job` makes it."""
        self.jobs[job_id] = Kept({name: raw(value) for name, value in fields.items()} | {"status": b"queued"})
        self._push(job_id)

    def cancel(self, job_id: str, record: bytes) -> None:
        """`handle.cancel()`; `record`: of one that hasn't begun."""
        kept = self.jobs[job_id]
        status = kept.text("status")
        if status in UNSEEN:
            return
        if status == "started":
            kept.fields["longshore_cancel"] = b"1"
            self.publish(wire.CANCELLATIONS, job_id.encode())
            return
        self._out_of_the_queue(job_id)
        kept.fields |= {"status": b"canceled", "longshore": record}
        self._recorded(job_id)

    def cancel_by_rq(self, job_id: str) -> None:
        """Stock rq's `job.cancel()`: it knows nothing of us."""
        kept = self.jobs[job_id]
        if kept.text("status") in UNSEEN:
            return
        self._out_of_the_queue(job_id)
        kept.fields["status"] = b"canceled"
        for member in [member for member, (job, _, _) in self.wip.items() if job == job_id]:
            self._release(member)

    def record(self, job_id: str) -> dict[str, Any]:
        """The Record, as JSON."""
        stored = self.jobs[job_id].fields.get("longshore")
        return json.loads(stored) if stored else {}

    def ended(self, job_id: str) -> bool:
        """As far as the queue knows."""
        return self.jobs[job_id].text("status") in UNSEEN

    def log(self, job_id: str) -> bytes:
        """All that a reader gets."""
        entries = sorted(self.jobs[job_id].log.items())
        return b"".join(fields.get(b"d", b"") for _, fields in entries)

    def held(self) -> list[str]:
        """Ids that are claimed, or wait."""
        return [*self.waiting, *(job for job, _, _ in self.wip.values())]

    # --- what every server does

    def publish(self, channel: str, message: bytes) -> None:
        """Tell who listens now."""
        for listener in list(self.subscribers.get(channel, ())):
            listener(channel.encode(), message)

    def part(self, instances: Sequence[str]) -> None:
        """These consumers' keys are deleted."""
        for instance in instances:
            self.consumers.pop(instance, None)

    def _push(self, job_id: str) -> None:
        self.waiting.append(job_id)
        self.arrived.set()
        self.arrived = asyncio.Event()

    def _out_of_the_queue(self, job_id: str) -> None:
        self.waiting = [other for other in self.waiting if other != job_id]

    def _lives(self, instance: str) -> bool:
        return instance in self.consumers and self.consumers[instance].get("until", math.inf) > self.now()

    def _recorded(self, job_id: str) -> None:
        self.note(Event(self.now(), What.RECORD, job_id, value=self.record(job_id)))

    def _release(self, member: str) -> None:
        job, _, _ = self.wip.pop(member)
        self.note(Event(self.now(), What.RELEASED, job, name=member))

    # --- the scripts

    def _hold(self, job_id: str, token: str, instance: str, attempt: int) -> list[Any]:
        kept, member = self.jobs[job_id], f"{job_id}:{token}"
        kept.fields["longshore_token"] = token.encode()
        self.wip[member] = (job_id, instance, self.now() + 3600)
        self.note(Event(self.now(), What.CLAIMED, job_id, attempt, member, token, instance))
        names = ("meta", "timeout", "result_ttl", "failure_ttl", "retries_left", "retry_intervals")
        names += ("enqueue_at_front_on_retry", "enqueued_at", "longshore", "longshore_cancel", "created_at")
        data = kept.fields["data"]
        found = [kept.fields.get(name) for name in names] + [None] * 7
        return [job_id.encode(), self.queue.encode(), token.encode(), attempt, len(data), data, found]

    def _arguments(self, args: Sequence[Any]) -> tuple[str, list[str], list[str]]:
        """Instance, tokens, what stands behind them."""
        slots, queues = int(args[5]), int(args[6])
        first = 7 + queues
        return str(args[2]), list(args[first : first + slots]), list(args[first + slots :])

    def _claim(self, keys: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        instance, tokens, _ = self._arguments(args)
        rows: list[Any] = []
        while self.waiting and len(rows) < len(tokens):
            job_id = self.waiting.pop(0)
            kept = self.jobs[job_id]
            if kept.text("status") in UNSEEN or any(job == job_id for job, _, _ in self.wip.values()):
                continue
            attempt = int(kept.fields.get("longshore_attempt", b"0")) + 1
            kept.fields |= {"longshore_attempt": raw(attempt), "status": b"started"}
            if attempt == 1:
                kept.log.clear()
            rows.append(self._hold(job_id, tokens[len(rows)], instance, attempt))
        return rows

    def _take_over(self, keys: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        instance, tokens, lost = self._arguments(args)
        since = self.consumers.get(instance, {}).get("since") if self._lives(instance) else None
        sure = since is not None and self.now() - since >= 8
        rows: list[Any] = []
        for member, (job_id, holder, _) in list(self.wip.items()):
            if len(rows) >= len(tokens):
                break
            alive = holder == instance or self._lives(holder)
            if member.rpartition(":")[2] in lost or (sure and not alive):
                self._release(member)
                attempt = int(self.jobs[job_id].fields.get("longshore_attempt", b"1"))
                rows.append(self._hold(job_id, tokens[len(rows)], instance, attempt))
        return rows

    def _beat(self, keys: Sequence[Any], args: Sequence[Any]) -> list[bytes]:
        answers = []
        for job_id, token in zip(args[2::3], args[4::3], strict=True):
            member, kept = f"{job_id}:{token}", self.jobs.get(job_id)
            if kept is None:
                answers.append(b"deleted")
            elif member not in self.wip:
                answers.append(b"cancel" if kept.text("status") == "canceled" else b"lost")
            else:
                self.wip[member] = (*self.wip[member][:2], self.now() + float(args[1]))
                answers.append(b"cancel" if "longshore_cancel" in kept.fields else b"ok")
        return answers

    def _settle(self, keys: Sequence[Any], args: Sequence[Any]) -> list[bytes]:
        job_id, token, status, record = args[0], args[2], args[3], args[5]
        touch, expected, meta, fewer = args[11], args[12], args[13], args[18]
        member, kept = f"{job_id}:{token}", self.jobs.get(job_id)
        if kept is None:
            return [b"deleted"]
        if kept.text("longshore_done") == token:
            return [b"ok"]
        if member not in self.wip:
            if kept.text("longshore_token") != token or kept.text("status") != "canceled":
                return [b"lost"]
            if status != "canceled":
                return [b"canceled"]
        if touch == "1":
            if kept.fields.get("meta", b"") != expected:
                return [b"meta", kept.fields.get("meta", b"")]
            kept.fields["meta"] = raw(meta)
        kept.fields |= {"longshore": raw(record), "longshore_done": raw(token), "status": raw(status)}
        self._recorded(job_id)
        self.note(Event(self.now(), What.TOLD, job_id))
        if member in self.wip:
            self._release(member)
        if status == "queued":
            if fewer == "1":
                kept.fields["retries_left"] = raw(int(kept.fields["retries_left"]) - 1)
            self._push(job_id)
        else:
            kept.fields.pop("longshore_cancel", None)
        return [b"ok"]

    def _write(self, keys: Sequence[Any], args: Sequence[Any]) -> list[bytes]:
        token, record, status, job_id, _, _, member, touch, expected, meta = args[:10]
        kept = self.jobs.get(job_id)
        if kept is None or kept.text("longshore_token") != token:
            return [b"lost"]
        if member not in self.wip:
            return [b"canceled" if kept.text("status") == "canceled" else b"lost"]
        if touch == "1":
            if kept.fields.get("meta", b"") != expected:
                return [b"meta", kept.fields.get("meta", b"")]
            kept.fields["meta"] = raw(meta)
        kept.fields |= {"longshore": raw(record), "longshore_status": raw(status)}
        self._recorded(job_id)
        assert status not in FINAL, "an end that isn't settled"
        return [b"ok"]

    def _append(self, keys: Sequence[Any], args: Sequence[Any]) -> bytes:
        job_id = str(keys[0]).removeprefix("rq:job:")
        kept = self.jobs.get(job_id)
        if kept is None or kept.text("longshore_token") != args[0]:
            return b"lost"
        if kept.text("longshore_done") == args[0]:
            return b"lost"
        attempt, _, sequence = args[1].partition("-")
        entry = (int(attempt), int(sequence))
        if kept.log and entry <= max(kept.log):
            return b"repeated"
        fields = [raw(value) for value in args[3:]]
        kept.log[entry] = dict(zip(fields[::2], fields[1::2], strict=True))
        what = What.LOG_END if b"end" in kept.log[entry] else What.LOG
        self.note(Event(self.now(), what, job_id, entry[0]))
        return b"ok"

    def _live(self, keys: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        instance, now = str(args[3]), self.now()
        known = self.consumers.get(instance)
        if known is None or known.get("until", 0.0) < now:
            known = {"since": 0.0 if known is not None and "until" not in known else now}
        elif known["until"] - now < float(args[2]):
            known["since"] = now
        self.consumers[instance] = known | {"until": now + float(args[1])}
        self.signs[instance] = now
        gone = sum(at <= now - float(args[6]) for at in self.signs.values())
        return [b"run", gone, str(time.time()).encode()]

    def _standing(self, keys: Sequence[Any], args: Sequence[Any]) -> list[bytes]:
        kept = self.jobs.get(args[0])
        if kept is None:
            return [b"gone", b""]
        if f"{args[0]}:{kept.text('longshore_token')}" in self.wip:
            return [b"held", b""]
        waits = kept.text("status") in ("created", "queued", "scheduled", "deferred")
        return [b"waiting" if waits else b"over", kept.fields.get("longshore", b"")]
