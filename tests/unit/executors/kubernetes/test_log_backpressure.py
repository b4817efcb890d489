"""The cluster never waits for our sinks: a pod's log is read as fast as it comes, however slow they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from consumer.logs.follow import Desk, Follower
from consumer.model import LogPosition
from consumer.settings import Logs
from support.consuming import until
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import plan_of
from support.logs import MemorySink, claim

LINE = b"x" * 65_535 + b"\n"
LINES = 320  # 20 MiB: more than a log may hold while it waits, and than all connections' buffers


@pytest.mark.row(32)
async def test_a_pods_log_is_read_to_its_end_while_nothing_is_stored(
    kube: FakeKube, open_executor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.logs.spool.SLOW", 3600.0)  # who waits for room waits for ever

    async def talks(pod: FakePod) -> None:
        pod.schedule()
        pod.run()
        for _ in range(LINES):
            pod.write(LINE)
        pod.end(0)

    kube.script = talks
    executor, sink = await open_executor(), MemorySink()
    sink.gate.clear()
    execution = await executor.start(plan_of())
    follower = Follower(claim(), lambda claim, former: [sink], Logs(), Desk(2**30))
    follower.start(execution, LogPosition())
    try:
        await until(lambda: (read := follower.position().read) is not None and read.lines == LINES, 20)
    finally:
        sink.gate.set()
        await follower.finish(20)
    position = follower.position()
    assert position.lines == LINES
    assert [gap["reason"] for gap in position.gaps] == ["spool_full"]
    assert len(sink.data) == len(LINE) * (LINES - sum(gap["lines"] for gap in position.gaps))
