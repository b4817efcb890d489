"""The collector beside a job that asks for outputs, and what is made of what it says."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from consumer.executors.kubernetes import executor as executor_module
from consumer.executors.kubernetes.manifest import build
from consumer.executors.kubernetes.outputs import COLLECTOR, PLACE, Shelf, unpacked
from consumer.executors.tar_stream import read_tar
from consumer.model import Found, OutputPart
from consumer.settings import Kubernetes
from consumer.storing import Refused
from support.fakekube import FakeKube
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


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


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


@pytest.mark.parametrize("size", [1, 513, 100_000])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_files_come_out_of_what_the_pod_says(size: int, format: int) -> None:
    said = base64.encodebytes(gzip.compress(archive(format)))
    assert await files(read_tar(unpacked(pieces(said, size)))) == FILES


SAID = base64.encodebytes(gzip.compress(archive(), mtime=0))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"", "handed over nothing"),
        (SAID[: len(SAID) // 8 * 4], "cut off|damaged"),
        (SAID[40:], "damaged"),
        (SAID[:100] + SAID[152:], "damaged|broken"),
        (base64.b64encode(gzip.compress(archive()[:1500], mtime=0)), "cut off"),
        (base64.b64encode(gzip.compress(b"no tar" * 1000, mtime=0)), "broken archive"),
    ],
    ids=["nothing", "half", "no head", "a hole", "half a tar", "no tar"],
)
async def test_what_is_missing_or_damaged_is_never_taken_for_files(said: bytes, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        await files(read_tar(unpacked(pieces(said, 1000))))


async def stays(pod: FakePod) -> None:
    pod.write(SAID, COLLECTOR)


async def goes_once_it_was_read(pod: FakePod) -> None:
    pod.write(SAID, COLLECTOR)
    await pod.logs[COLLECTOR].read.wait()
    pod.logs[COLLECTOR].rotate()


async def goes_half_way_and_the_connection_ends(pod: FakePod) -> None:
    first, *rest = SAID.splitlines(keepends=True)
    pod.write(first, COLLECTOR)
    await pod.logs[COLLECTOR].read.wait()
    asked = len(pod.kube.ledger)
    pod.logs[COLLECTOR].rotate()
    await pod.kube.until(lambda kube: len(kube.ledger) > asked)
    pod.write(b"".join(rest), COLLECTOR)


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
