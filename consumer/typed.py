"""The Job that a job type makes of a call, and what it hands to the job beside a Job's own fields."""

from __future__ import annotations

from typing import NamedTuple

from enqueue.job import Job


class Handed(NamedTuple):
    """A file of the consumer's, laid down where the job can only read it. `variable` gets its path."""

    variable: str
    name: str
    contents: str


class TypedJob(Job, defer_build=True):
    """Made by `consumer.job_types` only: its environment may hold names that are reserved to the consumer."""

    type: str
    call: str
    """A hash of what the producer called: the operator may change the type while a job of it runs."""
    handed: tuple[Handed, ...] = ()
    hidden: tuple[str, ...] = ()
    """Values of sensitive arguments."""
    returns: bool = False
    """It runs a function, whose end is told by `consumer.returned`."""
    profile: str | None = None

    def digest(self) -> str:
        """A stable hash of the call alone: what a found execution is compared with."""
        return self.call

    def sensitive_values(self) -> tuple[str, ...]:
        """The values that must not be shown anywhere, longest first."""
        values = {*super().sensitive_values(), *self.hidden} - {""}
        return tuple(sorted(values, key=len, reverse=True))
