"""On a real Faktory: a consumer is killed before and after each step of a job, and another one goes on."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from enqueue import aio
from support.crash_cases import EARLY, JOB, Pods, finish, settings_for
from support.crashing import Nursery, nursery
from support.history import History, What, violations
from support.witnesses import FaktoryProxy, WitnessedKube, monitored

pytestmark = [pytest.mark.faktory, pytest.mark.asyncio(loop_scope="module")]
BOTH = ("S2 plan", "S2 record", "S3 create", "S4 secret", "S5 running", "S5 log", "S6 log end", "S7 outcome")
STEPS = [
    ("S1 fetched", "after"),
    ("S1 faktory", "after"),
    *((step, when) for step in BOTH for when in ("before", "after") if (step, when) != ("S7 outcome", "after")),
    ("S6 ended", "after"),
    ("S9 delete", "after"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def consumers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    async with nursery(tmp_path_factory.mktemp("consumers")) as found:
        yield found


@pytest.fixture
def faktory_place() -> tuple[str, int]:
    url = urlsplit(os.environ.get("FAKTORY_URL", ""))
    if not url.hostname:
        pytest.skip("FAKTORY_URL names no server")
    return url.hostname, url.port or 7419


@pytest.mark.parametrize(("step", "when"), STEPS, ids=lambda value: value)
async def test_faktory(
    step: str, when: str, consumers: Nursery, faktory_place: tuple[str, int], redis_url: str, tmp_path: Path
) -> None:
    history, pods, name = History(slots=5), Pods(), f"longshore-test-{secrets.token_hex(6)}"
    if not step.startswith(EARLY):
        pods.go_on.set()
    async with (
        monitored(redis_url, history),
        WitnessedKube(history, script=pods) as kube,
        FaktoryProxy(*faktory_place, history) as proxy,
        aio.connect(proxy.url, records=redis_url, queue=name) as queue,
    ):
        options = {"records_url": redis_url, "queues": (name,)}
        handle = await queue.enqueue(JOB)
        first = await consumers.start(settings_for(kube, proxy.url, tmp_path, "first", **options), (step, when))
        assert await first.ended() == -signal.SIGKILL
        pods.go_on.set()
        second = await consumers.start(settings_for(kube, proxy.url, tmp_path, "second", **options))
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
    assert history.of(What.TOLD, handle.id)
