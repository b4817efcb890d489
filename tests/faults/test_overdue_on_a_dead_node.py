"""A job is stopped for its deadline on a node that is gone: the next attempt isn't that pod, nor runs beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer.logs.follow import Follower
from enqueue import Status, aio
from support.consuming import until
from support.fake_cluster import consumer_on, enqueue
from support.fakekube import FakeKube
from support.fakekubelet import FakePod


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Follower.finish

    async def soon(self: Follower, patience: float) -> None:
        await finish(self, 0)

    monkeypatch.setattr(Follower, "finish", soon)
    monkeypatch.setattr("consumer.run.STOP_PATIENCE", 0.0)


async def dead(pod: FakePod) -> None:
    pod.obstinate = not pod.kube.created[1:]
    pod.schedule()
    pod.run()
    if not pod.obstinate:
        pod.end(0)


async def waits(handle: aio.AsyncHandle) -> bool:
    record = await handle.record()
    return record is not None and record.attempt == 2 and "doesn't say that it has ended" in (record.message or "")


@pytest.mark.parametrize("comes_back", [True, False])
async def test_one_dead_pod_uses_up_one_retry(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    monkeypatch.setattr("consumer.executors.kubernetes.judging.STUCK_SECONDS", 60 if comes_back else 1)
    async with FakeKube("jobs", script=dead) as kube, aio.connect(redis_url) as queue:
        async with consumer_on(kube, redis_url, tmp_path, jobs={"grace": 0}):
            [handle] = await enqueue(queue, 1, timeout=1, retries=3)
            await until(lambda: waits(handle))
            assert len(kube.created) == 1
            if comes_back:
                kube.pods[kube.names_created[0]].vanish()
            outcome = await handle.wait(30)
        record = await handle.record()
    reasons = [attempt.reason for attempt in record.attempts]
    if comes_back:
        assert (outcome.status, reasons, len(kube.created)) == (Status.SUCCEEDED, ["deadline", None], 2)
    else:  # only `infrastructure_retries` would allow one more
        assert (outcome.reason, reasons, len(kube.created)) == ("node_lost", ["deadline", "node_lost"], 1)
        assert record.attempts[1].where.node == "node-1"
