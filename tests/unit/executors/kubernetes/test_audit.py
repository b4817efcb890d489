from __future__ import annotations

import pytest

from consumer.audit_kinds import Looked
from consumer.executors.kubernetes.audit import compare
from consumer.executors.kubernetes.status import Container, Pod
from consumer.model import AttemptKey, Standing
from consumer.settings import Kubernetes

NOW = 10_000.0
RUNS = Container(state="running")


def over(seconds: float) -> Pod:
    """A pod that ended so long ago."""
    return Pod("p", "u", phase="Failed", main=Container(state="terminated", ended_at=NOW - seconds))


@pytest.mark.parametrize(
    ("pod", "standing", "kinds"),
    [
        (Pod("p", "u", phase="Running", main=RUNS), Standing.HELD, []),
        (Pod("p", "u", phase="Running", main=RUNS), Standing.GONE, ["pod_without_job"]),
        (Pod("p", "u", phase="Running", main=RUNS), Standing.ENDED, ["pod_outlives_job"]),
        (over(100), Standing.FAILED, []),
        (over(1000), Standing.FAILED, ["pod_outlives_job"]),
        (over(1000), Standing.HELD, []),
    ],
)
def test_a_pod_and_its_job(pod: Pod, standing: Standing, kinds: list[str]) -> None:
    looked = Looked()
    compare([(pod, AttemptKey("j", "q", 1), standing)], Kubernetes(keep_failed=500), NOW, looked)
    assert [fault.kind for fault in looked.faults] == kinds


def test_two_attempts_at_once() -> None:
    looked = Looked()
    pods = [(Pod(f"p-{n}", f"u{n}", phase="Running"), AttemptKey("j", "q", n), Standing.HELD) for n in (1, 2)]
    compare([*pods, (over(1), AttemptKey("j", "q", 3), Standing.HELD)], Kubernetes(), NOW, looked)
    assert [(fault.kind, fault.text) for fault in looked.faults] == [
        ("two_pods", "the job j of 'q' runs in p-1 and p-2")
    ]
