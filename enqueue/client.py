"""The producer, sync: `connect(url).enqueue(Job(...))` and what its handle can tell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from enqueue import listing, protocol
from enqueue.backends import make_backend
from enqueue.errors import LongshoreError, QueueUnavailable
from enqueue.explain import Explanation, explain
from enqueue.job import Job
from enqueue.logs import LogCheck, LogLine, LogView
from enqueue.order import Again, Enqueued, Order, Placed, orders_of
from enqueue.protocol import Ask, Command, Emit, Heard, Listen, Pause, Push, Step, Steps
from enqueue.record import Outcome, Output, Progress, Record, Status
from enqueue.wire import records as wire
from enqueue.wire.rq import Serializer

if TYPE_CHECKING:
    from redis.client import PubSub

    from enqueue.backends.faktory_client import FaktoryClient

T = TypeVar("T")


def connect(
    url: str, *, records: str | None = None, queue: str = "default", serializer: Serializer = "pickle"
) -> Producer:
    """A producer for the queue server at `url`; connects when it is first used.

    `records`: the Redis URL of a Faktory set-up's Records. `queue`: where jobs go that name none. Raises UsageError.
    """
    return Producer(url, records=records, queue=queue, serializer=serializer)


class Producer:
    """Enqueues jobs and reads their Records. Safe to share among threads, and with forks."""

    def __init__(
        self, url: str, *, records: str | None = None, queue: str = "default", serializer: Serializer = "pickle"
    ) -> None:
        self._backend, redis_url, faktory_url = make_backend(url, records, queue, serializer)
        self._redis_url = redis_url
        self._opened, self._pid = open_redis(redis.Redis, redis_url), os.getpid()
        self._inherited: list[Any] = []
        self._place = wire.place_of(redis_url) if redis_url else ""
        self._faktory: FaktoryClient | None = None
        if faktory_url:
            from enqueue.backends.faktory_client import FaktoryClient

            self._faktory = FaktoryClient(faktory_url)

    def enqueue(
        self,
        job: Job,
        *,
        queue: str | None = None,
        job_id: str | None = None,
        key: str | None = None,
        again: Again = "expired",
        delay: float | timedelta | None = None,
        at: float | datetime | None = None,
        at_front: bool = False,
    ) -> Handle:
        """Put a job on a queue; what the options mean is told at `Order`.

        Raises InvalidJob (too large), UsageError, RecordsUnavailable (a key without Records), QueueUnavailable.
        """
        order = Order(job, queue, job_id, key, again, delay, at, at_front)
        return self._handle_of(self._drive(protocol.enqueue(self._backend, order)))

    def enqueue_many(
        self,
        jobs: Iterable[Job | Order],
        *,
        queue: str | None = None,
        delay: float | timedelta | None = None,
        at: float | datetime | None = None,
    ) -> Enqueued[Handle]:
        """Put many jobs on their queues, a thousand in one round trip; the options are for those that are no Orders.

        A job that is refused (InvalidJob, UsageError, RecordsUnavailable, ProtocolError; QueueUnavailable if the
        server went away meanwhile) is told beside the others. Raises QueueUnavailable if the server is away at first.
        """
        orders = orders_of(jobs, queue, delay, at)
        placed = self._drive(protocol.enqueue_many(self._backend, orders))
        handles = tuple(None if one.error else self._handle_of(one) for one in placed)
        return Enqueued(handles, {n: one.error for n, one in enumerate(placed) if one.error})

    def jobs(
        self,
        *,
        tag: str | None = None,
        status: Status | str | None = None,
        queue: str | None = None,
        limit: int = 100,
    ) -> list[Record]:
        """Jobs with a tag, the newest first; without one those of a queue (RQ only). At most `limit`, 10,000 at most.

        A tag lists jobs of this library for 30 days after they were enqueued, the newest 100,000, as long as their
        Records are kept. Raises UsageError, RecordsUnavailable, QueueUnavailable.
        """
        return self._drive(listing.jobs(self._backend, tag=tag, status=status, queue=queue, limit=limit))

    def handle(self, job_id: str) -> Handle:
        """A handle on a job that was enqueued elsewhere."""
        return Handle(self, job_id)

    def _handle_of(self, placed: Placed) -> Handle:
        return Handle(self, placed.job_id, existed=placed.existed)

    def close(self) -> None:
        """Close the connections."""
        if self._opened is not None and self._pid == os.getpid():
            self._opened.close()
        if self._faktory is not None:
            self._faktory.close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drive(self, steps: Steps[T]) -> T:
        iterator = self._run(steps)
        while True:
            try:
                next(iterator)
            except StopIteration as end:
                result: T = end.value
                return result

    def _run(self, steps: Steps[T]) -> Iterator[Any]:
        """Carry out steps; yields what they emit and returns their result."""
        pubsub: PubSub | None = None
        answer: Any = None
        error: QueueUnavailable | None = None
        try:
            while True:
                try:
                    step: Step = steps.send(answer) if error is None else steps.throw(error)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                answer = error = None
                if isinstance(step, Emit):
                    yield step.data
                elif isinstance(step, Listen):
                    pubsub = self._listen(step)
                elif isinstance(step, Pause):
                    time.sleep(step.seconds)
                else:
                    try:
                        answer = self._do(step, pubsub)
                    except QueueUnavailable as away:
                        error = away
        finally:
            steps.close()
            if pubsub is not None:
                pubsub.close()

    @property
    def _redis(self) -> Any:
        """The client. A forked child makes its own: redis-py's has a lock that a thread of the parent may have held."""
        if self._pid != os.getpid():
            self._inherited.append(self._opened)  # and isn't closed: its sockets are the parent's
            self._opened, self._pid = open_redis(redis.Redis, self._redis_url), os.getpid()
        return self._opened

    def _listen(self, step: Listen) -> PubSub:
        for last in (False, True):  # a pooled connection may be one to a server that was restarted
            pubsub: PubSub = self._redis.pubsub(ignore_subscribe_messages=True)
            try:
                pubsub.subscribe(step.channel)
                pubsub.get_message(timeout=5)
                return pubsub
            except redis.RedisError as error:
                pubsub.close()
                if last:
                    raise unavailable(self._place, error) from None
        raise AssertionError("unreachable")

    def _do(self, step: Step, pubsub: PubSub | None) -> Any:
        if isinstance(step, Push):
            assert self._faktory is not None
            return self._faktory.push_many(step.jobs)
        if isinstance(step, Ask):
            assert self._faktory is not None
            return self._faktory.info()
        try:
            if isinstance(step, Command):
                return self._redis.execute_command(*step.args)
            assert isinstance(step, Heard)
            assert pubsub is not None
            return pubsub.get_message(timeout=step.seconds)
        except redis.RedisError as error:
            raise unavailable(self._place, error) from None


class Handle:
    """A job that was enqueued."""

    def __init__(self, producer: Producer, job_id: str, *, existed: bool = False) -> None:
        self._producer = producer
        self.id = job_id
        self.existed = existed
        """Its key had this job already: nothing was enqueued."""

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    @property
    def record(self) -> Record:
        """All that is known of the job now. Raises UnknownJob, RecordsUnavailable, QueueUnavailable."""
        return self._producer._drive(self._producer._backend.record(self.id))

    @property
    def status(self) -> Status:
        """Where the job stands now."""
        return self.record.status

    @property
    def outcome(self) -> Outcome | None:
        """The Outcome, or None if the job hasn't ended."""
        return self.record.outcome

    def wait(self, timeout: float | None = None, *, seen: Callable[[Record], None] | None = None) -> Outcome:
        """Waits until the job has ended. Raises TimeoutError after `timeout` seconds.

        `seen` is called with each Record on the way, such as one with new progress; it must not block.
        """
        return self._producer._drive(protocol.wait(self._producer._backend, self.id, timeout, seen))

    def logs(
        self,
        *,
        follow: bool = False,
        since: float | datetime | timedelta | None = None,
        tail: int | None = None,
        checked: Callable[[LogCheck], None] | None = None,
    ) -> Iterator[bytes]:
        """The log as raw bytes in pieces of whole lines; with `follow` until the job's end.

        A line of ours stands where something is missing. `since`: only what was stored from then on, to about a second
        (a timedelta: ago). `tail`: of what is there already, the last so many lines. `checked` is called at the end
        with how whole the log is. Raises UnknownJob, RecordsUnavailable, QueueUnavailable.
        """
        view = LogView("bytes", since=since, tail=tail, checked=checked)
        return self._producer._run(protocol.follow(self._producer._backend, self.id, until_end=follow, view=view))

    def log_text(
        self,
        *,
        follow: bool = False,
        since: float | datetime | timedelta | None = None,
        tail: int | None = None,
        checked: Callable[[LogCheck], None] | None = None,
    ) -> Iterator[str]:
        """The same as text; bytes that are no UTF-8 are replaced, also where a character is cut."""
        view = LogView("text", since=since, tail=tail, checked=checked)
        return self._producer._run(protocol.follow(self._producer._backend, self.id, until_end=follow, view=view))

    def log_lines(
        self,
        *,
        follow: bool = False,
        since: float | datetime | timedelta | None = None,
        tail: int | None = None,
        checked: Callable[[LogCheck], None] | None = None,
    ) -> Iterator[LogLine]:
        """The same line by line, with attempt, number and time."""
        view = LogView("lines", since=since, tail=tail, checked=checked)
        return self._producer._run(protocol.follow(self._producer._backend, self.id, until_end=follow, view=view))

    def check_log(self) -> LogCheck:
        """How whole the log is by the Record and the store. Raises UnknownJob, RecordsUnavailable, QueueUnavailable."""
        found: list[LogCheck] = []
        for _ in self.logs(tail=0, checked=found.append):
            pass
        return found[0]

    def variables(self) -> dict[str, str]:
        """The outcome variables, those that the job has set so far if it still runs."""
        return self.record.variables

    def progress(self) -> Progress | None:
        """How far the job says that it has come; None if it said nothing."""
        return self.record.progress

    def outputs(self) -> tuple[Output, ...]:
        """The files that the job left in $LONGSHORE_OUTPUTS; `enqueue.stored.fetch` reads one."""
        return self.record.outputs

    def explain(self) -> Explanation:
        """Why the job isn't running, or why it failed. Raises UnknownJob, RecordsUnavailable, QueueUnavailable."""
        return self._producer._drive(explain(self._producer._backend, self.id))

    def cancel(self) -> bool:
        """Ask for the job's end: a queued job never starts, a running one is told to stop. False if it has ended."""
        return self._producer._drive(self._producer._backend.cancel(self.id))


def open_redis(kind: Any, url: str | None) -> Any:
    """A Redis client (sync or async class) with bounded waits and raw answers; connects later."""
    if url is None:
        return None
    try:
        return kind.from_url(
            wire.ours_to_choose(url),
            max_connections=100_000,  # one for each wait or log that is followed at the same time
            socket_connect_timeout=5,
            socket_timeout=30,
            health_check_interval=30,
            protocol=2,
        )
    except ValueError as error:
        from enqueue.errors import UsageError

        raise UsageError(f"the Redis URL can't be read: {wire.without_secrets(str(error))}") from None


def unavailable(place: str, error: Exception) -> LongshoreError:
    """A Redis error in plain words, with the server's place and never its password."""
    return QueueUnavailable(f"Redis at {place}: {wire.without_secrets(str(error))}")
