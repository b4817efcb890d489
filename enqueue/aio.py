"""The producer, async: the same verbs as `enqueue.client`, on the same steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import redis
import redis.asyncio

from enqueue import listing, protocol
from enqueue.backends import make_backend
from enqueue.client import open_redis, unavailable
from enqueue.errors import QueueUnavailable
from enqueue.explain import Explanation, explain
from enqueue.job import Job
from enqueue.logs import LogCheck, LogLine, LogView
from enqueue.order import Again, Enqueued, Order, Placed, orders_of
from enqueue.protocol import Ask, Command, Emit, Heard, Listen, Pause, Push, Step, Steps
from enqueue.record import Outcome, Output, Progress, Record, Status
from enqueue.wire import records as wire
from enqueue.wire.rq import Serializer

if TYPE_CHECKING:
    from enqueue.backends.faktory_aio import AsyncFaktoryClient

T = TypeVar("T")


def connect(
    url: str, *, records: str | None = None, queue: str = "default", serializer: Serializer = "pickle"
) -> AsyncProducer:
    """As `enqueue.connect`; to be used within one event loop. Raises UsageError."""
    return AsyncProducer(url, records=records, queue=queue, serializer=serializer)


class AsyncProducer:
    """Enqueues jobs and reads their Records."""

    def __init__(
        self, url: str, *, records: str | None = None, queue: str = "default", serializer: Serializer = "pickle"
    ) -> None:
        self._backend, redis_url, faktory_url = make_backend(url, records, queue, serializer)
        self._redis = open_redis(redis.asyncio.Redis, redis_url)
        self._place = wire.place_of(redis_url) if redis_url else ""
        self._faktory: AsyncFaktoryClient | None = None
        if faktory_url:
            from enqueue.backends.faktory_aio import AsyncFaktoryClient

            self._faktory = AsyncFaktoryClient(faktory_url)

    async def enqueue(
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
    ) -> AsyncHandle:
        """Put a job on a queue; what the options mean is told at `Order`.

        Raises InvalidJob (too large), UsageError, RecordsUnavailable (a key without Records), QueueUnavailable.
        """
        order = Order(job, queue, job_id, key, again, delay, at, at_front)
        return self._handle_of(await self._drive(protocol.enqueue(self._backend, order)))

    async def enqueue_many(
        self,
        jobs: Iterable[Job | Order],
        *,
        queue: str | None = None,
        delay: float | timedelta | None = None,
        at: float | datetime | None = None,
    ) -> Enqueued[AsyncHandle]:
        """Put many jobs on their queues, a thousand in one round trip; the options are for those that are no Orders.

        A job that is refused (InvalidJob, UsageError, RecordsUnavailable, ProtocolError; QueueUnavailable if the
        server went away meanwhile) is told beside the others. Raises QueueUnavailable if the server is away at first.
        """
        orders = orders_of(jobs, queue, delay, at)
        placed = await self._drive(protocol.enqueue_many(self._backend, orders))
        handles = tuple(None if one.error else self._handle_of(one) for one in placed)
        return Enqueued(handles, {n: one.error for n, one in enumerate(placed) if one.error})

    async def jobs(
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
        return await self._drive(listing.jobs(self._backend, tag=tag, status=status, queue=queue, limit=limit))

    def handle(self, job_id: str) -> AsyncHandle:
        """A handle on a job that was enqueued elsewhere."""
        return AsyncHandle(self, job_id)

    def _handle_of(self, placed: Placed) -> AsyncHandle:
        return AsyncHandle(self, placed.job_id, existed=placed.existed)

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await self._redis.aclose()
        if self._faktory is not None:
            await self._faktory.close()

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _drive(self, steps: Steps[T]) -> T:
        results: list[T] = []
        async for _ in self._run(steps, results):
            pass
        return results[0]

    async def _run(self, steps: Steps[T], results: list[T]) -> AsyncIterator[Any]:
        """Carry out steps; yields what they emit and puts their result into `results`."""
        pubsub: Any = None
        answer: Any = None
        error: QueueUnavailable | None = None
        try:
            while True:
                try:
                    step: Step = steps.send(answer) if error is None else steps.throw(error)
                except StopIteration as end:
                    results.append(end.value)
                    return
                answer = error = None
                if isinstance(step, Emit):
                    yield step.data
                elif isinstance(step, Listen):
                    pubsub = await self._listen(step)
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    try:
                        answer = await self._do(step, pubsub)
                    except QueueUnavailable as away:
                        error = away
        finally:
            steps.close()
            if pubsub is not None:
                await pubsub.aclose()

    async def _listen(self, step: Listen) -> Any:
        for last in (False, True):  # a pooled connection may be one to a server that was restarted
            pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
            try:
                await pubsub.subscribe(step.channel)
                await pubsub.get_message(timeout=5)
                return pubsub
            except redis.RedisError as error:
                await pubsub.aclose()
                if last:
                    raise unavailable(self._place, error) from None
        raise AssertionError("unreachable")

    async def _do(self, step: Step, pubsub: Any) -> Any:
        if isinstance(step, Push):
            assert self._faktory is not None
            return await self._faktory.push_many(step.jobs)
        if isinstance(step, Ask):
            assert self._faktory is not None
            return await self._faktory.info()
        try:
            if isinstance(step, Command):
                return await self._redis.execute_command(*step.args)
            assert isinstance(step, Heard)
            return await pubsub.get_message(timeout=step.seconds)
        except redis.RedisError as error:
            raise unavailable(self._place, error) from None


class AsyncHandle:
    """A job that was enqueued."""

    def __init__(self, producer: AsyncProducer, job_id: str, *, existed: bool = False) -> None:
        self._producer = producer
        self.id = job_id
        self.existed = existed
        """Its key had this job already: nothing was enqueued."""

    def __repr__(self) -> str:
        return f"<AsyncHandle {self.id}>"

    async def record(self) -> Record:
        """All that is known of the job now. Raises UnknownJob, RecordsUnavailable, QueueUnavailable."""
        return await self._producer._drive(self._producer._backend.record(self.id))

    async def status(self) -> Status:
        """Where the job stands now."""
        return (await self.record()).status

    async def outcome(self) -> Outcome | None:
        """The Outcome, or None if the job hasn't ended."""
        return (await self.record()).outcome

    async def wait(self, timeout: float | None = None, *, seen: Callable[[Record], None] | None = None) -> Outcome:
        """Waits until the job has ended. Raises TimeoutError after `timeout` seconds.

        `seen` is called with each Record on the way, such as one with new progress; it must not block.
        """
        return await self._producer._drive(protocol.wait(self._producer._backend, self.id, timeout, seen))

    def logs(
        self,
        *,
        follow: bool = False,
        since: float | datetime | timedelta | None = None,
        tail: int | None = None,
        checked: Callable[[LogCheck], None] | None = None,
    ) -> AsyncIterator[bytes]:
        """The log as raw bytes in pieces of whole lines; with `follow` until the job's end.

        A line of ours stands where something is missing. `since`: only what was stored from then on, to about a second
        (a timedelta: ago). `tail`: of what is there already, the last so many lines. `checked` is called at the end
        with how whole the log is. Raises UnknownJob, RecordsUnavailable, QueueUnavailable.
        """
        view = LogView("bytes", since=since, tail=tail, checked=checked)
        return self._producer._run(protocol.follow(self._producer._backend, self.id, until_end=follow, view=view), [])

    def log_text(
        self,
        *,
        follow: bool = False,
        since: float | datetime | timedelta | None = None,
        tail: int | None = None,
        checked: Callable[[LogCheck], None] | None = None,
    ) -> AsyncIterator[str]:
        """The same as text; bytes that are no UTF-8 are replaced, also where a character is cut."""
        view = LogView("text", since=since, tail=tail, checked=checked)
        return self._producer._run(protocol.follow(self._producer._backend, self.id, until_end=follow, view=view), [])

    def log_lines(
        self,
        *,
        follow: bool = False,
        since: float | datetime | timedelta | None = None,
        tail: int | None = None,
        checked: Callable[[LogCheck], None] | None = None,
    ) -> AsyncIterator[LogLine]:
        """The same line by line, with attempt, number and time."""
        view = LogView("lines", since=since, tail=tail, checked=checked)
        return self._producer._run(protocol.follow(self._producer._backend, self.id, until_end=follow, view=view), [])

    async def check_log(self) -> LogCheck:
        """How whole the log is by the Record and the store. Raises UnknownJob, RecordsUnavailable, QueueUnavailable."""
        found: list[LogCheck] = []
        async for _ in self.logs(tail=0, checked=found.append):
            pass
        return found[0]

    async def variables(self) -> dict[str, str]:
        """The outcome variables, those that the job has set so far if it still runs."""
        return (await self.record()).variables

    async def progress(self) -> Progress | None:
        """How far the job says that it has come; None if it said nothing."""
        return (await self.record()).progress

    async def outputs(self) -> tuple[Output, ...]:
        """The files that the job left in $LONGSHORE_OUTPUTS."""
        return (await self.record()).outputs

    async def explain(self) -> Explanation:
        """Why the job isn't running, or why it failed. Raises UnknownJob, RecordsUnavailable, QueueUnavailable."""
        return await self._producer._drive(explain(self._producer._backend, self.id))

    async def cancel(self) -> bool:
        """Ask for the job's end: a queued job never starts, a running one is told to stop. False if it has ended."""
        return await self._producer._drive(self._producer._backend.cancel(self.id))
