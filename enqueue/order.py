"""An Order: a Job with how it is to be enqueued; and what became of many of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic, Literal, TypeVar

from enqueue.closed import kind_of
from enqueue.errors import LongshoreError, UsageError
from enqueue.job import Job

H = TypeVar("H")

Again = Literal["expired", "failed", "ended"]
"""When a key makes a new job: once the former job's Record has expired; or already once it has failed or was
cancelled; or once it has ended at all."""

MAX_KEY = 1000
"""Characters of a key."""

FARTHEST = 366 * 86_400
"""Seconds that a job may be scheduled ahead."""


@dataclass(frozen=True, slots=True)
class Order:
    """A Job and how it is to be enqueued. Raises UsageError for what contradicts itself.

    `queue`: the producer's own, if None. `job_id`: else a random one. `key`: the same key is the same job, see
    `Again`. `delay`: seconds (or timedelta) from now, `at`: a moment (an aware datetime, or seconds since the epoch),
    before which the job doesn't start. `at_front`: before all that waits in the queue (RQ only).
    """

    job: Job
    queue: str | None = None
    job_id: str | None = None
    key: str | None = field(default=None, repr=False)
    again: Again = "expired"
    delay: float | timedelta | None = None
    at: float | datetime | None = None
    at_front: bool = False
    due: float | None = field(default=None, init=False)
    """Seconds since the epoch; None: now."""

    def __post_init__(self) -> None:
        if not isinstance(self.job, Job):
            raise UsageError(f"job: must be a Job, not {type(self.job).__name__} (Job.load reads a mapping)")
        for name in ("queue", "job_id", "key"):
            _text(name, getattr(self, name))
        if self.job_id is not None and (not self.job_id or self.key is not None):
            raise UsageError("job_id: must not be empty, and not stand beside key, which chooses the id itself")
        if self.key is not None and not 0 < len(self.key) <= MAX_KEY:
            raise UsageError(f"key: must have 1 to {MAX_KEY} characters")
        if self.again not in ("expired", "failed", "ended"):
            raise UsageError("again: must be 'expired', 'failed' or 'ended'")
        object.__setattr__(self, "due", _due(self.delay, self.at))

    @property
    def fingerprint(self) -> str:
        """The key as it stands in Redis; empty without one."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:40] if self.key is not None else ""


def _text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name}: must be text, not {kind_of(value)}")
    if value is not None and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name}: must be valid Unicode: it holds half of a surrogate pair") from None


def _due(delay: float | timedelta | None, at: float | datetime | None) -> float | None:
    if delay is None and at is None:
        return None
    if delay is not None and at is not None:
        raise UsageError("delay: can't stand beside at; choose one of them")
    now = time.time()
    if not isinstance(at, (datetime, int, float, type(None))):
        raise UsageError(f"at: must be an aware datetime or seconds since the epoch, not {kind_of(at)}")
    if not isinstance(delay, (timedelta, int, float, type(None))):
        raise UsageError(f"delay: must be seconds or a timedelta, not {kind_of(delay)}")
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise UsageError("at: must say its time zone, such as datetime.now(UTC) does")
        due = at.astimezone(UTC).timestamp()
    elif at is not None:
        due = float(at)
    else:
        due = now + (delay.total_seconds() if isinstance(delay, timedelta) else float(delay or 0))
        if not due >= now:
            raise UsageError("delay: must be 0 or more")
    if not due < now + FARTHEST:  # nor NaN
        raise UsageError("at, delay: at most 366 days ahead")
    return due if due > now else None


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one Order has come to: the job's id, or why it was refused. `existed`: its key had a job already."""

    job_id: str = ""
    existed: bool = False
    error: LongshoreError | None = None


@dataclass(frozen=True, slots=True)
class Enqueued(Generic[H]):
    """What became of many jobs, in their order."""

    handles: tuple[H | None, ...]
    """One for each job; None for a refused one."""
    refused: Mapping[int, LongshoreError]
    """Why, by the job's index. After a QueueUnavailable the job may be in the queue all the same."""

    def __iter__(self) -> Iterator[H]:
        """The handles of the jobs that were taken."""
        return (handle for handle in self.handles if handle is not None)

    def __len__(self) -> int:
        return len(self.handles)

    def check(self) -> Enqueued[H]:
        """Itself. Raises the first error if any job was refused."""
        for error in self.refused.values():
            raise error
        return self


def orders_of(
    jobs: Iterable[Job | Order], queue: str | None, delay: float | timedelta | None, at: float | datetime | None
) -> Iterator[Order | UsageError]:
    """Jobs and Orders as Orders; an error in the place of what is neither. The options are for bare Jobs."""
    for job in jobs:
        try:
            yield job if isinstance(job, Order) else Order(job, queue, delay=delay, at=at)
        except UsageError as error:
            yield error
