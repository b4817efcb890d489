from __future__ import annotations

from datetime import UTC, datetime

import pytest

from enqueue.times import rfc3339


@pytest.mark.parametrize(
    "moment", [0.0, 1, 1_700_000_000.123456, 1_700_000_000.9999999, 1_699_999_999.0000005, -1.5, 4e9]
)
def test_a_moment_is_told_as_datetime_tells_it(moment: float) -> None:
    told = datetime.fromtimestamp(moment, UTC)
    assert rfc3339(moment) == rfc3339(told) == told.isoformat(timespec="microseconds").replace("+00:00", "Z")
