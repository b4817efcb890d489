"""Jobs that a job enqueues by printing `::enqueue {...}`, as far as the operator allows it.

`FollowUps`, pure, reads them from the log, `Enqueuer` enqueues them under keys that are made of the parent's id, its
attempt and what it printed: whoever reads the same log again, after a takeover, finds the same jobs, makes no others.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from consumer.model import Claim
from enqueue.errors import InvalidJob, LongshoreError, QueueUnavailable, UsageError
from enqueue.job import Job

log = structlog.get_logger()

PATIENCE = 300.0
"""Seconds for which the end of a job waits for a queue that can't take its follow-ups."""

PAUSE = 1.0
"""Seconds until a queue that was away is asked again."""

_LINE = re.compile(rb"::enqueue[ \t]+(\{.*)\Z", re.DOTALL)
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,120}")


class FollowUp(NamedTuple):
    """A job to be enqueued. `mark`: tells it from the others of the same attempt."""

    mark: str
    queue: str
    job: Job


class FollowUps:
    """What one attempt asks for. `queues`: those that are allowed; `most`: so many jobs; `default`: the parent's."""

    def __init__(self, queues: Sequence[str], most: int, default: str) -> None:
        self._queues, self._most, self._default = tuple(queues), most, default
        self._seen: Counter[str] = Counter()
        self.asked: list[FollowUp] = []

    def read(self, line: bytes) -> tuple[bool, str | None]:
        """Whether the line is `::enqueue`, and why the job can't be had."""
        match = _LINE.match(line)
        if match is None:
            return False, None
        if not self._queues:
            return True, "the operator doesn't allow it (jobs.enqueue_to)"
        if len(self.asked) >= self._most:
            return True, f"it has enqueued {self._most} jobs already (jobs.enqueue_max)"
        try:
            self.asked.append(self._follow_up(match[1]))
        except (InvalidJob, UsageError) as error:
            return True, str(error)
        return True, None

    def _follow_up(self, text: bytes) -> FollowUp:
        try:
            asked = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidJob("the job is no JSON") from None
        queue = asked.pop("queue", self._default)
        if not isinstance(queue, str) or not _QUEUE.fullmatch(queue):
            raise UsageError("queue: must be the name of a queue")
        if queue not in self._queues:
            raise UsageError(f"queue: '{queue}' isn't allowed; {', '.join(self._queues)} are (jobs.enqueue_to)")
        job = Job.load(asked)
        digest = job.digest()
        self._seen[digest] += 1
        return FollowUp(f"{digest[:32]}-{self._seen[digest]}", queue, job)


Put = Callable[[Job, str, str], Awaitable[str]]
"""Enqueues a job on a queue under a key and returns its id; the same key gives the same job. Raises LongshoreError."""


class Enqueuer:
    """Enqueues what one attempt of a job asks for, each job once."""

    def __init__(self, follow_ups: FollowUps, claim: Claim) -> None:
        self.follow_ups = follow_ups
        self._id = claim.id
        self._parent = f"{claim.queue}\0{claim.id}\0{claim.created}\0{claim.attempt}"
        self._ids = dict.fromkeys(claim.history.children if claim.history else (), "")  # in their order
        self._next = 0

    @property
    def children(self) -> tuple[str, ...]:
        """Ids of the jobs that were enqueued, those of former attempts and consumers first."""
        return tuple(self._ids)

    async def enqueue(self, put: Put, refused: Callable[[str], None], patience: float = 0.0) -> bool:
        """Enqueue what was asked for since; whether that was anything. A queue that is away is waited for."""
        begun, until = self._next, asyncio.get_running_loop().time() + patience
        while self._next < len(self.follow_ups.asked):
            wanted = self.follow_ups.asked[self._next]
            job = wanted.job.model_copy(update={"parent": self._id})
            try:
                key = hashlib.sha256(f"{self._parent}\0{wanted.mark}".encode("utf-8", "surrogatepass")).hexdigest()
                self._ids[await put(job, wanted.queue, f"::enqueue {key}")] = ""
            except QueueUnavailable as error:
                if not patience:
                    return self._next > begun
                if asyncio.get_running_loop().time() < until:
                    await asyncio.sleep(PAUSE)
                    continue
                self._refuse(refused, error)
            except Exception as error:  # it must not cost the parent its own end
                self._refuse(refused, error)
            self._next += 1
        return self._next > begun

    def _refuse(self, refused: Callable[[str], None], error: Exception) -> None:
        told = str(error) if isinstance(error, LongshoreError) else type(error).__name__
        log.error("follow_up_not_enqueued", job=self._id, error=told)
        refused(f"a job wasn't enqueued: {told}")
