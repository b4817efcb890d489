"""The Record: a job's metadata as it grows, and the Outcome that a producer waits for.

Version 1 is JSON in the hash field `longshore` of `rq:job:<id>` (RQ) or `longshore:job:<jid>` (Faktory).
Readers accept fields that they don't know; writers never remove one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from enqueue.variables import Variables

RECORD_VERSION = 1


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Nothing follows any more."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Fault(StrEnum):
    """Whose fault a failure is: it decides which retries apply."""

    JOB = "job"
    INFRASTRUCTURE = "infrastructure"


class Reason(StrEnum):
    """Why a job failed or was cancelled: stable words, for programs."""

    EXIT_CODE = "exit_code"
    EXCEPTION = "exception"
    RESULT_UNFIT = "result_unfit"
    RESULT_LOST = "result_lost"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_STORAGE = "out_of_storage"
    DEADLINE = "deadline"
    START_TIMEOUT = "start_timeout"
    UNSCHEDULABLE = "unschedulable"
    IMAGE_PULL = "image_pull"
    CONFIG_ERROR = "config_error"
    START_ERROR = "start_error"
    INIT_FAILED = "init_failed"
    SETUP_FAILED = "setup_failed"
    EVICTED = "evicted"
    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    POD_DELETED = "pod_deleted"
    EXECUTOR_ERROR = "executor_error"
    CONSUMER_STOPPED = "consumer_stopped"
    CONSUMER_LOST = "consumer_lost"
    INVALID_JOB = "invalid_job"
    REFUSED = "refused"
    SEALED = "sealed"
    REQUESTED = "requested"
    DELETED = "deleted"


HINTS: dict[Reason, str] = {
    Reason.EXIT_CODE: "The job's own command failed; its log says why.",
    Reason.EXCEPTION: "The function raised it, or ended its process; the traceback is in the log.",
    Reason.RESULT_UNFIT: "The function has done its work; return plain values, or have its type say `result: ignore`.",
    Reason.RESULT_LOST: "The function has done its work; whether it may run again, infrastructure_retries says.",
    Reason.SIGNAL: "Something sent the job this signal; a job that handles it can say why.",
    Reason.OUT_OF_MEMORY: "The job used more memory than resources.limits.memory; raise it or use less.",
    Reason.OUT_OF_STORAGE: "The job wrote more to its disk than the limit in the message; write less, or raise it.",
    Reason.DEADLINE: "The job ran longer than its timeout; raise it or make the job faster.",
    Reason.START_TIMEOUT: "The job hadn't started after start_timeout; see the message for what it was waiting for.",
    Reason.UNSCHEDULABLE: "No node has room for the job, or none matches it; see the scheduler's or node's message.",
    Reason.IMAGE_PULL: "The image can't be pulled; check its name, its tag and the registry's credentials.",
    Reason.CONFIG_ERROR: "The container can't be set up as asked; see the message for what is missing.",
    Reason.START_ERROR: "The command couldn't be started; check entrypoint, shell, workdir and the image's user.",
    Reason.INIT_FAILED: "The init step failed, so the job didn't start; its log says why.",
    Reason.SETUP_FAILED: "An init container of the pod template failed; kubernetes.keep_failed keeps its pod and log.",
    Reason.EVICTED: "The cluster removed the pod from its node; infrastructure_retries lets such a job run again.",
    Reason.PREEMPTED: "More important pods needed the room; infrastructure_retries lets such a job run again.",
    Reason.NODE_LOST: "The node went away under the job; infrastructure_retries lets such a job run again.",
    Reason.POD_DELETED: "Somebody or something deleted the pod; infrastructure_retries lets such a job run again.",
    Reason.EXECUTOR_ERROR: "The executor couldn't run the job; the consumer's log has the details.",
    Reason.CONSUMER_STOPPED: "The consumer was stopped before the job's end; infrastructure_retries lets it run again.",
    Reason.CONSUMER_LOST: "The consumer died while it ran the job; infrastructure_retries lets such a job run again.",
    Reason.INVALID_JOB: "The payload isn't a valid Job; mend the named field and enqueue it again.",
    Reason.REFUSED: "The operator's policy doesn't allow this job; change the named field or ask the operator.",
    Reason.SEALED: "Seal the variables for a key that the consumers have, or give them the one that is missing.",
    Reason.REQUESTED: "Somebody cancelled the job.",
    Reason.DELETED: "The job was deleted from the queue while it ran.",
}
"""What to do about each reason, for people."""

FAULT_OF: dict[Reason, Fault] = {
    reason: Fault.INFRASTRUCTURE
    if reason
    in (
        Reason.EVICTED,
        Reason.PREEMPTED,
        Reason.NODE_LOST,
        Reason.POD_DELETED,
        Reason.SETUP_FAILED,
        Reason.EXECUTOR_ERROR,
        Reason.CONSUMER_STOPPED,
        Reason.CONSUMER_LOST,
        Reason.UNSCHEDULABLE,
        Reason.START_TIMEOUT,
        Reason.RESULT_LOST,
    )
    else Fault.JOB
    for reason in Reason
}


class _Open(BaseModel):
    """A frozen value whose readers accept fields that they don't know yet."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Times(_Open):
    """Moments in RFC 3339, UTC; None: not yet, or unknown."""

    queued: str | None = None
    due: str | None = None
    claimed: str | None = None
    started: str | None = None
    ended: str | None = None


class Where(_Open):
    """Where the job runs or ran."""

    executor: str | None = None
    namespace: str | None = None
    pod: str | None = None
    container: str | None = None
    node: str | None = None
    consumer: str | None = None


class Link(_Open):
    """A copy of a log besides the stream: `bytes` of it, all unless `problem` says why not."""

    sink: str
    url: str | None = None
    bytes: int = 0
    problem: str | None = None


class Tally(_Open):
    """Output as the job wrote it: newlines, and bytes without carriage returns, which runtimes take from lines' ends.

    With the directives that are taken out of the log, and before anything is masked.
    """

    lines: int = 0
    bytes: int = 0


class Output(_Open):
    """A file that the job left in $LONGSHORE_OUTPUTS: where it is, or in `problem` why it wasn't kept."""

    name: str
    size: int | None = None
    sha256: str | None = None
    url: str | None = None
    problem: str | None = None


class Log(_Open):
    """What is known of an attempt's log."""

    stream: str | None = None
    entries: int = 0
    lines: int = 0
    bytes: int = 0
    gaps: tuple[dict[str, Any], ...] = ()
    complete: str | None = None
    """`complete`: the job counted its output, and all of it was read and stored; `no_gap_seen`; `gap`."""
    links: tuple[Link, ...] = ()
    digest: str | None = None
    """Of what is stored, in hexadecimal: docs/payload.md says how to verify it."""
    written: Tally | None = None
    """What the job counted; None: nobody asked it to, or it was killed before it could say."""
    read: Tally | None = None
    """What the consumer read of that."""


class Notice(_Open):
    """Something that a job wants to be seen with its outcome: it printed `::error`, `::warning` or `::notice`."""

    level: str
    message: str = ""
    title: str | None = None
    file: str | None = None
    line: int | None = None

    @property
    def text(self) -> str:
        """In one line: where, what."""
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.title, self.message) if part)


class Outcome(_Open):
    """What the producer is told of one attempt, or of the job: its last attempt's."""

    status: Status
    reason: str | None = None
    message: str | None = None
    hint: str | None = None
    exit_code: int | None = None
    variables: Variables = Variables()
    result: Any = None
    notices: tuple[Notice, ...] = ()
    log: Log | None = None

    @property
    def succeeded(self) -> bool:
        """The job did what it was asked to."""
        return self.status is Status.SUCCEEDED


class Attempt(_Open):
    """One try of the job."""

    attempt: int
    status: Status
    reason: str | None = None
    message: str | None = None
    hint: str | None = None
    exit_code: int | None = None
    times: Times = Times()
    where: Where = Where()
    log: Log | None = None


class Progress(_Open):
    """How far a job says that it has come."""

    percent: float
    message: str | None = None
    at: str | None = None


class Record(_Open):
    """The job's metadata, version 1."""

    v: int = RECORD_VERSION
    id: str
    queue: str = ""
    attempt: int = 0
    token: str = ""
    status: Status = Status.QUEUED
    reason: str | None = None
    hint: str | None = None
    message: str | None = None
    exit_code: int | None = None
    variables: Variables = Variables()
    result: Any = None
    notices: tuple[Notice, ...] = ()
    times: Times = Times()
    where: Where = Where()
    attempts: tuple[Attempt, ...] = ()
    log: Log = Log()
    progress: Progress | None = None
    tags: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    """Names of variables that are kept beside the Record; empty once they are read."""
    parent: str | None = None
    children: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()

    @property
    def outcome(self) -> Outcome | None:
        """The Outcome once the job has ended, else None."""
        if not self.status.final:
            return None
        return Outcome(
            status=self.status,
            reason=self.reason,
            message=self.message,
            hint=self.hint,
            exit_code=self.exit_code,
            variables=self.variables,
            result=self.result,
            notices=self.notices,
            log=self.log,
        )

    @property
    def short(self) -> dict[str, Any]:
        """The short form for dashboards (`meta["longshore"]`): built-in types only."""
        brief: dict[str, Any] = {"status": self.status.value, "attempt": self.attempt}
        for name in ("reason", "message", "hint", "exit_code"):
            if getattr(self, name) is not None:
                brief[name] = getattr(self, name)
        if self.variables:
            brief["variables"] = dict(self.variables)
        brief["times"] = self.times.model_dump(exclude_none=True)
        brief["where"] = self.where.model_dump(exclude_none=True)
        if self.log.lines:
            brief["log"] = {"stream": self.log.stream, "lines": self.log.lines, "bytes": self.log.bytes}
        return brief

    def dumps(self) -> bytes:
        """The Record as the JSON that is stored."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def loads(cls, data: bytes | str | Mapping[str, Any]) -> Record:
        """Read a stored Record. Raises pydantic's ValidationError (a ValueError) if it is none."""
        return cls.model_validate(data) if isinstance(data, Mapping) else cls.model_validate_json(data)


def job_failures(record: Record | None) -> int:
    """How many attempts so far failed by the job's own fault: what its retries are counted against."""
    return sum(1 for a in record.attempts if fault_of(a.reason) is Fault.JOB) if record else 0


def infrastructure_failures(record: Record | None) -> int:
    """How many attempts so far failed by the infrastructure's fault."""
    return sum(1 for a in record.attempts if fault_of(a.reason) is Fault.INFRASTRUCTURE) if record else 0


def fault_of(reason: str | None) -> Fault:
    """Whose fault this reason is; an unknown one is the job's."""
    return FAULT_OF[Reason(reason)] if reason in HINTS else Fault.JOB
