"""What running a job may need besides its tools: some set-ups have it, and others do without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from consumer.errors import Unrunnable
from consumer.logs.follow import Follower
from consumer.model import Claim, Settlement
from consumer.ports import Execution
from enqueue.record import Output


async def _nothing(follower: Follower, patience: float) -> None:
    """There is no queue to put anything on."""


async def collect_nothing(claim: Claim, execution: Execution, mask: Callable[[str], str]) -> tuple[Output, ...]:
    """There is no store."""
    return ()


@dataclass(frozen=True, slots=True)
class Extras:
    """Handed down by the worker."""

    unseal: Callable[[Claim], tuple[Claim, Unrunnable | None]] = lambda claim: (claim, None)
    """The claim with its sealed variables opened, or why that can't be."""

    follow_up: Callable[[Follower, float], Awaitable[None]] = _nothing
    """Enqueues what the job has asked for; waits for a queue that is away at most so many seconds."""

    collect: Callable[[Claim, Execution, Callable[[str], str]], Awaitable[tuple[Output, ...]]] = collect_nothing
    """Keeps what an ended execution has left; the function masks names. Never raises."""

    failed: Callable[[Settlement, Sequence[str]], None] = lambda settlement, tail: None
    """Told of each failed attempt that the queue has taken, with the last lines of its log."""


NONE = Extras()
