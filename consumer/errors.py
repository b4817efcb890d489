"""Errors of the consumer's side; the root is `enqueue.errors.LongshoreError`.

LongshoreError
+-- Unrunnable       this job can't be run as asked: the job's (or the operator's policy's) doing, final
+-- ExecutorFault    the infrastructure failed; says whether anything had started
+-- ClaimLost        the queue no longer holds this job for us: write nothing
|   +-- ClaimCancelled    since it has cancelled the job: stop what runs
+-- SetupError       cluster, namespace, right or option is missing: the message names it
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from enqueue.errors import LongshoreError
from enqueue.record import Reason, Where


class Unrunnable(LongshoreError):
    """This job can't be run as asked."""

    def __init__(self, message: str, reason: Reason = Reason.INVALID_JOB) -> None:
        super().__init__(message)
        self.reason = reason

    @classmethod
    def of(cls, problems: Sequence[tuple[Reason, str]]) -> Unrunnable:
        """All problems in one. A job that is wrong by itself is that first, whatever a policy says of it."""
        refused = all(reason is Reason.REFUSED for reason, _ in problems)
        return cls("; ".join(text for _, text in problems), Reason.REFUSED if refused else Reason.INVALID_JOB)


class ExecutorFault(LongshoreError):
    """The infrastructure failed to run the job.

    `started`: its command may have begun. `down`: so would any other. `where`: of what failed. A start that fails with
    START_TIMEOUT fails at this job alone, as far as one can see, and may be tried until then.
    """

    def __init__(
        self,
        message: str,
        reason: Reason = Reason.EXECUTOR_ERROR,
        *,
        started: bool = False,
        down: bool = False,
        where: Where | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.started = started
        self.down = down
        self.where = where


class ClaimLost(LongshoreError):
    """The queue no longer holds this job for us."""


class ClaimCancelled(ClaimLost):
    """Nobody holds it any more: its queue has cancelled it, and what runs of it is to be stopped."""


class SetupError(LongshoreError):
    """The set-up lacks something that the message names."""


def internal(error: Exception) -> ExecutorFault:
    """A bug of ours, as its job's producer is told of it; the job may have run."""
    return ExecutorFault(f"internal error ({type(error).__name__}); the consumer's log tells more", started=True)


def unforeseen(error: Exception) -> str:
    """What is said of a payload that breaks our own code, without the error's words: they may hold the payload's."""
    place = traceback.extract_tb(error.__traceback__)[-1].name
    return f"the payload can't be read ({type(error).__name__} in {place})"
