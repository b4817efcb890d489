"""Logs of a whole consumer in the places that its settings and its jobs name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from enqueue import Job, aio
from enqueue.record import Status
from support.consuming import consuming, until


def path_in(url: str | None) -> Path:
    assert url is not None
    return Path(unquote(urlsplit(url).path))


async def test_a_log_goes_where_settings_and_jobs_say(redis_url: str, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"logs": {"sinks": ["record", "file"]}, "files": {"directory": tmp_path}}
    secret = [{"name": "T", "value": "s3cret-token", "sensitive": True}]
    async with consuming(redis_url, **flags), aio.connect(redis_url) as queue:
        both = await queue.enqueue(Job(commands=["echo one $T"], variables=secret))
        alone = await queue.enqueue(Job(commands=["seq 1000"], logs=["file"]))
        wrong = await queue.enqueue(Job(commands=["true"], logs=["console"]))
        for handle in (both, alone, wrong):
            await handle.wait(30)
        records = [await handle.record() for handle in (both, alone, wrong)]
        shown = b"".join([part async for part in both.logs()])
    assert [record.status for record in records] == [Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED]
    assert shown == path_in(records[0].log.links[0].url).read_bytes() == b"one ***\n"
    assert records[1].log.stream is None
    assert records[1].log.lines == 1000
    assert path_in(records[1].log.links[0].url).read_bytes().splitlines() == [b"%d" % n for n in range(1, 1001)]
    assert records[2].reason == "refused"
    assert str(records[2].message).startswith("logs: 'console' isn't allowed here")


async def test_a_sink_that_cant_work_fails_no_job(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    flags: dict[str, Any] = {
        "logs": {"sinks": ["record", "file"], "finish": 0.2},
        "files": {"directory": tmp_path / "file"},
    }
    async with consuming(redis_url, **flags), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(Job(commands=["echo one"]))
        outcome = await handle.wait(30)
        record = await handle.record()
    assert outcome.succeeded
    assert record.log.complete == "no_gap_seen"
    assert "Not a directory" in str(record.log.links[0].problem)


async def test_what_a_job_leaves_is_kept_or_told(redis_url: str, tmp_path: Path) -> None:
    """Odd names, a link to elsewhere, a file that is too large, one that isn't asked for, and none at all."""
    (tmp_path / "secret").write_text("not for you")
    flags: dict[str, Any] = {
        "outputs": {"store": "file", "max_bytes": 1000, "max_files": 6},
        "files": {"directory": tmp_path / "kept"},
    }
    commands = [
        'cd "$LONGSHORE_OUTPUTS"',
        "mkdir -p a/b && printf one > a/b/one.txt && : > empty.txt",
        f"ln -s {tmp_path}/secret link.txt && mkfifo pipe.txt",
        "head -c 2000 /dev/zero > large.txt && printf x > other.xml",
        "printf odd > \"$(printf '\\377 \\n.txt')\"",
        "exit 3",
    ]
    async with consuming(redis_url, **flags), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(Job.load({"commands": commands, "outputs": {"include": ["*.txt"]}}))
        none = await queue.enqueue(Job.load({"commands": ["true"], "outputs": True}))
        assert (await handle.wait(30)).exit_code == 3
        assert (await none.wait(30)).succeeded
        outputs = {output.name: output for output in (await handle.record()).outputs}
        assert (await none.record()).outputs == ()
    assert sorted(outputs) == ["\\xff \n.txt", "a/b/one.txt", "empty.txt", "large.txt", "link.txt", "pipe.txt"]
    assert path_in(outputs["a/b/one.txt"].url).read_bytes() == b"one"
    assert path_in(outputs["empty.txt"].url).read_bytes() == b""
    assert path_in(outputs["\\xff \n.txt"].url).read_bytes() == b"odd"
    assert outputs["a/b/one.txt"].sha256 == hashlib.sha256(b"one").hexdigest()
    assert outputs["link.txt"].problem == "not kept: a symbolic link, which isn't followed"
    assert outputs["pipe.txt"].problem == "not kept: no regular file"
    assert outputs["large.txt"].problem == "not kept: all together would be more than 1,000 bytes"
    assert not [path for path in (tmp_path / "kept").rglob("*") if "large" in path.name or "other" in path.name]


async def test_whoever_goes_on_reads_back_what_its_own_store_lacks(redis_url: str, tmp_path: Path) -> None:
    """The next consumer has another folder: the part that the former one stored comes from the stream."""
    gate = tmp_path / "gate"
    commands = ["seq 5000", f"while [ ! -e {gate} ]; do sleep 0.05; done", "echo last"]
    flags: dict[str, Any] = {"logs": {"sinks": ["record", "file"]}, "process": {"directory": tmp_path / "jobs"}}
    async with aio.connect(redis_url) as queue:
        handle = await queue.enqueue(Job(commands=commands, timeout=60))
        async with consuming(redis_url, files={"directory": tmp_path / "one"}, **flags):
            former = tmp_path / "one/default" / handle.id / "1.log"
            await until(lambda: former.exists() and former.read_bytes().endswith(b"5000\n"))
        gate.touch()
        async with consuming(redis_url, files={"directory": tmp_path / "two"}, **flags):
            assert (await handle.wait(30)).succeeded
            record = await handle.record()
    wanted = b"".join(b"%d\n" % n for n in range(1, 5001))
    assert former.read_bytes() == wanted
    assert path_in(record.log.links[0].url).read_bytes() == wanted + b"last\n"
    assert record.log.links[0].problem is None
