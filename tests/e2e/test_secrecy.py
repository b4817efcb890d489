"""A job prints its secrets in every form: no stored or sent byte but the payload holds one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
import rq
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from consumer.sentry import Sentry
from consumer.telemetry import set_up_logging
from consumer.tracing import Tracing
from enqueue import Job, Variable, aio
from enqueue.seal import new_key
from support.consuming import consuming
from support.s3_server import S3Server
from support.secrecy import MINTED, PRINTING, SECRET, found_in, stored
from support.sentry import DSN, Kept
from support.stock import dashboard


@pytest.mark.usefixtures("own_log")
async def test_only_the_payload_holds_a_secret(
    redis_url: str,
    redis_client: redis.Redis,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Sealed in the queue. Record, stream, RQ's result, our log, metrics, Sentry's envelopes, spans, what is left on
    disk, logs in files, in S3 and on standard output, outputs' names, lists of processes, rq-dashboard's pages.
    """
    private, public = new_key()
    (tmp_path / "keys").write_text(private)
    kept, spans, bucket = Kept(), InMemorySpanExporter(), s3_server.make_bucket()
    monkeypatch.setattr("consumer.app.Sentry", lambda *args: Sentry(*args, transport=kept))
    monkeypatch.setattr("consumer.tracing.Tracing", lambda *args: Tracing(*args, spans))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-consumer")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-consumer")
    child = {"commands": ["echo the child"], "variables": [{"name": "T", "value": SECRET, "sensitive": True}]}
    job = Job(
        entrypoint=[sys.executable, "-c", PRINTING],
        variables=[
            Variable(name="TOKEN", value=SECRET, sensitive=True),
            Variable(name="CHILD", value=json.dumps(child), sensitive=True),
        ],
        outputs=True,
    ).seal(public)
    set_up_logging("debug", "json")
    flags: dict[str, Any] = {
        "jobs": {"seal_keys": tmp_path / "keys", "enqueue_to": ["default"]},
        "sentry": {"dsn": DSN},
        "process": {"directory": tmp_path / "jobs"},
        "logs": {"sinks": ["record", "file", "console", "s3"]},
        "outputs": {"store": "file"},
        "s3": {"bucket": bucket, "endpoint": s3_server.endpoint},
        "tracing": True,
        "files": {"directory": tmp_path / "logs"},
        "metrics_port": 0,
    }
    async with consuming(redis_url, **flags), aio.connect(redis_url) as queue:
        handle = await queue.enqueue(job)
        outcome = await handle.wait(30)
        record = await handle.record()
        (child_id,) = record.children
        born = queue.handle(child_id)
        assert (await born.wait(30)).succeeded
        assert (await born.record()).parent == handle.id
        log = b"".join([part async for part in handle.logs()])
        printed, said = capsys.readouterr()
        port = next(line["port"] for line in map(json.loads, said.splitlines()) if line["event"] == "metrics")
        async with aiohttp.request("GET", f"http://127.0.0.1:{port}/metrics") as answer:
            metrics = await answer.read()
    assert outcome.reason == "exit_code"
    assert log.count(b"***") >= 28
    assert b"it is ***\n" in log
    assert outcome.variables["leak"] == "***"
    assert outcome.variables["file"] == "*** ***"
    assert [(n.file, n.message) for n in outcome.notices] == [("***", "***")]
    assert kept.sent
    assert b"longshore_" in metrics
    assert '"event": "job_ended"' in said
    assert SECRET.encode() not in redis_client.hget(f"rq:job:{handle.id}", "data")
    told = rq.job.Job.fetch(handle.id, connection=redis_client).latest_result().exc_string
    found = found_in("log", log) + found_in("RQ's result", told.encode())
    found += found_in("our log", (said + "".join(capsys.readouterr())).encode()) + found_in("metrics", metrics)
    found += found_in("the console", printed.encode())
    (file,) = (tmp_path / "logs").rglob(f"{handle.id}/*.log")
    found += found_in("the file", file.read_bytes())
    assert file.read_bytes().count(b"***") == printed.count("***") == log.count(b"***")
    at_s3 = s3_server.read(bucket, f"default/{handle.id}/1.log")
    assert at_s3 == file.read_bytes()
    found += found_in("S3", at_s3)
    for place in (tmp_path / "logs").rglob("*"):
        found += found_in(f"what is at {place}", bytes(place) + (place.read_bytes() if place.is_file() else b""))
    [left] = record.outputs
    assert (left.name, left.problem) == ("***", None)
    assert left.size
    assert len(spans.get_finished_spans()) >= 6  # of both jobs
    found += found_in("spans", "".join(span.to_json() for span in spans.get_finished_spans()).encode())
    with dashboard(redis_url) as client:
        pages = ("view/jobs/default/failed/8/asc/1", "data/jobs/default/failed/8/asc/1.json", "data/queues.json")
        for page in (f"view/job/{handle.id}", f"data/job/{handle.id}.json", "data/workers.json", *pages):
            found += found_in("rq-dashboard", client.get(f"/0/{page}", follow_redirects=True).data)
    for name, value in stored(redis_client, payload=("data",)):
        found += found_in(name, value)
    for envelope in kept.sent:
        found += found_in("Sentry", envelope)
    for file in (tmp_path / "jobs").rglob("*"):
        found += found_in(str(file), file.read_bytes() if file.is_file() else b"")
    assert found == []
    assert MINTED.encode() not in log
