"""What `longshore check` finds: a line each, with the way out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. A problem keeps jobs from running as they should; `unknown` couldn't be looked at."""

    GOOD = "good"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    area: str
    level: Level
    text: str
    fix: str | None = None


CLOCK_SECONDS = 5.0
"""A difference that is worth a word: deadlines and times in Records are reckoned with it."""


def clock_finding(area: str, whose: str, theirs: float, before: float, after: float) -> Finding:
    """Compare another machine's clock with ours, which read `before` and `after` the question."""
    off = theirs - after if theirs > after else min(0.0, theirs - before)
    if abs(off) <= CLOCK_SECONDS:
        return Finding(area, Level.GOOD, f"its clock and ours agree within {CLOCK_SECONDS:g} s")
    ahead = "ahead of" if off > 0 else "behind"
    return Finding(
        area,
        Level.WARNING,
        f"the clock of {whose} is {abs(off):.0f} s {ahead} ours: times in Records and deadlines of jobs that are taken "
        "over are wrong by so much",
        "keep both machines' clocks right, such as with NTP",
    )
