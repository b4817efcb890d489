"""The collector beside a job that asks for outputs, and what is made of what it says."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from consumer.executors.kubernetes.manifest import build
from consumer.executors.kubernetes.outputs import COLLECTOR, PLACE, unpacked
from consumer.executors.tar_stream import read_tar
from consumer.model import Found, OutputPart
from consumer.settings import Kubernetes
from consumer.storing import Refused
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
    found = await files(read_tar(unpacked(pieces(said, size))))
    assert found == {
        b"a/one": b"1" * 700,
        b"x" * 300: b"long",
        b"odd\xff\n": b"",
        b"../up": b"u",
        b"link": "not kept: a symbolic link, which isn't followed",
        b"pipe": "not kept: no regular file",
    }


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
