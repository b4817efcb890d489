"""Logs of a whole consumer in the places that its settings and its jobs name."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from enqueue import Job, aio
from enqueue.record import Status
from support.consuming import consuming


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
