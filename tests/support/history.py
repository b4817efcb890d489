"""What really happened, from independent witnesses, and the invariants that must hold over it.

The witnesses are the API server's objects, Redis' own account of every command (MONITOR), what passed to Faktory, and
the log that a pod wrote. None of them is the consumer. `violations` names each invariant that is broken:

I1 one terminal Record, or still queued    I2 one pod per job and attempt    I3 an outcome never changes
I4 the queue is told last                  I5 nothing outlives its job       I6 log lines: in order, once, or a gap
I7 no secret is stored                     I8 no more claims than slots      I9 bounded request rate
I10 settled within the time
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

FINAL = ("succeeded", "failed", "cancelled")
OUTCOME = ("status", "reason", "exit_code", "variables", "message")


class What(Enum):
    """Kinds of events."""

    CREATED = auto()
    DELETED = auto()
    RECORD = auto()
    LOG = auto()
    LOG_END = auto()
    TOLD = auto()
    CLAIMED = auto()
    RELEASED = auto()
    REQUEST = auto()


@dataclass(frozen=True, slots=True)
class Event:
    """`at`: seconds since the epoch; `name`: of a pod or claim; `uid`: of a pod; `value`: a Record's JSON, a holder."""

    at: float
    what: What
    job: str = ""
    attempt: int = 0
    name: str = ""
    uid: str = ""
    value: Any = None


@dataclass
class History:
    """All that was seen. `told_apart`: the queue is told by another server than the one that keeps the Records."""

    events: list[Event] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    queued: set[str] = field(default_factory=set)
    written: dict[str, list[bytes]] = field(default_factory=dict)
    """The lines that a job's pod wrote."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """The log as a producer reads it."""
    left: list[str] = field(default_factory=list)
    """Objects of ours that are still there."""
    kept: dict[str, bytes] = field(default_factory=dict)
    """Everything that is stored, but the payloads, by its key."""
    secrets: list[bytes] = field(default_factory=list)
    slots: int = 1_000
    rate: int = 1_000
    fault_over: float | None = None
    patience: float = 30.0

    def of(self, what: What, job: str | None = None) -> list[Event]:
        """Events of a kind, in the order of their times."""
        found = [event for event in self.events if event.what is what and job in (None, event.job)]
        return sorted(found, key=lambda event: event.at)

    def records(self, job: str) -> list[dict[str, Any]]:
        """Every version of a job's Record."""
        return [event.value for event in self.of(What.RECORD, job)]

    def last(self, job: str) -> dict[str, Any]:
        """The last version of a job's Record."""
        return (self.records(job) or [{}])[-1]


def outcome_in(record: dict[str, Any]) -> tuple[Any, ...]:
    """What the Record says of the end."""
    return tuple(str(record.get(name)) for name in OUTCOME)


def one_terminal_record(history: History) -> Iterator[str]:
    """I1."""
    for job in sorted(history.accepted):
        ends = {outcome_in(record) for record in history.records(job) if record["status"] in FINAL}
        if len(ends) > 1:
            yield f"{job} has {len(ends)} terminal Records: {sorted(ends)}"
        elif not ends and job not in history.queued:
            yield f"{job} is lost: it has no terminal Record, and no queue holds it"
        elif ends and job in history.queued:
            yield f"{job} has ended and is queued all the same"


def one_pod_an_attempt(history: History) -> Iterator[str]:
    """I2."""
    uids = defaultdict(set)
    for event in history.of(What.CREATED):
        uids[event.job, event.attempt].add(event.uid)
    for (job, attempt), found in sorted(uids.items()):
        if len(found) > 1:
            yield f"{job} attempt {attempt} had {len(found)} pods"


def outcomes_dont_change(history: History) -> Iterator[str]:
    """I3: nothing is written after the end, and an attempt that has ended stays as it was."""
    for job in sorted(history.accepted):
        ended: dict[int, tuple[Any, ...]] = {}
        final: tuple[Any, ...] | None = None
        for record in history.records(job):
            if final is not None and (record["status"], *outcome_in(record)) != final:
                yield f"{job} was {final} and became {outcome_in(record)}"
            if record["status"] in FINAL:
                final = (record["status"], *outcome_in(record))
            for attempt in record.get("attempts") or ():
                told = outcome_in(attempt)
                if ended.setdefault(attempt["attempt"], told) != told:
                    yield f"{job} attempt {attempt['attempt']} was {ended[attempt['attempt']]} and became {told}"


def the_queue_is_told_last(history: History) -> Iterator[str]:
    """I4: by then the attempt's outcome and its log are stored."""
    for event in history.of(What.TOLD):
        before = [record.value for record in history.of(What.RECORD, event.job) if record.at <= event.at]
        if not before or not before[-1].get("attempts"):
            yield f"{event.job} was settled before its outcome was stored"
        logs = [log.at for what in (What.LOG, What.LOG_END) for log in history.of(what, event.job)]
        later = [at for at in logs if at > event.at and not _claimed_between(history, event, at)]
        if later:
            yield f"{event.job} was settled before its log was stored"


def _claimed_between(history: History, told: Event, at: float) -> bool:
    return any(told.at < claim.at < at for claim in history.of(What.CLAIMED, told.job))


def nothing_is_left(history: History) -> Iterator[str]:
    """I5."""
    for name in history.left:
        yield f"{name} outlives its job"


def log_is_whole(history: History) -> Iterator[str]:
    """I6: each line once, in order; what is missing is told."""
    for job, written in sorted(history.written.items()):
        stored = history.stored.get(job, b"").splitlines(keepends=True)
        twice = [line for line, count in Counter(stored).items() if count > Counter(written)[line]]
        if twice:
            yield f"{job}: lines that were never written, or are repeated: {twice[:3]}"
        elif not _in_order(stored, written):
            yield f"{job}: lines aren't in the order in which they were written"
        elif len(stored) < len(written) and not (history.last(job).get("log") or {}).get("gaps"):
            yield f"{job}: {len(written) - len(stored)} of {len(written)} lines are missing and no gap is told"


def _in_order(stored: Sequence[bytes], written: Sequence[bytes]) -> bool:
    rest = iter(written)
    return all(line in rest for line in stored)


def no_secret_is_stored(history: History) -> Iterator[str]:
    """I7."""
    for key, text in sorted(history.kept.items()):
        if any(secret in text for secret in history.secrets):
            yield f"{key} holds a secret"


def no_more_than_slots(history: History) -> Iterator[str]:
    """I8: claims that a consumer holds at a time."""
    held: dict[str, Event] = {}
    events = (
        *history.of(What.RELEASED),
        *history.of(What.CLAIMED),
    )  # at one moment: free first
    for event in sorted(events, key=lambda event: event.at):
        if event.what is What.RELEASED:
            held.pop(event.name, None)
            continue
        held[event.name] = event
        ours = [each for each in held.values() if each.value == event.value]
        if len(ours) > history.slots:
            since = ", ".join(f"{each.job} for {event.at - each.at:.3f} s" for each in ours)
            yield f"consumer {event.value} held {len(ours)} claims, and has {history.slots} slots: {since}"
            return


def rate_is_bounded(history: History) -> Iterator[str]:
    """I9: requests within any second."""
    times = [event.at for event in history.of(What.REQUEST)]
    first = 0
    for last, at in enumerate(times):
        while times[first] < at - 1:
            first += 1
        if last - first + 1 > history.rate:
            yield f"{last - first + 1} requests within a second, more than {history.rate}"
            return


def settled_in_time(history: History) -> Iterator[str]:
    """I10: after the fault is over."""
    if history.fault_over is None:
        return
    for job in sorted(history.accepted - history.queued):
        ends = [event.at for event in history.of(What.RECORD, job) if event.value["status"] in FINAL]
        late = (min(ends) if ends else float("inf")) - history.fault_over
        if late > history.patience:
            yield f"{job} was settled {late:.1f} s after the fault, later than {history.patience:g} s"


INVARIANTS: dict[str, Callable[[History], Iterable[str]]] = {
    "I1": one_terminal_record,
    "I2": one_pod_an_attempt,
    "I3": outcomes_dont_change,
    "I4": the_queue_is_told_last,
    "I5": nothing_is_left,
    "I6": log_is_whole,
    "I7": no_secret_is_stored,
    "I8": no_more_than_slots,
    "I9": rate_is_bounded,
    "I10": settled_in_time,
}


def violations(history: History) -> list[str]:
    """A sentence for each broken invariant, its name first."""
    return [f"{name}: {text}" for name, check in INVARIANTS.items() for text in check(history)]
