"""A few histories of `make simulate`, and that it finds what it is made to find."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer import start
from consumer.executors import circuit
from consumer.executors.kubernetes import judging, logs, manifest, watch
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.model import LogPosition, Settlement
from consumer.queues.records import RecordStore
from consumer.worker import Worker
from simulate import world
from simulate.faults import Fault, Plan
from simulate.store import Store
from simulate.world import simulate

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_history_keeps_every_invariant(seed: int) -> None:
    result = simulate(seed)
    assert result.problem is None
    assert result.events


def test_a_seed_is_the_same_history_everywhere() -> None:
    program = "import sys; from simulate.world import simulate; print(simulate(7).digest)"
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": "123"}
    elsewhere = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=True
    )
    assert simulate(7).digest == elsewhere.stdout.strip()


def _two_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that gives a job to whoever asks, as long as it isn't over."""
    claim = Store._claim

    def careless(self: Store, keys: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        held, self.wip = self.wip, {}
        self.waiting += [job for job, _, _ in held.values()]
        rows = claim(self, keys, args)
        self.wip = held | self.wip
        return rows

    monkeypatch.setattr(Store, "_claim", careless)


def _never_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that tells the queue nothing."""

    async def silent(self: Worker, batch: Sequence[Settlement]) -> Sequence[None]:
        return [None] * len(batch)

    monkeypatch.setattr(Worker, "_settle", silent)
    monkeypatch.setattr(world, "LIMIT", 60.0)


def _log_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes over forgets what is stored already, and writes behind it."""
    resume = RecordStore.resume

    async def forgetful(self: RecordStore, claim: Any) -> LogPosition:
        return LogPosition(entries=(await resume(self, claim)).entries)

    monkeypatch.setattr(RecordStore, "resume", forgetful)


def _all_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor to which every end is a good one."""
    real = judging.exit_of

    def rosy(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        return found and replace(found, code=0, reason=None, signal=None)

    monkeypatch.setattr(judging, "exit_of", rosy)


def _a_new_name_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods whose create is no compare-and-set, and that nobody looks for."""

    async def blind(*_: Any) -> None:
        return None

    real = manifest.names.pod_name
    monkeypatch.setattr(KubernetesExecutor, "_find", blind)
    monkeypatch.setattr(manifest.names, "pod_name", lambda *a: f"{real(*a)[:-2]}{uuid.uuid4().hex[:4]}-{a[2]}")


def _a_clean_end_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log whose connection ended with its kubelet is taken for whole."""
    monkeypatch.setattr(logs, "_cut_short", lambda *_: False)


@pytest.mark.parametrize(
    ("spoil", "seeds", "invariant"),
    [
        (_two_holders, range(1, 3), "H1"),
        (_never_settled, range(1, 3), "I8"),
        (_never_settled, range(6, 8), "I1"),
        (_log_from_its_beginning, range(5, 10), "I6"),
        (_all_well, range(2, 4), "T1"),
        (_a_new_name_each_time, range(8, 12), "I2"),
        (_a_clean_end_is_believed, range(497, 504), "I6"),
    ],
)
def test_what_is_broken_is_found(
    spoil: Callable[[pytest.MonkeyPatch], None], seeds: range, invariant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    problems = (simulate(seed).problem or "" for seed in seeds)
    assert any(problem.startswith(invariant) for problem in problems)


OUTAGE = Plan(2, [Fault(3.0, "cluster_down", 300.0)])
"""So long that every pause between two tries grows as long as it may."""
CAPS = [
    (start, "START_PAUSE_CAP"), (start, "DOWN_PAUSE_CAP"), (circuit, "PAUSE_CAP"), (watch, "PAUSE_CAP"),
    (judging, "INSIST_CAP"), (logs, "PAUSE_CAP"),
]  # fmt: skip


@pytest.mark.row(15)
@pytest.mark.parametrize("seed", [2, 3])
def test_after_a_long_outage_all_goes_on_soon(seed: int) -> None:
    assert simulate(seed, OUTAGE).problem is None


@pytest.mark.parametrize("seed", [2, 3])
def test_pauses_that_grow_for_ever_are_found(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in CAPS:
        monkeypatch.setattr(module, name, 10 * getattr(module, name))
    assert (simulate(seed, OUTAGE).problem or "").startswith("I10")
