"""A log that ended as if all were said: was it?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from consumer.executors.kubernetes import logs
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.logs import DELETED, Streams, follow
from consumer.executors.kubernetes.position import ROTATED
from consumer.model import Gap, LogPart
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import Steady

CLOSED = 1_000.4
"""When the connection ends, by our clock."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr(logs, "PAUSE_FIRST", 0.001)
    monkeypatch.setattr(logs, "PAUSE_CAP", 0.001)
    monkeypatch.setattr(logs, "END_SECONDS", 60.0)
    monkeypatch.setattr(logs, "time", SimpleNamespace(time=lambda: CLOSED, monotonic=time.monotonic))


class Waiting(Steady):
    """Says when the follower waits for the word on the end of what it has read."""

    def __init__(self) -> None:
        super().__init__(ended=False)
        self.waits = asyncio.Event()

    async def changed(self, timeout: float | None = None) -> None:
        if timeout is not None and timeout > 1:
            self.waits.set()
        await super().changed(timeout)


class Reading:
    """A log that is followed, and of which all has come that was written: `one`."""

    def __init__(self, kube: FakeKube, pod: FakePod, source: Waiting, parts: AsyncIterator[LogPart]) -> None:
        self.kube, self.pod, self.log, self.source = kube, pod, pod.logs["main"], source
        self.parts: list[LogPart] = []
        self.whole = asyncio.create_task(self._read(parts))

    async def _read(self, parts: AsyncIterator[LogPart]) -> tuple[bytes, list[Gap]]:
        async for part in parts:
            self.parts.append(part)
        found = b"".join(part for part in self.parts if isinstance(part, bytes))
        return found, [part for part in self.parts if isinstance(part, Gap)]

    @property
    def requests(self) -> int:
        return self.kube.verbs().count("get pods/log")

    async def breaks(self) -> None:
        """The connection ends, cleanly, and the follower knows."""
        self.log.rotate(kept=len(self.log.lines))
        await self.source.waits.wait()

    def ends(self, finished_at: float | None) -> None:
        """And so does the container."""
        self.pod.end(0)
        self.source.finished_at = finished_at
        self.source.set(ended=True)


@pytest.fixture
async def reading(kube: FakeKube, api: Api) -> Reading:
    async def script(pod: FakePod) -> None:
        pod.schedule()
        pod.run()
        pod.write(b"one\n", at=999 * 10**9)

    kube.script = script
    body: dict[str, Any] = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main"}]}}
    await api.request("POST", path_of("jobs", "pods"), body=body)
    await kube.until(lambda kube: bool(kube.pods["p"].logs["main"].lines))
    source = Waiting()
    found = Reading(kube, kube.pods["p"], source, follow(api, "jobs", "p", "main", source, Streams(9)))
    await found.log.read.wait()
    return found


@pytest.mark.row(34)
@pytest.mark.parametrize(
    ("finished_at", "usual", "requests"),
    [(1_001, 60, 2), (1_000, 60, 1), (1_000, -1, 2), (999, -1, 1), (None, -1, 1)],
    ids=["it ended later", "it ended then", "told late", "it had ended, told late", "nobody knows when"],
)
async def test_what_was_written_after_a_connection_broke_as_if_all_were_said(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, finished_at: float | None, usual: float, requests: int
) -> None:
    monkeypatch.setattr(logs, "TOLD_SECONDS", usual)
    await reading.breaks()
    reading.pod.write(b"two\n", at=1_000 * 10**9)
    reading.ends(finished_at)
    assert await reading.whole == (b"one\ntwo\n" if requests == 2 else b"one\n", [])
    assert reading.requests == requests


async def test_a_log_that_ends_after_its_container_is_whole(reading: Reading) -> None:
    reading.source.finished_at = 2_000
    reading.source.set(ended=True)
    reading.pod.end(0)
    assert await reading.whole == (b"one\n", [])
    assert reading.requests == 1


async def test_what_cannot_be_read_on_is_a_gap(reading: Reading) -> None:
    await reading.breaks()
    reading.pod.vanish()
    reading.ends(1_001)
    assert await reading.whole == (b"one\n", [DELETED])


async def test_a_log_of_which_nothing_is_left_may_lack_lines(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "END_SECONDS", 0.0)
    reading.log.rotate()
    await reading.kube.until(lambda kube: reading.requests > 1)
    reading.ends(999)
    assert await reading.whole == (b"one\n", [ROTATED])


async def test_a_connection_that_ends_before_it_has_brought_what_is_known_is_not_the_last(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "END_SECONDS", 0.0)
    lines = [*reading.log.lines, (1_000 * 10**9, b"two\n")]
    reading.log.rotate()
    reading.log.read.clear()
    await reading.log.read.wait()  # by the second connection, which has nothing to bring yet
    reading.ends(999)
    reading.log.lines = lines
    reading.log.rotate(kept=2)
    assert await reading.whole == (b"one\ntwo\n", [])
