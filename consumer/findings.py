"""What `longshore check` finds: a line each, with the way out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


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
"""A difference that is worth a word: times in Records are wrong by it."""


def clock_finding(area: str, whose: str, theirs: float, before: float, after: float) -> Finding:
    """Compare another machine's clock with ours, which read `before` and `after` the question."""
    off = theirs - after if theirs > after else min(0.0, theirs - before)
    if abs(off) <= CLOCK_SECONDS:
        return Finding(area, Level.GOOD, f"its clock and ours agree within {CLOCK_SECONDS:g} s")
    ahead = "ahead of" if off > 0 else "behind"
    return Finding(
        area,
        Level.WARNING,
        f"the clock of {whose} is {abs(off):.0f} s {ahead} ours: times in Records are wrong by so much",
        "keep both machines' clocks right, such as with NTP",
    )


def folder_finding(area: str, what: str, directory: Path, fix: str) -> Finding:
    """Whether a folder is there, or can be made, can be written to, and has room. `what`: will be written there."""
    above = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return Finding(area, Level.PROBLEM, f"{what} can't be written to {directory}", fix)
    free = os.statvfs(above)
    if free.f_bavail * free.f_frsize < 100 * 2**20 or (free.f_files and free.f_favail < 1000):
        return Finding(area, Level.WARNING, f"{what}: {above} is nearly full", fix)
    return Finding(area, Level.GOOD, f"{what} can be written to {directory}")
