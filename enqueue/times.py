"""Moments as the Record writes them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache


def rfc3339(moment: float | datetime | None) -> str | None:
    """Seconds since the epoch or a datetime -> RFC 3339 in UTC with microseconds."""
    if moment is None:
        return None
    if isinstance(moment, datetime):
        return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    part, whole = math.modf(moment)
    micros = round(part * 1_000_000)
    if not 0 <= micros < 1_000_000:
        return rfc3339(datetime.fromtimestamp(moment, UTC))
    return f"{_to_the_second(whole)}.{micros:06d}Z"


@lru_cache(64)
def _to_the_second(moment: float) -> str:
    """Kept for a while: moments come in crowds."""
    return datetime.fromtimestamp(moment, UTC).isoformat()[:19]


def epoch(text: str | None) -> float | None:
    """RFC 3339 -> seconds since the epoch; None for what can't be read."""
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
