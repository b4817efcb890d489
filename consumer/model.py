"""The values that pass through the consumer: frozen, no I/O, no references back.

Claim -> Plan -> (Execution) -> Exit -> Outcome -> Verdict; each computed once.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import field, replace
from enum import StrEnum
from typing import Any, NamedTuple

from consumer.typed import Handed
from consumer.values import frozen
from enqueue.job import Job
from enqueue.record import Outcome, Reason, Record, Tally


@frozen
class Claim:
    """A job that this consumer holds.

    `job` is None if the payload isn't a valid Job; `problem` then says why. `retries_left` counts the tries that
    the queue's own policy still allows after this one. Times are seconds since the epoch.
    """

    id: str
    queue: str
    attempt: int
    token: str
    job: Job | None
    problem: str | None = None
    refusal: str | None = None
    """Why it isn't run here although the Job is valid: what its queue wants with it can't be done."""
    timeout: float | None = None
    retries_left: int = 0
    queued_at: float | None = None
    created: str = ""
    """When the producer made it, in its own words: tells an id that is used again from one that comes again."""
    claimed_at: float = 0.0
    cancelled: bool = False
    history: Record | None = None
    native: Any = field(default=None, compare=False, repr=False)


async def unquestioned() -> None:
    """The claim is ours."""


async def untold(why: str) -> None:
    """Nobody asks what a start waits for."""


@frozen
class Plan:
    """All that an executor needs to run a claim: a pure function of Job, policy and settings."""

    id: str
    queue: str
    attempt: int
    consumer: str
    job: Job
    timeout: float | None
    start_timeout: float
    grace: float
    begun: bool = False
    """Its command has begun under a former consumer: find it, never start it again."""
    confirm: Callable[[], Awaitable[None]] = field(default=unquestioned, compare=False, repr=False)
    """To be awaited before something is started, or stopped, that another consumer may hold: raises ClaimLost."""
    source: str = ""
    """Whose job it is: the identity of the store of Records; empty if there is none."""
    created: str = ""
    """The job's own making, as its Claim has it: an execution with another one is a former job's of the same id."""
    handed: tuple[Handed, ...] = field(default=(), repr=False)
    """Files of the consumer's own, beside the Job's."""
    returns: bool = False
    """It runs a function, whose end is told beside the log and in the outcome file."""
    profile: str | None = None
    """The security profile that its job type names."""
    avoid: tuple[str, ...] = ()
    """Nodes on which the infrastructure failed this job before."""
    ended: tuple[int, ...] = ()
    """Former attempts that were told to have ended."""
    waits: Callable[[str], Awaitable[None]] = field(default=untold, compare=False, repr=False)
    """To be told what a start waits for before there is an execution that could tell it: raises ClaimLost."""


class Stop(StrEnum):
    """Why a running job is stopped; the first one said wins."""

    CANCEL = "cancel"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    LOST = "lost"


@frozen
class Exit:
    """What the executor saw at the end. `reason` None means that the exit code alone decides."""

    code: int | None = None
    signal: int | None = None
    reason: Reason | None = None
    message: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    started: bool = True
    variables: tuple[tuple[str, str], ...] = ()
    progress: tuple[float, str] | None = None
    """What the job told last into its file: percent, and what it did."""
    note: str | None = None
    """Something that the producer should know besides how it ended."""
    written: Tally | None = None
    """What the job counted of its own output."""


class Verdict(StrEnum):
    """What the queue is told."""

    DONE = "done"
    RETRY = "retry"
    BURY = "bury"


@frozen
class Settlement:
    """A claim's end, ready for the queue: `text` is what its web page shows of a failure.

    `replies`: jobs for other queues that come before it is told.
    """

    claim: Claim
    verdict: Verdict
    outcome: Outcome
    record: Record
    text: str = ""
    infrastructure: bool = False
    replies: tuple[dict[str, Any], ...] = field(default=(), compare=False, repr=False)


class AttemptKey(NamedTuple):
    """One attempt, as what runs it names it."""

    id: str
    queue: str
    attempt: int


class Standing(StrEnum):
    """What the store of Records knows of an attempt."""

    HELD = "held"
    """Claimed, or to be claimed again: hands off what runs it."""
    ENDED = "ended"
    FAILED = "failed"
    """Its outcome is recorded and the queue has been told."""
    GONE = "gone"
    """Nobody knows the job any more, or it ended without this attempt."""


class Signal(StrEnum):
    """What a heartbeat learned about a claim."""

    LOST = "lost"
    CANCEL = "cancel"


@frozen
class Gap:
    """Output that can't be had any more, in its place in the log. None: nobody knows how much it was."""

    reason: str
    lines: int | None = None
    bytes: int | None = None
    message: str | None = None

    def after(self, line: int) -> dict[str, Any]:
        """As the Record says it."""
        facts = {"lines": self.lines, "bytes": self.bytes, "message": self.message}
        known = {name: fact for name, fact in facts.items() if fact is not None}
        return {"reason": self.reason, **known, "after_line": line}


@frozen
class Place:
    """Between two lines of a source's output, in its own words; `bytes` of the stored log belong to what is before.

    `read`: what the source gave up to here, if that is known.
    """

    at: str
    bytes: int = 0
    read: Tally | None = field(default=None, compare=False)


@frozen
class Found:
    """A file that a job has left, by its path in the folder of outputs; its bytes follow. `problem`: it has none."""

    name: bytes
    size: int = 0
    problem: str | None = None


Marks = tuple[tuple[int, int], ...]
"""When lines were written: how many lines stand before one, and its time, in milliseconds since the epoch.

A line without a mark was written between the two around it. Lines of one moment share a mark.
"""


@frozen
class Times:
    """When the lines of the bytes that follow were written, by the clock of where they run.

    `lines`: newlines in these bytes. `step`: which step of the job wrote them.
    """

    marks: Marks
    lines: int
    step: str = "main"


OutputPart = Found | bytes

LogPart = bytes | Gap | Place | Times
Digest = bytes


@frozen
class LogPosition:
    """How far a log has been stored: lines and bytes of what was read, dropped parts included.

    `open`: the last of the lines lacks its newline yet. `place`: where its source can be read on. `digest`: of what
    is stored. `at`: when the last of it was given to the store, seconds since the epoch. `read`: what the source gave.
    `times`, `step`: when the lines of the last entry were written, and by which step, if the source tells. `ended`: its
    end is stored too.
    """

    entries: int = 0
    lines: int = 0
    bytes: int = 0
    gaps: tuple[dict[str, Any], ...] = ()
    open: bool = False
    place: Place | None = None
    digest: Digest = field(default=b"", compare=False)
    at: float | None = field(default=None, compare=False)
    read: Tally | None = field(default=None, compare=False)
    times: Marks = field(default=(), compare=False)
    step: str = field(default="", compare=False)
    ended: bool = field(default=False, compare=False)

    @property
    def unfinished(self) -> LogPosition:
        """The same with a gap at its end: the rest wasn't read."""
        gap = {"reason": "not_read_to_its_end", "after_line": self.lines}
        return replace(self, gaps=(*self.gaps, gap))


class Backlog(NamedTuple):
    """What a queue holds now. `oldest`: the age in seconds of the job that has waited longest. None: it can't say."""

    waiting: int
    running: int | None = None
    """Jobs that are claimed, by whichever consumer."""
    oldest: float | None = None


class Measure(NamedTuple):
    """One figure of how things stand; `name` and labels as in consumer/metrics.py."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def signal_name(number: int) -> str:
    """`SIGTERM`, or `signal 40` for those without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
