"""Files that a job leaves, on their way to real stores: one that is refused is told, and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import consumer.outputs as module
from consumer.executors.null import NullExecution
from consumer.model import Claim, Found, OutputPart
from consumer.outputs import Collector
from consumer.settings import Settings
from consumer.sinks import output_target
from enqueue.job import Job
from enqueue.record import Output
from support.s3_server import S3Server

CLAIM = Claim(id="j", queue="q", attempt=1, token="t", job=Job.load({"commands": ["true"], "outputs": True}))


class Left(NullExecution):
    def __init__(self, *parts: OutputPart) -> None:
        self.parts = parts

    async def outputs(self) -> AsyncIterator[OutputPart]:
        for part in self.parts:
            yield part


async def collect(settings: Settings, *parts: OutputPart) -> dict[str, Output]:
    """What is told of the files of a job whose secret is `hunter2`; well before a store that is away is given up."""
    target = output_target(settings)
    assert target is not None
    collecting = Collector(settings.outputs, target).collect(
        CLAIM, Left(*parts), lambda text: text.replace("hunter2", "***")
    )
    return {file.name: file for file in await asyncio.wait_for(collecting, 20)}


async def test_objects_that_a_bucket_refuses(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
    bucket = s3_server.make_bucket()
    s3_server.deny_writes(bucket, "*.key", "*~n1")
    settings = Settings(outputs={"store": "s3", "max_bytes": 13}, s3={"bucket": bucket, "endpoint": s3_server.endpoint})
    kept = await collect(
        settings, Found(b"a", 3), b"one", Found(b"of/hunter2", 4), b"dark", Found(b"b.key", 10), b"0123456789",
        Found(b"c", 9), b"the last ", Found(b"d.key"),
    )  # fmt: skip
    assert list(kept) == ["a", "of/***", "b.key", "c", "d.key"]
    why = f"not kept: S3 at {s3_server.endpoint}/{bucket}: HTTP 403"
    assert [file.problem for file in kept.values()] == [None, why, why, None, why]  # what isn't kept takes no room
    assert [kept[name].size for name in ("of/***", "b.key", "d.key")] == [4, 10, 0]
    for name, text in (("a", b"one"), ("c", b"the last ")):
        assert s3_server.read(bucket, f"q/j/1.outputs/{name}") == text


async def test_paths_that_a_file_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A former job of the same id has left other files; one path is too long. None of that passes."""
    monkeypatch.setattr(module, "PATIENCE", 1000)
    folder = tmp_path / "q/j/1.outputs"
    (folder / "a").mkdir(parents=True)
    (folder / "b").touch()
    deep = b"/".join([b"d" * 140] * 40)
    settings = Settings(outputs={"store": "file"}, files={"directory": tmp_path})
    kept = await collect(
        settings, Found(b"first", 1), b"1", Found(b"a", 1), b"2", Found(b"b/c", 1), b"3", Found(deep, 1), b"4",
        Found(b"last", 1), b"5",
    )  # fmt: skip
    told = [str(file.problem).rpartition(": ")[2] for file in kept.values()]
    assert told == ["None", "Is a directory", "Not a directory", "File name too long", "None"]
    assert kept["b/c"].problem == f"not kept: {folder}/b/c: Not a directory"
    assert ((folder / "first").read_text(), (folder / "last").read_text()) == ("1", "5")
