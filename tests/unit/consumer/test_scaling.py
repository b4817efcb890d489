"""How many consumers there should be: what is wanted for a load, and when it is done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from consumer.model import Backlog
from consumer.scaling import Stabilizer, wanted
from consumer.settings import load_settings
from consumer.settings_scaling import Scaling
from enqueue.errors import UsageError

SCALING = Scaling(deployment="d", min=2, max=10, utilization=0.8, oldest=60)


@pytest.mark.parametrize(
    ("queues", "replicas", "count"),
    [
        ([], 2, 2),
        ([Backlog(0, 0, 0)], 7, 2),  # nothing to do
        ([Backlog(0, 16, 0)], 2, 2),  # 2 x 10 slots, 80 % of them in use
        ([Backlog(0, 17, 0)], 2, 3),
        ([Backlog(30, 10, 5)], 2, 5),
        ([Backlog(10, 5, 1), Backlog(20, 5, 1)], 2, 5),
        ([Backlog(10_000, 0, 1)], 2, 10),
        ([Backlog(1, 0, 61)], 4, 5),  # there is room, and still it waits
        ([Backlog(1, 0, 60)], 4, 2),
        ([Backlog(0, 0, 61)], 4, 2),  # of an empty queue the age says nothing
        ([Backlog(1, 0, None)], 4, 2),
        ([Backlog(4, None, None)], 3, 4),  # what runs isn't known: as many as we run, three times
        ([Backlog(0, 95, 0)], 10, 10),
    ],
)
def test_wanted(queues: list[Backlog], replicas: int, count: int) -> None:
    assert wanted(queues, replicas, slots=10, busy=9, settings=SCALING) == count


@given(
    st.lists(st.builds(Backlog, st.integers(0, 500), st.integers(0, 500), st.none() | st.floats(0, 1000)), max_size=4),
    st.integers(1, 20),
    st.integers(1, 100),
)
def test_never_fewer_than_what_runs_needs(queues: list[Backlog], replicas: int, slots: int) -> None:
    count = wanted(queues, replicas, slots, 0, SCALING)
    running = sum(backlog.running or 0 for backlog in queues)
    assert SCALING.min <= count <= SCALING.max
    assert count * slots >= running or count == SCALING.max


@pytest.mark.parametrize(
    ("wishes", "had"),
    [
        # (when, wanted) in turn from 3 replicas, and what there is after each
        ([(0, 5), (1, 7)], [5, 7]),  # more at once
        ([(0, 1), (99, 1), (100, 1)], [3, 3, 1]),  # fewer after a window
        ([(0, 1), (60, 3), (100, 1), (159, 1), (161, 1)], [3, 3, 3, 3, 1]),  # a window without a higher wish
        ([(0, 1), (60, 2), (110, 1), (161, 1)], [3, 3, 2, 1]),  # to the highest of the window
        ([(0, 9), (50, 1), (101, 4)], [9, 9, 4]),
    ],
)
def test_falls_wait(wishes: list[tuple[float, int]], had: list[int]) -> None:
    stabilizer, replicas, found = Stabilizer(Scaling(down_window=100), 0), 3, []
    for at, count in wishes:
        replicas = stabilizer.decide(replicas, count, at)
        found.append(replicas)
    assert found == had


def test_rises_can_wait_too() -> None:
    stabilizer = Stabilizer(Scaling(up_window=10, down_window=0), 0)
    wishes = [(0, 9), (5, 4), (10, 8), (14, 8), (16, 8)]
    assert [stabilizer.decide(3, count, at) for at, count in wishes] == [3, 3, 4, 4, 8]
    assert stabilizer.decide(8, 1, 17) == 1


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSHORE_SCALING_DEPLOYMENT", "longshore")
    monkeypatch.setenv("LONGSHORE_SCALING_DOWN_WINDOW", "7")
    assert load_settings().scaling == Scaling(deployment="longshore", down_window=7)
    monkeypatch.setenv("LONGSHORE_SCALING_MIN", "11")
    with pytest.raises(UsageError, match="10 is less than 11 in min"):
        load_settings()
    with pytest.raises(ValidationError):
        Scaling(deployment="a/b")
