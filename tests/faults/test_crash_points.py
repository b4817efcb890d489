"""A consumer is killed before and after each step of a job; another one goes on, and every invariant holds."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from enqueue import aio
from support.crash_cases import EARLY, JOB, Pods, finish, settings_for
from support.crashing import Nursery, nursery
from support.history import History, What, violations
from support.witnesses import WitnessedKube, monitored

pytestmark = pytest.mark.asyncio(loop_scope="module")
STEPS = [
    ("S1 rq", "after"),
    *((step, when) for step in ("S2 plan", "S2 record", "S3 create", "S4 secret") for when in ("before", "after")),
    *((step, when) for step in ("S5 running", "S5 log", "S6 log end", "S8 rq") for when in ("before", "after")),
    ("S6 ended", "after"),
    ("S9 delete", "after"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def consumers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    async with nursery(tmp_path_factory.mktemp("consumers")) as found:
        yield found


@pytest.mark.parametrize(("step", "when"), STEPS, ids=lambda value: value)
async def test_rq(step: str, when: str, consumers: Nursery, redis_url: str, tmp_path: Path) -> None:
    history, pods = History(slots=5), Pods()
    if not step.startswith(EARLY):
        pods.go_on.set()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        aio.connect(redis_url) as queue,
    ):
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, redis_url, tmp_path, "first"), (step, when))
        assert await first.ended() == -signal.SIGKILL
        pods.go_on.set()
        second = await consumers.start(settings_for(kube, redis_url, tmp_path, "second"))
        outcome = await handle.wait(20)
        await second.started()
        await finish(history, [handle], kube, redis_url)
        second.send(signal.SIGTERM)
        assert await second.ended() == 0
    assert violations(history) == []
    assert (outcome.status.value, outcome.reason, outcome.exit_code) == ("failed", "exit_code", 3)
    assert outcome.variables == {"answer": "42"}
    assert len(kube.created) == 1
    assert history.stored[handle.id].count(b"\n") == 41
    assert history.last(handle.id)["attempt"] == 1
    assert len(history.of(What.TOLD)) == 1
