"""What a producer put on a queue, whichever queue it was: a name and arguments. Nothing is imported or executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from enqueue.errors import InvalidJob
from enqueue.job import JOB_NAME, Job


@dataclass(frozen=True, slots=True)
class Call:
    """A call by name, with plain values.

    `pickled`: RQ's payload as it is, if it holds more than plain values; nothing is known of its arguments then, and
    `problem` says why.
    """

    name: str
    word: str
    """What its queue calls the name: `function`, `jobtype`."""
    args: Sequence[Any] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    pickled: bytes = field(default=b"", repr=False)
    problem: str = ""
    custom: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What Faktory's producers attach beside the arguments."""


Load = Callable[[Call], Job]
"""Makes the Job of a call. Raises InvalidJob."""


def the_job(call: Call) -> Job:
    """The Job of `longshore.job`, whose one argument it is; no other name is known. Raises InvalidJob."""
    if call.name != JOB_NAME:
        raise InvalidJob(f"{call.word}: this consumer runs {JOB_NAME!r}, not {call.name[:80]!r}")
    if call.pickled:
        raise InvalidJob(f"the payload is refused: {call.problem}")
    if len(call.args) != 1 or call.kwargs:
        count = len(call.args) + len(call.kwargs)
        raise InvalidJob(f"args: must hold exactly one object, the Job, not {count} arguments")
    return Job.load(call.args[0])
