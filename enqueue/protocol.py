"""What a producer does, without I/O: generators that yield steps and are sent the answers.

One copy of the logic serves `enqueue.client` (sync) and `enqueue.aio` (async): only the drivers differ.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from enqueue.errors import InvalidJob, LongshoreError, QueueUnavailable, UnknownJob, UsageError
from enqueue.job import MAX_JOB_BYTES, Job
from enqueue.logs import LogReader, LogView
from enqueue.order import Order, Placed
from enqueue.record import HINTS, Outcome, Reason, Record, Status
from enqueue.times import rfc3339
from enqueue.variables import Variables
from enqueue.wire import records as wire

if TYPE_CHECKING:
    from enqueue.explain import Facts

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for which whoever waits for a job, or follows its log, waits for a server that went away."""

ANNOUNCE = 5.0
"""Seconds after which whoever follows a log says so again; consumers count on three times that."""

CHUNK, CHUNK_BYTES = 1000, 8 * 1024 * 1024
"""Jobs, and about how many bytes of them, that go in one round trip."""


@dataclass(frozen=True, slots=True)
class Command:
    """One Redis command; answered with its raw reply."""

    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Push:
    """Jobs for Faktory; answered with {jid: error} for those that it refused."""

    jobs: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Faktory's INFO; answered with its object."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Hear a channel from now on, until the generator ends."""

    channel: str


@dataclass(frozen=True, slots=True)
class Heard:
    """Wait for a message on the channel, at most `seconds`; the answer doesn't matter."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """A part of an answer that comes bit by bit."""

    data: Any


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; the answer doesn't matter."""

    seconds: float


Step = Command | Push | Ask | Listen | Heard | Emit | Pause
"""A step that finds the server away is answered by QueueUnavailable, raised in the generator."""

Steps = Generator[Step, Any, T]


class Backend(Protocol):
    """What differs between the queues."""

    default_queue: str

    def arguments(self, order: Order) -> Any:
        """An order made ready for `enqueue`. Raises InvalidJob, UsageError."""

    def size(self, prepared: Any) -> int:
        """About how many bytes that is."""

    def enqueue(self, prepared: Sequence[Any]) -> Steps[list[Placed]]:
        """Put up to a thousand jobs on their queues. Raises RecordsUnavailable."""

    def record(self, job_id: str) -> Steps[Record]:
        """Where a job stands. Raises UnknownJob, RecordsUnavailable."""

    def records(self, job_ids: Sequence[str]) -> Steps[list[Record | None]]:
        """Where some jobs stand, in one round trip; None for one that isn't there."""

    def listed(self, queue: str | None, status: Status | None, limit: int) -> Steps[list[str]]:
        """Ids of a queue's jobs, which may have the status. Raises UsageError where that can't be asked."""

    def facts(self, record: Record) -> Steps[Facts]:
        """What the server says of a job that waits."""

    def cancel(self, job_id: str) -> Steps[bool]:
        """Ask for a job's end; False if it has ended already."""

    def needs_records(self) -> None:
        """Raises RecordsUnavailable if there is no store of Records."""


def checked(job: Job) -> dict[str, Any]:
    """The job's payload, unless no consumer would take it. Raises InvalidJob."""
    payload = job.payload()
    size = len(json.dumps(payload))
    if size > MAX_JOB_BYTES:
        raise InvalidJob(
            f"the job is {size} bytes as JSON; at most {MAX_JOB_BYTES} are accepted (put large input elsewhere)"
        )
    return payload


def enqueue(backend: Backend, order: Order) -> Steps[Placed]:
    """Put one job on its queue. Raises InvalidJob, UsageError, RecordsUnavailable, QueueUnavailable."""
    (placed,) = yield from backend.enqueue([backend.arguments(order)])
    if placed.error is not None:
        raise placed.error
    return placed


def enqueue_many(backend: Backend, orders: Iterable[Order | UsageError]) -> Steps[list[Placed]]:
    """Put many on their queues, a thousand (or CHUNK_BYTES) in one round trip; what became of each, in their order.

    Raises QueueUnavailable if the first round trip finds the server away; later ones count as their jobs' errors.
    """
    placed: list[Placed] = []
    chunk: list[tuple[int, Any]] = []
    size, away = 0, None

    def send() -> Steps[QueueUnavailable | None]:
        lost = None
        try:
            answers = yield from backend.enqueue([prepared for _, prepared in chunk])
        except QueueUnavailable as error:
            if not any(former.job_id for former in placed):
                raise
            answers, lost = [Placed(error=error)] * len(chunk), error
        for (index, _), answer in zip(chunk, answers, strict=True):
            placed[index] = answer
        chunk.clear()
        return lost

    for order in orders:
        placed.append(Placed(error=away))
        if away is not None:
            continue
        try:
            if isinstance(order, UsageError):
                raise order
            prepared = backend.arguments(order)
        except LongshoreError as error:
            placed[-1] = Placed(error=error)
            continue
        wanted = backend.size(prepared)
        if chunk and (len(chunk) == CHUNK or size + wanted > CHUNK_BYTES):
            away, size = (yield from send()), 0
            if away is not None:
                placed[-1] = Placed(error=away)
                continue
        chunk.append((len(placed) - 1, prepared))
        size += wanted
    if chunk:
        yield from send()
    return placed


def wait(
    backend: Backend, job_id: str, timeout: float | None, seen: Callable[[Record], None] | None = None
) -> Steps[Outcome]:
    """Until the job has ended; `seen` is given each Record on the way. Raises TimeoutError after `timeout` seconds."""
    backend.needs_records()
    deadline = None if timeout is None else time.monotonic() + timeout
    yield Listen(wire.record_channel(job_id))
    while True:
        record = yield from _patiently(lambda: backend.record(job_id), deadline)
        if seen is not None:
            seen(record)
        if record.outcome is not None:
            return record.outcome
        left = 5.0 if deadline is None else min(5.0, deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError(f"job {job_id} is {record.status.value} after {timeout:g} s")
        try:
            yield Heard(left)
        except QueueUnavailable:
            yield Pause(min(0.2, left))


def _patiently(make: Callable[[], Steps[T]], deadline: float | None = None) -> Steps[T]:
    """Again while the server is away, such as for a restart. Raises QueueUnavailable if that lasts."""
    last = time.monotonic() + PATIENCE
    last = last if deadline is None else min(last, deadline)
    while True:
        try:
            return (yield from make())
        except QueueUnavailable:
            if time.monotonic() >= last:
                raise
            yield Pause(0.2)


def _one(*args: Any) -> Steps[Any]:
    return (yield Command(args))


def follow(backend: Backend, job_id: str, *, until_end: bool, view: LogView | None = None) -> Steps[None]:
    """The log so far, and with `until_end` what comes until the job has ended, as `view` has it (bytes)."""
    backend.needs_records()
    view = view or LogView()
    last: bytes | str = "0-0"
    reader = LogReader()
    ended = not until_end
    announced = -ANNOUNCE
    while True:
        if not ended and time.monotonic() - announced >= ANNOUNCE:
            announced = time.monotonic()
            try:  # the log of a job that nobody watches may come at its end only
                yield Command(("PUBLISH", wire.WATCHED, job_id))
            except QueueUnavailable:
                pass
        block = () if ended or view.waiting else ("BLOCK", 1000)
        args = ("XREAD", "COUNT", 100, *block, "STREAMS", wire.log_key(job_id), last)
        found = yield from _patiently(lambda args=args: _one(*args)) if until_end else _one(*args)  # type: ignore[misc]
        for entry, fields in _entries(found):
            last = entry
            for item in view.feed(reader.read(entry, fields)):
                yield Emit(item)
        if found:
            continue
        if view.waiting:
            for item in view.caught_up():
                yield Emit(item)
        if ended:
            break
        record = yield from _patiently(lambda: backend.record(job_id))
        ended = record.status.final  # once more without waiting, then that was all
    for item in view.finish():
        yield Emit(item)
    if view.checked is not None or last == "0-0":
        record = yield from backend.record(job_id)  # tells an unknown job from an empty log, too
        if view.checked is not None:
            view.checked(reader.check(record))


def _entries(found: Any) -> Iterable[tuple[bytes, dict[bytes, bytes]]]:
    if not found:
        return
    streams = found.items() if isinstance(found, dict) else found
    for _, entries in streams:
        for entry, fields in entries:
            if isinstance(fields, dict):
                yield entry, fields
            else:
                pairs = iter(fields or ())
                yield entry, dict(zip(pairs, pairs, strict=False))


def whole(record: Record) -> Steps[Record]:
    """The Record with its large variables; one that isn't there any more stays named in `large`."""
    if not record.large:
        return record
    found = yield Command(("HMGET", wire.variables_key(record.id), *record.large))
    read = {n: v.decode("utf-8", "replace") for n, v in zip(record.large, found, strict=True) if v is not None}
    gone = tuple(name for name in record.large if name not in read)
    return record.model_copy(update={"variables": Variables({**record.variables, **read}), "large": gone})


def cancelled_record(record: Record, now: float) -> Record:
    """The Record of a job that is cancelled before it starts."""
    return record.model_copy(
        update={
            "status": Status.CANCELLED,
            "reason": Reason.REQUESTED.value,
            "message": "cancelled before it started",
            "hint": HINTS[Reason.REQUESTED],
            "times": record.times.model_copy(update={"ended": rfc3339(now)}),
        }
    )


def unknown(job_id: str) -> UnknownJob:
    """The error for a job that isn't there."""
    return UnknownJob(
        f"there is no job '{job_id}' here: it was never enqueued on this server, or its record has expired"
    )
