"""One job's log while it runs: its pipeline as a task beside the execution, and what it learned on the way."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import structlog

from consumer.follow_up import Enqueuer, FollowUps, Put
from consumer.kinds import is_begun_later, is_lasting, is_linked, is_replying, is_storing
from consumer.logs.commands import MAX_NOTICE, MAX_NOTICES, MAX_PROGRESS
from consumer.logs.directives import Directives
from consumer.logs.forms import variants_of
from consumer.logs.mask import Mask
from consumer.logs.pipeline import Pipeline, join
from consumer.logs.spool import Memory
from consumer.model import Claim, LogPart, LogPosition, Measure
from consumer.opslevel import is_legacy
from consumer.ports import Execution, LinkedSink, Processor, Sink
from consumer.returned import ShippedEnd
from consumer.settings import Logs
from consumer.tasks import OnCall
from consumer.typed import TypedJob
from enqueue.record import Link, Notice, Progress
from enqueue.times import rfc3339

log = structlog.get_logger()

Sinks = Callable[[Claim, LogPosition], Sequence[Sink]]
"""Makes a job's sinks; the position says how much of its log a former consumer has stored."""


PATIENCE = 20.0
"""Seconds that sinks get for what is left once a log has been read to its end."""

PART = 1.0
"""A log's end is waited for in parts of so many seconds: while this process stands still only one of them passes."""

LONGEST = 300.0
"""Seconds that a log gets after its job's end at most, however much still comes."""

UNHURRIED = 30.0
"""Seconds after its job's end for which a log that lasts is read no faster than its sinks take it; then its middle may
be dropped, as anybody's, so that its end is stored all the same."""

WATCHED = 15.0
"""Seconds for which a log counts as watched after its reader has said so."""


class Desk:
    """What the logs of all jobs share: the memory in which they wait, and word of who is watched.

    `secrets`: the consumer's own, masked in every log.
    """

    def __init__(self, memory: int, secrets: Iterable[str] = ()) -> None:
        self.memory = Memory(memory)
        self.hidden = frozenset(variants_of(secret.encode() for secret in secrets))
        self._watched: dict[str, float] = {}  # until when, by the loop's clock; of jobs that aren't here as well
        self._here: dict[str, Execution] = {}

    def watched(self, job_id: str) -> None:
        """Somebody follows this job's log."""
        now = asyncio.get_running_loop().time()
        self._watched.pop(job_id, None)
        self._watched[job_id] = now + WATCHED
        for known, until in list(self._watched.items()):  # the oldest first
            if until > now:
                break
            del self._watched[known]
        if job_id in self._here:
            self._here[job_id].watched(WATCHED)

    def measures(self) -> Iterable[Measure]:
        """How much came, and how much waits."""
        memory, now = self.memory, asyncio.get_running_loop().time()
        yield Measure("log_lines", memory.lines)
        yield Measure("log_bytes", memory.bytes)
        yield Measure("log_waiting_bytes", memory.used)
        yield Measure("log_lag_seconds", memory.lag(now))

    def enter(self, job_id: str, execution: Execution) -> None:
        """A log is read from now on."""
        self._here[job_id] = execution
        left = self._watched.get(job_id, 0.0) - asyncio.get_running_loop().time()
        if left > 0:
            execution.watched(left)

    def leave(self, job_id: str, execution: Execution) -> None:
        """It has ended, or is let go."""
        if self._here.get(job_id) is execution:
            del self._here[job_id]


class Follower:
    """Follows the log of one claim's execution.

    A store that knows its position must come first among the sinks. A Follower that was never started has an empty log.
    """

    def __init__(
        self, claim: Claim, sinks: Sinks, settings: Logs, desk: Desk | None = None, follow_ups: FollowUps | None = None
    ) -> None:
        self._claim = claim
        self._make_sinks = sinks
        self._settings = settings
        self._desk = desk or Desk(settings.memory)
        secrets = claim.job.sensitive_values() if claim.job else ()
        self._plain = frozenset(claim.job.unmasked_variables if claim.job else ())
        self._secrets = Mask(secrets, self._desk.hidden)
        self.changes = OnCall()
        """Called for whenever there are new outcome variables, notices or progress, or a job to enqueue."""
        self._enqueuer = Enqueuer(follow_ups or FollowUps((), 0, claim.queue), claim)
        self._directives = Directives(
            self.changes.call, self._secrets.learn, self._enqueuer.follow_ups.read, traced=is_legacy(claim.job)
        )
        before = claim.history if claim.history and claim.history.attempt == claim.attempt else None
        self._former: dict[str, str] = before.variables if before else {}
        self._former_notices = before.notices if before else ()
        self._shipped = ShippedEnd()
        returns = isinstance(claim.job, TypedJob) and claim.job.returns
        self._processors: list[Processor] = [self._directives, self._secrets]
        if returns:
            self._processors.insert(0, self._shipped)
        self._former_progress = before.progress if before else None
        self._said: tuple[float, str] | None = None
        self._when: str | None = None
        if self._secrets.unmasked:
            log.warning("values_too_short_to_mask", job=claim.id, count=self._secrets.unmasked)
        self._pipeline: Pipeline | None = None
        self._stored: Sequence[Sink] = ()
        self._begin = LogPosition()
        self._task: asyncio.Task[LogPosition] | None = None
        self.cut = False
        """It wasn't read to its end, which has to be marked where it stops."""
        self._hurry_at = math.inf  # by the loop's clock
        self._left = LogPosition()

    @property
    def variables(self) -> dict[str, str]:
        """The outcome variables so far, not masked, but those that only a former consumer saw."""
        return {**self._former, **self._directives.variables}

    @property
    def masked(self) -> dict[str, str]:
        """The same without the job's secrets, except in those that the job itself wants as they are."""
        return {name: self.mask_variable(name, value) for name, value in self.variables.items()}

    def mask_variable(self, name: str, value: str) -> str:
        """An outcome variable without the job's secrets."""
        return value if name in self._plain else self.mask(value)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Errors and warnings that the job has printed, masked; those of a former consumer first."""
        told = [self._masked_notice(notice) for notice in self._directives.notices]
        told = [*self._former_notices, *(notice for notice in told if notice not in self._former_notices)]
        more = self._directives.further_notices + len(told[MAX_NOTICES:])
        rest = Notice(level="notice", message=f"{more} more stand in the log")
        return (*told[:MAX_NOTICES], rest) if more else tuple(told)

    def _masked_notice(self, notice: Notice) -> Notice:
        texts = {"message": notice.message, "title": notice.title, "file": notice.file}
        return notice.model_copy(update={name: self._short(text, MAX_NOTICE) for name, text in texts.items() if text})

    def _short(self, text: str, most: int) -> str:
        """Masked, then cut: the other way round a part of a secret could stay."""
        return self._secrets.mask_text(text, cut=len(text) > most)[:most]

    @property
    def progress(self) -> Progress | None:
        """How far the job says that it has come, masked; what it told a former consumer, if it said nothing since."""
        said = self._directives.progress
        if said is not None and said != self._said:
            self._said, self._when = said, rfc3339(time.time())
        if said is None:
            return self._former_progress
        return Progress(percent=said[0], message=self._short(said[1], MAX_PROGRESS) or None, at=self._when)

    def tell(self, progress: tuple[float, str] | None) -> None:
        """Progress that came by another way than the log, after it."""
        if progress is not None:
            self._directives.progress = progress

    async def store(self, write: Callable[[dict[str, str]], Awaitable[bool]]) -> None:
        """Give all outcome variables, masked, to `write`.

        It says whether they are stored: until then whoever adopts the execution must read them again.
        """
        version = self._directives.version
        if await write(self.masked):
            self._directives.stored = version

    @property
    def children(self) -> tuple[str, ...]:
        """Ids of the jobs that this one has enqueued, in all its attempts."""
        return self._enqueuer.children

    async def enqueue(self, put: Put, patience: float) -> None:
        """Enqueue what the job has asked for since; a queue that is away is waited for `patience` seconds."""
        if await self._enqueuer.enqueue(put, self._directives.note, patience):
            self.changes.call()

    @property
    def shipped(self) -> bytes:
        """What a function's end is told by beside the log, not masked."""
        return self._shipped.lines

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, masked."""
        return self._pipeline.tail if self._pipeline else ()

    @property
    def secrets(self) -> Mask:
        """What masks the job's secrets."""
        return self._secrets

    def mask(self, text: str) -> str:
        """A text without the job's secrets."""
        return self._secrets.mask_text(text)

    def start(self, execution: Execution, former: LogPosition) -> None:
        """Begin to read; what a former consumer stored is read again but not stored twice."""
        self._stored, self._begin = self._make_sinks(self._claim, former), former
        self._task = asyncio.create_task(self._read(execution, former))
        self._desk.enter(self._claim.id, execution)
        self._task.add_done_callback(lambda _: self._desk.leave(self._claim.id, execution))

    async def _read(self, execution: Execution, former: LogPosition) -> LogPosition:
        if is_begun_later(execution):
            await execution.log_begins()
        self._pipeline = Pipeline(
            self._processors,
            self._stored,
            interval=self._settings.interval,
            tail_lines=self._settings.tail_lines,
            former=former,
            memory=self._desk.memory,
            patience=PATIENCE,
        )
        parts = execution.logs(former.place.at if former.place else "")
        return await self._pipeline.run(_unhurried(parts, self._room) if is_lasting(execution) else parts)

    async def _room(self) -> None:
        """Waits until the sinks have taken more of what was read, or there is no time for that any more."""
        if self._pipeline is not None and asyncio.get_running_loop().time() < self._hurry_at:
            await self._pipeline.room()

    @property
    def _moved(self) -> int:
        return self._pipeline.moved if self._pipeline is not None else 0

    def left(self, former: LogPosition) -> None:
        """Nothing is read any more: the log ends where it is stored."""
        self._left = former

    async def finish(self, patience: float) -> None:
        """Waits until the log has been read and stored to its end: `LONGEST` s, or `patience` s without any news."""
        if self._task is None:
            return
        self._hurry_at = asyncio.get_running_loop().time() + UNHURRIED
        left, most, moved = patience, LONGEST, self._moved
        while left > 0 and most > 0 and not self._task.done():
            part = min(PART, left)
            await asyncio.wait({self._task}, timeout=part)
            left, most = left - part, most - part
            if moved != self._moved:
                left, moved = patience, self._moved
        if not self._task.done():
            self.cut = True
            await self.abandon()

    async def abandon(self) -> None:
        """Stop at once; what wasn't stored can be read again by whoever goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for sink in self._stored:
            if is_linked(sink) or is_replying(sink):
                await sink.abandon()

    @property
    def links(self) -> tuple[Link, ...]:
        """Where else the log can be found, masked: a job's id may be anything."""
        links = [sink.link for sink in self._linked]
        return tuple(link.model_copy(update={"problem": link.problem and self.mask(link.problem)}) for link in links)

    @property
    def unsent(self) -> tuple[dict[str, Any], ...]:
        """Jobs with parts of the log that their queue hasn't taken, in order; once the log has ended."""
        return tuple(job for sink in self._stored if is_replying(sink) for job in sink.unsent)

    @property
    def _linked(self) -> list[LinkedSink]:
        return [sink for sink in self._stored if is_linked(sink)]

    def position(self) -> LogPosition:
        """What the Record says of the log."""
        if self._task is None:
            return self._left
        read = self._pipeline.position if self._pipeline is not None else self._begin
        first = self._stored[0] if self._stored else None
        whole = join(read, first.position) if is_storing(first) else read
        return whole.unfinished if self.cut else whole


async def _unhurried(parts: AsyncIterator[LogPart], room: Callable[[], Awaitable[None]]) -> AsyncIterator[LogPart]:
    """The same, each when there is room for it."""
    try:
        async for part in parts:
            await room()
            yield part
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()
