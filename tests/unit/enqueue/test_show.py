"""Records for people's eyes: former attempts with what they said, when and where."""

from __future__ import annotations

import pytest

from enqueue.record import Attempt, Record, Status, Times, Where
from enqueue.show import print_record

EVICTED = Attempt(
    attempt=1,
    status=Status.FAILED,
    reason="evicted",
    message="the pod was evicted",
    hint="infrastructure_retries lets such a job run again.",
    exit_code=143,
    times=Times(started="2026-11-21T08:00:00Z", ended="2026-11-21T08:00:07Z"),
    where=Where(pod="ls-a-1", node="node-1"),
)
REFUSED = Attempt(attempt=2, status=Status.FAILED, reason="unschedulable", times=Times(ended="2026-11-21T08:01:00Z"))


def test_each_former_attempt_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    last = Attempt(attempt=3, status=Status.SUCCEEDED)
    record = Record(id="j", queue="q", attempt=3, status=Status.SUCCEEDED, attempts=(EVICTED, REFUSED, last))
    print_record(record)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = lines.index("attempt 1  failed: evicted: the pod was evicted")
    assert lines[at + 1 : at + 3] == [
        "exit code 143, 2026-11-21T08:00:00Z to 2026-11-21T08:00:07Z, pod ls-a-1, node node-1",
        "infrastructure_retries lets such a job run again.",
    ]
    assert lines[at + 3 : at + 5] == ["attempt 2  failed: unschedulable", "not started to 2026-11-21T08:01:00Z"]
    assert not [line for line in lines if line.startswith("attempt 3")]
