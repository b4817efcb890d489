"""All seams on one page. An implementation is a file in its folder and a line in that folder's table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from consumer.model import (
    AttemptKey,
    Backlog,
    Claim,
    Exit,
    Gap,
    LogPart,
    LogPosition,
    Marks,
    Measure,
    OutputPart,
    Place,
    Plan,
    Settlement,
    Signal,
    Standing,
)
from consumer.settings import Settings
from enqueue.record import Link, Reason, Record, Where


class Queue(Protocol):
    """What is to be done. Reconnects by itself; raises QueueUnavailable only where the caller must wait."""

    requeues: bool
    """Can give a job back to the queue without counting a failure."""

    hands_over: bool
    """Claims that are left behind are found by other consumers, or by this one when it is started again."""

    stopping: asyncio.Event
    """No more claims: set by the worker, or by the queue's server (quiet)."""

    terminated: asyncio.Event
    """The queue's server asks this consumer to stop."""

    async def open(self) -> None:
        """Connect. Raises QueueUnavailable (try again) or SetupError (never will work)."""

    async def claim(self, slots: int) -> Sequence[Claim]:
        """Up to `slots` jobs in strict queue order; waits a bounded time (about 2 s) for the first one.

        May be cancelled at any moment without losing a job: what was taken then comes with the next call or `drain`.
        """

    async def drain(self) -> Sequence[Claim]:
        """No more claims: what was in flight, to be run or handed back."""

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        """Keep the claims ours; {token: Signal} for those that are lost or cancelled."""

    async def settle(self, settlements: Sequence[Settlement]) -> Mapping[str, Exception]:
        """Write outcome and Record and end the claims; {token: error} for those that the queue refused (ClaimLost)."""

    async def close(self) -> None:
        """Say goodbye and free the connections. Claims stay as they are."""


@runtime_checkable
class ReplyingQueue(Queue, Protocol):
    """A Queue on which a producer may ask for its job's log as jobs."""

    def log_jobs(self, claim: Claim) -> Callable[[int, Sequence[bytes], float], dict[str, Any]] | None:
        """Makes them of the first line's number, lines and the time (seconds since the epoch); None: nobody asks."""

    async def push(self, job: dict[str, Any]) -> None:
        """Put a job on a queue; tried once. Raises LongshoreError."""


@runtime_checkable
class MeasuringQueue(Queue, Protocol):
    """A Queue that can say how much waits in it."""

    async def backlog(self) -> Mapping[str, Backlog]:
        """{queue: Backlog} of those that we take jobs from. Raises QueueUnavailable."""


class Records(Protocol):
    """The store of Records and logs, where the producer reads them. Fenced: a claim's token must still be current."""

    source: str
    """The store's own identity, the same for all who share it; empty if nothing is kept."""
    ahead: float
    """Seconds by which this machine's clock is ahead of the store's, which all who share it go by."""

    async def write(self, claim: Claim, record: Record) -> None:
        """Store the Record of a job that goes on. Raises ClaimLost."""

    async def append(self, claim: Claim, data: bytes, position: LogPosition) -> None:
        """Append raw whole lines to the log. `position`: the log's, with them; a repeated append is no repeat."""

    async def drop(self, claim: Claim, sequences: Sequence[int]) -> None:
        """Forget entries from the middle of the log (its cap was reached)."""

    async def end(self, claim: Claim, position: LogPosition) -> None:
        """The attempt's log ends here: followers may stop."""

    async def resume(self, claim: Claim) -> LogPosition:
        """How far a former consumer stored this attempt's log."""

    async def end_unread(self, claim: Claim) -> LogPosition:
        """Mark the end of an attempt's log of which nobody reads the rest; how far it is stored. Raises ClaimLost."""

    async def recorded(self, claim: Claim, after: int, count: int) -> Sequence[tuple[int, LogPosition, bytes]]:
        """Up to `count` entries of this attempt's log after that one: number, where the log stands with it, data."""

    def stream_of(self, claim: Claim) -> str:
        """The log's name for the Record."""

    def cancellations(self) -> AsyncIterator[str]:
        """Ids of jobs that somebody wants cancelled, as they come."""

    def watched(self) -> AsyncIterator[str]:
        """Ids of jobs whose logs somebody follows, announced every few seconds."""

    async def standing(self, attempts: Sequence[AttemptKey]) -> Sequence[Standing]:
        """Where each attempt stands. Raises QueueUnavailable while the store can't say."""


@runtime_checkable
class TellingRecords(Records, Protocol):
    """Records in whose store others can read how this consumer fares."""

    trouble: Callable[[], str | None]
    """To be set: why nothing can be started now."""


@runtime_checkable
class TracedQueue(Queue, Protocol):
    """A Queue whose jobs may say to which trace they belong."""

    def carried(self, claim: Claim) -> Mapping[str, str]:
        """W3C trace context, as far as the job carries one."""


@runtime_checkable
class Reloading(Protocol):
    """A Queue or an Executor whose settings may change while it works."""

    def reload(self, settings: Settings) -> None:
        """Use these for what begins later. Raises LongshoreError, and changes nothing, if they can't work."""


@runtime_checkable
class KeepingRecords(Protocol):
    """Records that can keep large variables beside them, as long as them."""

    async def keep(self, claim: Claim, variables: Mapping[str, str]) -> None:
        """Store these. Raises ClaimLost."""


class Execution(Protocol):
    """Something running: a pod, a container, a process."""

    @property
    def where(self) -> Where:
        """Where it runs, as far as known now."""

    @property
    def waiting_for(self) -> str:
        """What keeps it from starting, in words; empty if nothing is known, or it has started."""

    def logs(self, after: str = "") -> AsyncIterator[LogPart]:
        """The output in raw chunks, read as fast as it comes, until the end. To be iterated once.

        A Gap stands where output is missing, a Place at times between two lines, Times before bytes, if the source has
        timestamps of its own. `after`: a Place that a former
        consumer reached. All that can still be read comes again: what precedes that same Place, or a Gap, is old.
        """

    def watched(self, seconds: float) -> None:
        """Somebody follows the log: for so long, it must come as it is written."""

    async def started(self) -> float:
        """Waits until the main step runs (or has ended); its start in seconds since the epoch.

        May raise ExecutorFault if it never will; `wait` tells why.
        """

    async def wait(self) -> Exit:
        """Waits for the end; may be cancelled, and called again. Raises ExecutorFault."""

    async def stop(self, grace: float) -> None:
        """TERM now, KILL after `grace` seconds; `wait` then ends. Idempotent."""

    async def remove(self, *, failed: bool = False) -> None:
        """Leave nothing behind. Only after the outcome is settled. Idempotent.

        What `failed` may be kept for a while, for people to look at, if the operator wants that.
        """

    async def detach(self) -> None:
        """Let go without touching what runs."""


class LaterExecution(Execution, Protocol):
    """An Execution whose log needn't be read from its start on."""

    async def log_begins(self) -> None:
        """Waits until the log is to be read: until then a follower needs to hold nothing for it."""


class LastingExecution(Execution, Protocol):
    """An Execution whose log stays where it is until it has been read: nothing of it is lost while a reader waits."""

    log_lasts: bool


class CollectingExecution(Execution, Protocol):
    """An Execution that can hand over the files in $LONGSHORE_OUTPUTS."""

    def outputs(self) -> AsyncIterator[OutputPart]:
        """Each file and then its bytes, once the job has ended. To be iterated once; may raise Away."""


@runtime_checkable
class CollectingExecutor(Protocol):
    """An Executor whose executions are CollectingExecutions."""

    collects: bool


class Executor(Protocol):
    """Runs Plans."""

    name: str
    portable: bool
    """What it runs can be gone on with from any machine, not only from this one."""

    detachable: bool
    """What runs goes on without this process and is found again by `start`."""

    silent: bool
    """Its executions have no log."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be started now, whatever the job: no more are claimed meanwhile. None: it can."""

    def refuse(self, plan: Plan) -> Iterable[tuple[Reason, str]]:
        """Each field that this executor can't honour: a sentence that begins with its name.

        INVALID_JOB if the job is wrong by itself, REFUSED if this executor or its operator won't have it.
        """

    async def open(self) -> None:
        """Connect and check the rights. Raises SetupError or ExecutorFault."""

    async def start(self, plan: Plan) -> Execution:
        """Start it, or find it if it was started before; `plan.begun`: only find it.

        Raises Unrunnable, ExecutorFault (with `started` if a begun one can't be found).
        """

    async def close(self) -> None:
        """Free what is held; running executions stay as they are if `detachable`."""


@runtime_checkable
class SweepingExecutor(Executor, Protocol):
    """An Executor that clears away what dead consumers left of jobs that have ended."""

    async def sweep(self, records: Records) -> None:
        """Goes on until cancelled; after `open`."""


@runtime_checkable
class MeasuredExecutor(Executor, Protocol):
    """An Executor that counts what it does."""

    def measures(self) -> Iterable[Measure]:
        """How things stand; cheap."""


class Meter(Protocol):
    """Told what becomes of jobs; where nobody measures there is none."""

    def claimed(self, claim: Claim) -> None:
        """A claim begins here."""

    def started(self, claim: Claim) -> None:
        """It runs."""

    def settled(self, settlement: Settlement) -> None:
        """Its end is recorded, and the queue has been told."""

    def over(self, claim: Claim) -> None:
        """It is no longer held here, whether it has ended or not."""


class Processor(Protocol):
    """Transforms a log: sync and pure. Gets blocks of whole lines (the last one of a log may lack its newline)."""

    def feed(self, block: bytes) -> bytes:
        """What is to be stored of this block; may hold back a part of a line that isn't finished."""

    def finish(self) -> bytes:
        """What was held back."""

    @property
    def holds(self) -> bool:
        """Something is held back now."""


class EditingProcessor(Processor, Protocol):
    """A Processor that takes lines out, and knows beforehand where it won't."""

    def edits(self, block: bytes) -> bool:
        """What `feed` returns for this block, the next one, may have other lines."""


class Sink(Protocol):
    """Ships a log: async, batched, bounded; it may fail without failing the job."""

    async def write(self, block: bytes, place: Place | None = None) -> None:
        """Whole lines, already masked. `place`: as far as the source is known to have been read, perhaps beyond."""

    async def finish(self) -> None:
        """The log has ended."""


class StoringSink(Sink, Protocol):
    """A Sink that knows what it has stored."""

    @property
    def position(self) -> LogPosition:
        """Entries, lines and bytes so far, and the gaps in them."""

    def missed(self, gap: Gap) -> None:
        """A part of the log that won't come: its readers shall see that."""

    def timed(self, marks: Marks, step: str) -> None:
        """When the lines of the next block were written, and by which step; called if the source tells."""


class ReplyingSink(Sink, Protocol):
    """A Sink that sends a log as jobs. `unsent`: once it has ended, those that the queue hasn't taken, in order."""

    unsent: Sequence[dict[str, Any]]

    async def abandon(self) -> None:
        """Somebody else goes on with the log."""


class LinkedSink(Sink, Protocol):
    """A Sink that goes on by itself, and knows where the log can be found."""

    @property
    def link(self) -> Link:
        """Where the log is, and what went wrong."""

    async def abandon(self) -> None:
        """Let go at once: somebody else goes on with the log."""
