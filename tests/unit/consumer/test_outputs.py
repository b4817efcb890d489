"""Files on their way to a store: bounds, trouble, and what the Record says of each."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import consumer.outputs as module
from consumer.executors.null import NullExecution
from consumer.model import Claim, Found, OutputPart
from consumer.once import run_once
from consumer.outputs import Collector
from consumer.settings import Outputs, Settings
from consumer.storing import Away, Broken, Refused
from enqueue.job import Job
from enqueue.record import Output


class Shelf:
    """A store in memory; `trouble` comes with each put."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.closed: list[str] = []
        self.trouble: Exception | None = None

    def place(self, path: str) -> Any:
        shelf = self

        class Place:
            url, part, resumes = f"shelf:{path}", 4, False

            async def put(self, offset: int, data: bytes, *, last: bool) -> None:
                if shelf.trouble is not None:
                    raise shelf.trouble
                assert len(shelf.files.get(path, b"")) >= offset
                shelf.files[path] = shelf.files.get(path, b"")[:offset] + data

            async def close(self, size: int) -> None:
                assert len(shelf.files[path]) == size
                shelf.closed.append(path)

            async def abandon(self) -> None:
                shelf.files.pop(path, None)

        return Place()


class Left(NullExecution):
    def __init__(self, *parts: OutputPart | Exception) -> None:
        self.parts = parts

    async def outputs(self) -> AsyncIterator[OutputPart]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    monkeypatch.setattr(module, "PAUSE", 0.001)
    monkeypatch.setattr(module, "FILE_PART", 4)
    return Shelf()


async def collect(
    shelf: Shelf, *parts: OutputPart | Exception, mask: Callable[[str], str] = str, **settings: Any
) -> tuple[Output, ...]:
    job = Job.load({"commands": ["true"], "outputs": True})
    claim = Claim(id="j", queue="q", attempt=1, token="t", job=job)
    collector = Collector(Outputs(store="file", **settings), shelf.place)
    return await collector.collect(claim, Left(*parts), mask)


async def test_files_go_in_parts_and_are_told_with_their_hash(shelf: Shelf) -> None:
    kept = await collect(
        shelf, Found(b"a/b", 10), b"012", b"3456789 and more", Found(b"..", 0), Found(b"c", 4), b"abcd"
    )
    assert shelf.files == {
        "q/j/1.outputs/a/b": b"0123456789",
        "q/j/1.outputs/~2E.": b"",
        "q/j/1.outputs/c": b"abcd",
    }
    assert (kept[0].name, kept[0].size, kept[0].url) == ("a/b", 10, "shelf:q/j/1.outputs/a/b")
    assert kept[0].sha256 == hashlib.sha256(b"0123456789").hexdigest()
    assert len(shelf.closed) == 3


async def test_bounds_are_told(shelf: Shelf) -> None:
    kept = await collect(
        shelf, Found(b"a", 3), b"abc", Found(b"b", 3), b"abc", Found(b"c", 2), b"ab", max_bytes=5, max_files=9
    )
    assert [(file.name, file.problem) for file in kept] == [
        ("a", None), ("b", "not kept: all together would be more than 5 bytes"), ("c", None),
    ]  # fmt: skip
    kept = await collect(shelf, *[Found(b"%d" % n) for n in range(5)], max_files=2)
    assert [file.name for file in kept] == ["0", "1", "..."]
    assert kept[-1].problem == "there are more than 2 files: what follows wasn't kept"


async def test_a_file_that_shrinks_is_not_kept(shelf: Shelf) -> None:
    kept = await collect(shelf, Found(b"a", 10), b"abcdef", Found(b"b", 1), b"x")
    assert kept[0].problem == "not kept: it became shorter than its 10 bytes while it was read"
    assert list(shelf.files) == ["q/j/1.outputs/b"]


@pytest.mark.parametrize(
    ("where", "trouble"),
    [
        ("store", Away("it is away")),
        ("store", ValueError("a bug")),
        ("source", Refused("the pod is gone")),
        ("source", ValueError("a bug")),
    ],
)
async def test_trouble_is_told_and_never_raised(shelf: Shelf, trouble: Exception, where: str) -> None:
    if where == "store":
        shelf.trouble = trouble
        kept = await collect(shelf, Found(b"a", 3), b"abc", Found(b"b", 1), b"x")
    else:
        kept = await collect(shelf, Found(b"a", 3), b"ab", trouble)
    assert (kept[0].name, kept[0].problem) == ("a", "not kept as a whole")
    told = "internal error (ValueError)" if isinstance(trouble, ValueError) else str(trouble)
    assert kept[1].problem == f"what follows wasn't kept: {told}"
    assert not shelf.files


@pytest.mark.parametrize("trouble", [Broken("Read-only file system"), Refused("no such bucket")])
async def test_a_file_that_is_refused_is_told_and_the_next_one_tried(
    shelf: Shelf, trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1000)
    shelf.trouble = trouble
    kept = await collect(shelf, Found(b"a", 6), b"abc", b"def", Found(b"b", 1), b"x", max_bytes=6)
    assert [(file.name, file.size, file.problem) for file in kept] == [
        ("a", 6, f"not kept: {trouble}"), ("b", 1, f"not kept: {trouble}"),
    ]  # fmt: skip
    assert not shelf.files


async def test_secrets_in_names_are_masked(shelf: Shelf) -> None:
    found = Found(b"hunter2/a.txt"), Found(b"hunter3/a.txt")
    kept = await collect(shelf, *found, mask=lambda text: text.replace("hunter2", "***").replace("hunter3", "***"))
    assert [output.name for output in kept] == ["***/a.txt"] * 2
    assert len(shelf.files) == 2
    assert not [path for path in (*shelf.files, kept[0].url or "", kept[1].url or "") if "hunter" in path]


def texts(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.rglob("a")]


async def test_a_job_that_is_tried_without_a_queue_has_its_files_kept_too(tmp_path: Path) -> None:
    settings = Settings(outputs={"store": "file"}, files={"directory": tmp_path})
    job = Job.load({"commands": ['printf one > "$LONGSHORE_OUTPUTS/a"'], "outputs": True})
    record = await run_once(job, settings, io.BytesIO())
    [output] = record.outputs
    assert output.url is not None
    assert output.url.startswith(tmp_path.as_uri())
    assert texts(tmp_path) == ["one"]
