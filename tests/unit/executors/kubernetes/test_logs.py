"""Following a log: exact over any cuts, as the container wrote it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from consumer.executors.kubernetes import logs
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.logs import Streams, follow
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import Steady, parts_of, read

BASE = 1_795_000_000 * 10**9


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr(logs, "PAUSE_FIRST", 0.001)
    monkeypatch.setattr(logs, "PAUSE_CAP", 0.001)
    monkeypatch.setattr(logs, "END_SECONDS", 0.05)


async def ended_pod(kube: FakeKube, api: Api, lines: list[tuple[int, bytes]]) -> FakePod:
    async def script(pod: FakePod) -> None:
        pod.schedule()
        pod.run()
        for at, line in lines:
            pod.logs["main"].lines.append((at, line))
        pod.end(0)

    kube.script = script
    spec = {"containers": [{"name": "main"}]}
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    await api.request("POST", path_of("jobs", "pods"), body=body)
    await kube.until(lambda kube: kube.pods["p"].state() == "terminated")
    return kube.pods["p"]


def burst(count: int, seed: int) -> list[tuple[int, bytes]]:
    """Lines of which many share a timestamp and a second."""
    chosen, now, lines = random.Random(seed), BASE, []
    for i in range(count):
        now += chosen.choice([0, 0, 1, 1000, 10**7, 10**9])
        lines.append((now, b"line %d %s\n" % (i, b"x" * chosen.randrange(60))))
    return lines


@pytest.mark.parametrize("seed", range(5))
async def test_many_cuts_lose_and_repeat_nothing(kube: FakeKube, api: Api, seed: int) -> None:
    lines = burst(2000, seed)
    chosen = random.Random(seed)
    kube.cut_logs_after = [chosen.randrange(1, 40_000) for _ in range(40)]
    await ended_pod(kube, api, lines)
    assert await read(follow(api, "jobs", "p", "main", Steady(), Streams(9))) == b"".join(line for _, line in lines)
    assert kube.verbs().count("get pods/log") > 5


async def test_bytes_come_as_they_were_written(kube: FakeKube, api: Api) -> None:
    odd = [b"\x00\xff\x1b[31m\n", b"\n", b"\r\n", b" 2026-11-21T08:00:00.000000000Z fake\n", b"\xe2\x82", b""]
    long = b"y" * 3_000_000 + b"\n"
    lines = [(BASE, line) for line in [*odd[:4], long, b"last without newline"]]
    kube.cut_logs_after = [300_000, 2_000_000, 2_500_000]
    await ended_pod(kube, api, lines)
    assert await read(follow(api, "jobs", "p", "main", Steady(), Streams(9))) == b"".join(line for _, line in lines)


async def test_it_waits_for_the_start_and_for_the_end(kube: FakeKube, api: Api) -> None:
    async def script(pod: FakePod) -> None:
        pod.schedule()

    kube.script = script
    source = Steady(readable=False, ended=False)
    body: dict[str, Any] = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main"}]}}
    await api.request("POST", path_of("jobs", "pods"), body=body)
    reading = asyncio.create_task(read(follow(api, "jobs", "p", "main", source, Streams(9))))
    await kube.until(lambda kube: kube.pods["p"].object["spec"].get("nodeName") is not None)
    assert kube.verbs().count("get pods/log") == 0
    source.set(readable=True, ended=False)  # too early: 400 until the container runs
    await kube.until(lambda kube: kube.verbs().count("get pods/log") >= 2)
    pod = kube.pods["p"]
    pod.run()
    pod.write(b"one\n")
    pod.write(b"two")
    pod.end(0)
    source.set()
    assert await reading == b"one\ntwo"


async def test_a_clean_end_before_the_containers_end_is_read_on(kube: FakeKube, api: Api) -> None:
    source = Steady(ended=False)
    pod = await ended_pod(kube, api, [(BASE, b"one\n")])
    reading = asyncio.create_task(read(follow(api, "jobs", "p", "main", source, Streams(9))))
    await kube.until(lambda kube: kube.verbs().count("get pods/log") >= 2)
    pod.logs["main"].lines.append((BASE + 5, b"two\n"))
    await kube.until(lambda kube: kube.verbs().count("get pods/log") >= 4)
    source.set()
    assert await reading == b"one\ntwo\n"


@pytest.mark.parametrize("readable", [True, False])
async def test_a_pod_that_is_gone_ends_the_log(kube: FakeKube, api: Api, readable: bool) -> None:
    """Whatever it wrote, if it ran, is lost."""
    parts = await parts_of(follow(api, "jobs", "none", "main", Steady(readable=readable), Streams(9)))
    assert parts == ([logs.DELETED] if readable else [])


async def test_a_failing_kubelet_is_asked_again(kube: FakeKube, api: Api) -> None:
    kube.fault("get pods/log", status=500, message="dial tcp: connection refused", times=3)
    await ended_pod(kube, api, [(BASE, b"one\n")])
    assert await read(follow(api, "jobs", "p", "main", Steady(), Streams(9))) == b"one\n"


async def test_a_busy_cluster_may_answer_late(kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "OPEN_SECONDS", 0.01)
    kube.fault("get pods/log", delay=0.2, times=100)
    await ended_pod(kube, api, [(BASE, b"one\n")])
    assert await read(follow(api, "jobs", "p", "main", Steady(), Streams(9))) == b"one\n"
    assert kube.verbs().count("get pods/log") == 1


@pytest.mark.parametrize("silent", ["before its first byte", "after it"])
async def test_a_silent_connection_of_an_ended_container_is_given_up(
    kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(logs, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(logs, "STALL_SECONDS", 0.05)
    source = Steady(ended=False)
    pod = await ended_pod(kube, api, [(BASE, b"one\n")])
    pod.logs["main"].closed = False  # the connection hangs
    if silent == "before its first byte":
        kube.fault("get pods/log", delay=3600)
    reading = asyncio.create_task(read(follow(api, "jobs", "p", "main", source, Streams(9))))
    await kube.until(lambda kube: "get pods/log" in kube.verbs())
    pod.logs["main"].lines.append((BASE + 1, b"two\n"))
    source.set()
    assert await reading == b"one\ntwo\n"
    assert [row.query["follow"] for row in kube.ledger if row.sub] == ["true", "false"]


async def test_the_end_of_a_long_log_is_read_once_more(
    kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "ROTATED_BYTES", 1000)
    lines = burst(200, 1)
    await ended_pod(kube, api, lines)
    assert await read(follow(api, "jobs", "p", "main", Steady(), Streams(9))) == b"".join(line for _, line in lines)
    assert kube.verbs().count("get pods/log") == 2


async def test_a_log_that_ends_within_a_line_is_read_once_more(kube: FakeKube, api: Api) -> None:
    """The kubelet gave the end before the container's runtime had written all of it."""
    lines = [(BASE, b"one\n"), (BASE + 1, b"tw")]
    pod = await ended_pod(kube, api, lines)

    class Writes(Steady):
        """What was missing is there once the log was asked for."""

        def ended(self) -> bool:
            if "get pods/log" in kube.verbs():
                pod.logs["main"].lines[1:] = [(BASE + 1, b"two\n"), (BASE + 2, b"three\n")]
            return True

    found = await read(follow(api, "jobs", "p", "main", Writes(), Streams(10)))
    assert found == b"one\ntwo\nthree\n"
