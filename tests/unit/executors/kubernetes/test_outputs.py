"""The collector beside a job that asks for outputs, and what is made of what it says."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import os
import random
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.kubernetes import executor as executor_module
from consumer.executors.kubernetes import outputs
from consumer.executors.kubernetes.manifest import build
from consumer.executors.kubernetes.outputs import COLLECTOR, END, LINE, PLACE, Shelf, in_order, unpacked
from consumer.executors.tar_stream import read_tar
from consumer.model import Found, OutputPart
from consumer.settings import Kubernetes
from consumer.storing import Refused
from support.fakekube import FakeKube
from support.fakekube_http import Fault
from support.fakekubelet import FakePod, Script
from support.kubernetes import plan_of


def archive(format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in (("./a/one", b"1" * 700), ("x" * 300, b"long"), ("odd\udcff\n", b""), ("../up", b"u")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    return buffer.getvalue()


FILES = {
    b"a/one": b"1" * 700,
    b"x" * 300: b"long",
    b"odd\xff\n": b"",
    b"../up": b"u",
    b"link": "not kept: a symbolic link, which isn't followed",
    b"pipe": "not kept: no regular file",
}


async def files(parts: AsyncIterator[OutputPart]) -> dict[bytes, bytes | str]:
    found: dict[bytes, bytes | str] = {}
    name = b""
    async for part in parts:
        if isinstance(part, Found):
            name = part.name
            found[name] = part.problem or b""
        else:
            found[name] += part  # type: ignore[operator]
    return found


async def lines(*texts: bytes) -> AsyncIterator[bytes]:
    for text in texts:
        yield text


def numbered(packed: bytes) -> list[bytes]:
    """The lines that a collector makes of a packed tar."""
    text = base64.b64encode(packed)
    return [
        b"%d:%s" % (number, line)
        for number, line in enumerate([*(text[at : at + LINE] for at in range(0, len(text), LINE)), END], 1)
    ]


def large(*, size: int = 80_000) -> bytes:
    """A packed tar of one file that gzip can't make any smaller."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("large")
        member.size = size
        tar.addfile(member, io.BytesIO(random.Random(1).randbytes(size)))
    return gzip.compress(buffer.getvalue(), mtime=0)


LARGE = numbered(large())
FEW = numbered(gzip.compress(archive(), mtime=0))


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_files_come_out_of_what_the_pod_says(format: int) -> None:
    said = numbered(gzip.compress(archive(format)))
    assert await files(read_tar(unpacked(lines(*said)))) == FILES


@pytest.mark.parametrize(
    "said",
    [
        LARGE,
        [*LARGE[:3], *LARGE[5:], *LARGE],
        [*LARGE[4:], *LARGE],
        [*LARGE[:-2], LARGE[-1], *LARGE],
        [*LARGE[:3], LARGE[3][:4002] + LARGE[5], *LARGE[6:], *LARGE],
        [*LARGE[:3], LARGE[3][:4002], *LARGE[5:], *LARGE],
        [*LARGE[:5], LARGE[5][:100], *LARGE[2:]],
        [*LARGE[:2], b"", b"no number", *LARGE],
        [*LARGE[:-1], *LARGE[6:]],
    ],
    ids=[
        "all",
        "a gap",
        "no head",
        "the last one is missing",
        "two halves for a line",
        "half a line",
        "the connection broke",
        "something else",
        "the end was said twice",
    ],
)
async def test_what_was_missed_is_found_in_what_is_said_again(said: list[bytes]) -> None:
    assert await files(read_tar(unpacked(lines(*said)))) == {b"large": random.Random(1).randbytes(80_000)}


async def test_packed_files_whose_last_line_is_a_whole_one() -> None:
    packed = large(size=70_000)
    whole = packed + b"\0" * (-len(packed) % (LINE // 4 * 3))
    assert len(numbered(whole)[-2].partition(b":")[2]) == LINE
    assert b"".join([text async for text in in_order(lines(*numbered(whole)))]) == base64.b64encode(whole)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([], "handed over nothing"),
        ([b"1:" + END], "cut off"),
        (LARGE[:4], "missing"),
        (LARGE[1:], "missing"),
        ([*LARGE[:3], *LARGE[4:], *LARGE[4:]], "missing"),
        ([LARGE[0], LARGE[1].replace(b"a", b"b"), *LARGE[2:]], "damaged|broken"),
        ([*LARGE[:-2], LARGE[-2][:20], LARGE[-1]], "damaged|cut off"),
        ([b"1:!!!!", b"2:" + END], "damaged"),
        (numbered(gzip.compress(archive(), mtime=0)[:-20]), "cut off"),
        (numbered(gzip.compress(archive()[:1500], mtime=0)), "cut off"),
        (numbered(gzip.compress(b"no tar" * 1000, mtime=0)), "broken archive"),
    ],
    ids=[
        "nothing",
        "empty",
        "half",
        "no head",
        "a hole",
        "altered",
        "the last one is cut",
        "no base64",
        "half a gzip",
        "half a tar",
        "no tar",
    ],
)
async def test_what_is_missing_or_damaged_is_never_taken_for_files(said: list[bytes], problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        await files(read_tar(unpacked(lines(*said))))


@pytest.mark.parametrize("wraps", [True, False], ids=["base64 breaks lines", "fold does"])
@pytest.mark.parametrize(("size", "times"), [(100_000, 1), (3_000_000, 2)])
async def test_the_collector_says_what_is_long_enough_to_be_rotated_twice(
    tmp_path: Path, size: int, times: int, wraps: bool
) -> None:
    place, tools = tmp_path / "outputs", tmp_path / "tools"
    place.mkdir()
    tools.mkdir()
    (place / "large").write_bytes(random.Random(1).randbytes(size))
    if not wraps:
        (tools / "base64").write_text(f"#!/bin/sh\n[ $# = 0 ] && exec {shutil.which('base64')} -w 60; exit 1\n")
        (tools / "base64").chmod(0o755)
    pod = build(plan_of(outputs={}), Kubernetes()).pod
    command = [str(place) if part == PLACE else part for part in pod["spec"]["initContainers"][0]["command"]]
    # The signal comes from the script itself, once it listens: nothing here knows when it does.
    command[2] = command[2].replace("while :", "kill -TERM $$\nwhile :")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={"PATH": f"{tools}:{os.environ['PATH']}"}
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    half = len(said) // times
    assert said[half:] == said[:half] * (times - 1)
    assert all(len(line) <= LINE + 10 for line in said.splitlines())
    found = await files(read_tar(unpacked(lines(*said[:half].splitlines()))))
    assert found == {b"large": (place / "large").read_bytes()}


SAID = b"\n".join([*FEW, b""])


async def stays(pod: FakePod) -> None:
    pod.write(SAID, COLLECTOR)


async def goes_once_it_was_read(pod: FakePod) -> None:
    pod.write(SAID, COLLECTOR)
    await pod.logs[COLLECTOR].read.wait()
    pod.logs[COLLECTOR].rotate()


async def goes_half_way_and_the_connection_ends(pod: FakePod) -> None:
    pod.write(SAID[:100], COLLECTOR)
    await pod.logs[COLLECTOR].read.wait()
    asked = len(pod.kube.ledger)
    pod.logs[COLLECTOR].rotate()
    await pod.kube.until(lambda kube: len(kube.ledger) > asked)
    pod.write(SAID, COLLECTOR)


def handed_over(script: Script, *, early: bool) -> Script:
    """A life whose end the collector outlives until `script` has ended; `early`: and the consumer knows that."""

    async def hands_over(pod: FakePod) -> None:
        pod.schedule()
        pod.run()
        now = {"startedAt": "2026-01-01T00:00:00Z"}
        ended = {"terminated": {**now, "exitCode": 3, "reason": "Error", "finishedAt": "2026-01-01T00:00:01Z"}}
        pod.status(initContainerStatuses=[{"name": COLLECTOR, "state": {"running": now}}])
        if early:
            pod.status(containerStatuses=[{"name": "main", "state": ended}])
            await pod.kube.until(lambda kube: any(r.name == pod.name and "follow" in r.query for r in kube.ledger))
        await script(pod)
        pod.logs[COLLECTOR].closed = True
        pod.logs[COLLECTOR].poke()
        pod.status(containerStatuses=[{"name": "main", "state": ended}], phase="Failed")

    return hands_over


@pytest.mark.parametrize(
    ("script", "early", "cuts"),
    [
        (stays, True, ()),
        (goes_once_it_was_read, True, ()),
        (goes_half_way_and_the_connection_ends, True, ()),
        (stays, True, (10,)),
        (stays, False, ()),
    ],
    ids=["nothing rotated", "rotated at the end", "rotated half-way", "the connection breaks", "seen when it was over"],
)
async def test_what_a_node_rotates_away_was_read_while_it_was_written(
    kube: FakeKube, open_executor: Callable[..., Any], script: Script, early: bool, cuts: tuple[int, ...]
) -> None:
    kube.script, kube.cut_logs_after = handed_over(script, early=early), [*cuts]
    executor = await open_executor()
    execution = await executor.start(plan_of(outputs={}))
    async with asyncio.timeout(30):
        exit = await execution.wait()
        found = await files(execution.outputs())
    await execution.remove()
    assert exit.code == 3
    assert found == FILES


@pytest.mark.parametrize("early", [True, False], ids=["while it is written", "once it is over"])
@pytest.mark.parametrize(
    ("faults", "cuts"),
    [
        ([], (10, 100, 200)),
        ([Fault("get pods/log", 500, message="dial tcp: connection refused", times=2)], ()),
        ([Fault("get pods/log", 429, headers={"Retry-After": "0"}), Fault("get pods/log", drop="before")], (50,)),
    ],
    ids=["connections break", "the kubelet is away", "the API server is busy"],
)
async def test_trouble_on_the_way_costs_no_files(
    kube: FakeKube,
    open_executor: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    early: bool,
    faults: list[Fault],
    cuts: tuple[int, ...],
) -> None:
    monkeypatch.setattr(outputs, "PAUSE", 0.001)
    monkeypatch.setattr(outputs, "PAUSE_CAP", 0.001)
    kube.script, kube.cut_logs_after = handed_over(stays, early=early), [*cuts]
    executor = await open_executor()
    kube.faults = [replace(fault) for fault in faults]
    execution = await executor.start(plan_of(outputs={}))
    async with asyncio.timeout(30):
        await execution.wait()
        assert await files(execution.outputs()) == FILES
    assert [fault for fault in kube.faults if fault.times] == kube.cut_logs_after == []
    await execution.remove()


async def test_a_node_that_stays_away_is_given_up(
    kube: FakeKube, open_executor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "PAUSE", 0.001)
    monkeypatch.setattr(outputs, "PAUSE_CAP", 0.001)
    monkeypatch.setattr(outputs, "PATIENCE", 0.01)
    kube.script = handed_over(stays, early=False)
    executor = await open_executor()
    kube.faults = [Fault("get pods/log", 500, message="away", times=999)]
    execution = await executor.start(plan_of(outputs={}))
    async with asyncio.timeout(30):
        await execution.wait()
        with pytest.raises(Refused, match="away"):
            await files(execution.outputs())
    await execution.remove()


async def test_files_of_many_pods_wait_in_a_bounded_room(
    kube: FakeKube, open_executor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(archive())
    shelf = Shelf()
    shelf.free = size * 3 // 2
    monkeypatch.setattr(executor_module, "Shelf", lambda: shelf)
    kube.script = handed_over(stays, early=True)
    executor = await open_executor()
    executions = [await executor.start(plan_of(f"job-{number}", outputs={})) for number in range(2)]
    async with asyncio.timeout(30):
        for execution in executions:
            await execution.wait()
            assert await files(execution.outputs()) == FILES
        assert shelf.free == size // 2
    for execution in executions:
        await execution.remove()
    assert shelf.free == size * 3 // 2


def test_only_a_job_that_asks_gets_a_collector_and_it_gets_no_secret() -> None:
    variables = [{"name": "T", "value": "s3cret-token", "sensitive": True}]
    plain = build(plan_of(variables=variables), Kubernetes()).pod["spec"]
    spec = build(plan_of(variables=variables, outputs={"max_bytes": 1000}), Kubernetes()).pod["spec"]
    assert COLLECTOR not in str(plain)
    [collector] = spec["initContainers"]
    [main] = spec["containers"]
    assert collector["name"] == COLLECTOR
    assert collector["restartPolicy"] == "Always"
    assert collector["securityContext"] == main["securityContext"]
    assert "env" not in collector
    assert collector["volumeMounts"] == [{"name": "outputs", "mountPath": PLACE, "readOnly": True}]
    assert collector["command"][-2:] == [PLACE, str(1000 + 2**20)]
    assert {"name": "LONGSHORE_OUTPUTS", "value": PLACE} in main["env"]
    assert {"name": "outputs", "mountPath": PLACE} in main["volumeMounts"]
    assert spec["terminationGracePeriodSeconds"] == 30
    both = build(plan_of(init={"commands": ["true"]}, outputs={}), Kubernetes()).pod["spec"]
    assert [container["name"] for container in both["initContainers"]] == [COLLECTOR, "init"]
