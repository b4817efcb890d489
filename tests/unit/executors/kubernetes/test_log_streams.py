"""Logs of pods on the fake API server: which are followed, and what rotation and removal leave of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consumer.executors.kubernetes import logs
from consumer.executors.kubernetes.position import ROTATED
from consumer.executors.kubernetes.status import _container
from consumer.executors.kubernetes.steps import StepLog
from consumer.model import Gap, LogPart, Place, Times
from support.fakekube import FakeKube
from support.fakekubelet import FakePod
from support.kubernetes import parts_of, plan_of, read

Open = Callable[..., Any]
BASE = 1_795_000_000 * 10**9


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr(logs, "PAUSE_FIRST", 0.001)
    monkeypatch.setattr(logs, "PAUSE_CAP", 0.001)
    monkeypatch.setattr(logs, "END_SECONDS", 0.01)


async def runs(pod: FakePod) -> None:
    pod.schedule()
    pod.run()


def follows(kube: FakeKube, pod: str) -> list[str]:
    return [row.query["follow"] for row in kube.ledger if row.sub == "log" and row.name == pod]


async def started(executor: Any, kube: FakeKube, job: str) -> tuple[Any, FakePod, asyncio.Task[bytes]]:
    execution = await executor.start(plan_of(job))
    await execution.started()
    return execution, kube.pods[execution.where.pod], asyncio.create_task(read(execution.logs()))


async def test_above_the_limit_a_log_is_read_at_its_end(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs
    executor = await open_executor(log_streams=1)
    _, first, one = await started(executor, kube, "one")
    await kube.until(lambda kube: follows(kube, first.name) == ["true"])
    _, second, two = await started(executor, kube, "two")
    _, third, three = await started(executor, kube, "three")
    second.write(b"second\n")
    second.end()
    assert await two == b"second\n"
    assert follows(kube, second.name) == ["false"]
    assert follows(kube, third.name) == []
    first.end()
    assert await one == b""
    await kube.until(lambda kube: follows(kube, third.name) == ["true"])  # a stream is free
    third.write(b"third\n")
    third.end()
    assert await three == b"third\n"
    assert len(follows(kube, third.name)) == 1


async def test_a_log_begins_when_it_may_be_followed_or_has_ended(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs
    executor = await open_executor(log_streams=1)
    _, first, one = await started(executor, kube, "one")
    await kube.until(lambda kube: follows(kube, first.name) == ["true"])
    others = [await executor.start(plan_of(job)) for job in ("ends", "watched", "next", "left")]
    begins = [asyncio.create_task(execution.log_begins()) for execution in others]
    for execution in others:
        await execution.started()
    await asyncio.sleep(0)
    assert not any(task.done() for task in begins)
    kube.pods[others[0].where.pod].end()
    await begins[0]
    others[1].watched(60)
    await begins[1]
    assert not any(task.done() for task in begins[2:])
    first.end()
    await one
    await asyncio.gather(*begins[2:])  # neither takes what is free


async def test_a_log_that_somebody_watches_is_followed_at_once(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs
    executor = await open_executor(log_streams=0)
    execution, pod, reading = await started(executor, kube, "one")
    assert follows(kube, pod.name) == []
    execution.watched(60)
    await kube.until(lambda kube: follows(kube, pod.name) == ["true"])
    pod.write(b"live\n")
    pod.end()
    assert await reading == b"live\n"


async def test_a_reader_that_is_let_go_frees_its_stream(kube: FakeKube, open_executor: Open) -> None:
    kube.script = runs
    executor = await open_executor(log_streams=1)
    _, first, one = await started(executor, kube, "one")
    await kube.until(lambda kube: follows(kube, first.name) == ["true"])
    _, second, two = await started(executor, kube, "two")
    _, third, three = await started(executor, kube, "three")
    two.cancel()
    one.cancel()
    await asyncio.gather(one, two, return_exceptions=True)
    await kube.until(lambda kube: follows(kube, third.name) == ["true"])
    assert follows(kube, second.name) == []
    three.cancel()
    await asyncio.gather(three, return_exceptions=True)


async def gather(chunks: Any, parts: list[LogPart], wanted: bytes = b"", there: asyncio.Event | None = None) -> None:
    async for part in chunks:
        parts.append(part)
        if there is not None and wanted in b"".join(part for part in parts if isinstance(part, bytes)):
            there.set()


@pytest.mark.parametrize(("kept", "lost"), [(5, False), (3, False), (2, True)])
async def test_a_rotation_while_the_log_is_read(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch, kept: int, lost: bool
) -> None:
    """Rows 31 to 33: lines 3 and 4 come while nobody is connected; of the five, the last `kept` are left."""
    monkeypatch.setattr(logs, "ROTATED_BYTES", 1)
    kube.script = runs
    execution = await (await open_executor()).start(plan_of())
    await execution.started()
    pod, parts = kube.pods[execution.where.pod], list[LogPart]()
    there = asyncio.Event()
    reading = asyncio.create_task(gather(execution.logs(), parts, b"line 2\n", there))
    for n in range(3):
        pod.write(b"line %d\n" % n, at=BASE + n * 10**9)
    await kube.until(lambda kube: follows(kube, pod.name) != [])
    await asyncio.wait_for(there.wait(), 20)
    log = pod.logs["main"]
    log.lines += [(BASE + n * 10**9, b"line %d\n" % n) for n in (3, 4)]  # not seen by the follower yet
    log.rotate(kept)
    pod.end()
    await asyncio.wait_for(reading, 20)
    gaps = [part for part in parts if isinstance(part, Gap)]
    assert gaps == ([ROTATED] if lost else [])
    data = b"".join(part for part in parts if isinstance(part, bytes))
    assert data == b"".join(b"line %d\n" % n for n in range(5))


async def test_a_restart_reads_on_from_its_place(kube: FakeKube, open_executor: Open) -> None:
    """Init and main step; then with the head of the log rotated away, with what was read and with more."""
    places: list[str] = []

    async def both(pod: FakePod) -> None:
        pod.schedule()
        pod.run("init")
        pod.write(b"init\n", "init")
        pod.end(0, step="init")
        pod.run()
        for n in range(4):
            pod.write(b"line %d\n" % n, at=BASE + n * 10**9)
        pod.end(0)

    kube.script = both
    execution = await (await open_executor()).start(plan_of(init={"commands": ["true"]}))
    await execution.wait()
    whole = await parts_of(execution.logs())
    places = [part.at for part in whole if isinstance(part, Place)]
    data = b"init\n" + b"".join(b"line %d\n" % n for n in range(4))
    assert [at.split(" ")[:2] for at in places] == [["init", "1"], ["main", "4"]]
    for at in places:
        again = await parts_of(execution.logs(at))
        assert b"".join(part for part in again if isinstance(part, bytes)) == data
        assert Place(at) in again
        assert not [part for part in again if isinstance(part, Gap)]
    log = kube.pods[execution.where.pod].logs["main"]
    log.lines.append((BASE + 9 * 10**9, b"more\n"))
    log.rotate(1)
    again = await parts_of(execution.logs(places[-1]))
    assert again[again.index(ROTATED) + 1 :][:2] == [Times(((0, BASE // 10**6 + 9000),), 1), b"more\n"]


async def test_what_a_deleted_pod_takes_with_it_is_a_gap(kube: FakeKube, open_executor: Open) -> None:
    """Row 35: it is cut while it is read, and gone then."""
    kube.script = runs
    kube.cut_logs_after = [40]
    execution = await (await open_executor()).start(plan_of())
    await execution.started()
    pod, parts = kube.pods[execution.where.pod], list[LogPart]()
    kube.faults.clear()
    reading = asyncio.create_task(gather(execution.logs(), parts))
    await kube.until(lambda kube: len(follows(kube, pod.name)) == 1)
    kube.fault("get pods/log", status=500, times=100_000)
    pod.write(b"one\ntwo\n")
    await kube.until(lambda kube: len(follows(kube, pod.name)) > 1)
    kube.faults.clear()
    pod.vanish()
    await asyncio.wait_for(reading, 20)
    assert parts[-1] == logs.DELETED


async def test_a_kubelet_that_has_no_log_is_believed_soon(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "REFUSED_SECONDS", 0.01)
    body = b"unable to retrieve container logs for containerd://0123"
    kube.fault("get pods/log", status=200, body=body, times=100_000)
    execution = await (await open_executor()).start(plan_of())
    await execution.wait()
    assert await parts_of(execution.logs()) == [logs.UNREADABLE]


@pytest.mark.row(20)
async def test_a_log_that_nobody_may_read_says_why(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "GIVE_UP_SECONDS", 0.0)
    executor = await open_executor()
    kube.forbidden.add("get pods/log")
    execution = await executor.start(plan_of())
    await execution.wait()
    (gap,) = await parts_of(execution.logs())
    assert isinstance(gap, Gap)
    assert (gap.reason, "may not get pods/log" in (gap.message or "")) == ("unreadable", True)


@pytest.mark.parametrize("rotated", [False, True])
async def test_a_file_that_a_stream_was_led_past(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch, rotated: bool
) -> None:
    """Row 32: a stream that jumps in time after many bytes, and whose last line isn't in the current file any more."""
    monkeypatch.setattr(logs, "ROTATED_BYTES", 100)
    kube.script = runs
    execution = await (await open_executor()).start(plan_of())
    await execution.started()
    pod, parts, there = kube.pods[execution.where.pod], list[LogPart](), asyncio.Event()
    pod.write(b"x" * 100 + b"\none\n", at=BASE)
    reading = asyncio.create_task(gather(execution.logs(), parts, b"one\n", there))
    await asyncio.wait_for(there.wait(), 20)
    log = pod.logs["main"]
    if rotated:  # the stream goes on, as a kubelet's does
        log.lines[:2] = [(BASE + 30 * 10**9, b"lost\n")] * 2
    pod.write(b"two\n", at=BASE + 60 * 10**9)
    pod.end()
    await asyncio.wait_for(reading, 20)
    assert [part for part in parts if isinstance(part, Gap)][:1] == ([ROTATED] if rotated else [])


async def test_a_container_that_never_was_there_has_no_log_to_miss(kube: FakeKube, open_executor: Open) -> None:
    """A pod whose image can't be pulled ends with a status that the kubelet made up; no gap is told then."""

    async def never(pod: FakePod) -> None:
        pod.schedule()

    kube.script = never
    execution = await (await open_executor()).start(plan_of())
    gone = {"reason": "ContainerStatusUnknown", "exitCode": 137, "message": "The container could not be located"}
    source = StepLog(execution, "main")
    execution._pod = replace(execution._pod, main=_container({"state": {"terminated": gone}}))
    assert not source.readable()
    assert source.ended()
    execution._pod = replace(execution._pod, main=_container({"state": {"terminated": {"exitCode": 0}}}))
    assert source.readable()
    await execution.detach()


async def test_a_server_that_asks_for_a_pause_gets_it(
    kube: FakeKube, open_executor: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PAUSE_CAP", 9.0)
    kube.script = runs
    executor = await open_executor()
    execution = await executor.start(plan_of())
    await execution.started()
    pod, slept, real = kube.pods[execution.where.pod], list[float](), asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr(logs.asyncio, "sleep", sleep)
    for seconds in ("8", "900"):
        kube.fault("get pods/log", status=429, headers={"Retry-After": seconds})
    reading = asyncio.create_task(read(execution.logs()))
    await kube.until(lambda kube: len(follows(kube, pod.name)) == 3)
    pod.write(b"said\n")
    pod.end()
    assert await reading == b"said\n"
    assert [seconds for seconds in slept if seconds >= 8.0] == [8.0, 9.0]
