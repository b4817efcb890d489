"""Logs in a bucket of a real S3 server: small and large ones, taken over, and what it says when it won't."""

from __future__ import annotations

import gzip
import hashlib
import re
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from consumer.bucket import Bucket
from consumer.errors import SetupError
from consumer.findings import Level
from consumer.model import Claim, LogPosition
from consumer.settings import Settings
from consumer.settings_sinks import S3
from consumer.sinks.check import check_stores
from consumer.sinks.record import RecordSink
from consumer.sinks.s3 import PART, S3Target
from consumer.sinks.shipping import WINDOW, Backlog, ShippingSink, Store
from consumer.storage_path import mark_of, path_of
from consumer.storing import Refused
from support.consuming import until
from support.logs import MemoryRecords
from support.s3_server import S3Server

JOB = Claim(id="a/b ü", queue="q", attempt=1, token="t", job=None)
KEY = "logs/q/a~2Fb~20~C3~BC/1.log"
LINE = b"%0999d\n"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")


@pytest.fixture
def settings(s3_server: S3Server) -> S3:
    return S3(bucket=s3_server.make_bucket(), prefix="logs/", endpoint=s3_server.endpoint)


def target_of(settings: S3, claim: Claim = JOB) -> S3Target:
    whose = claim.queue, claim.id, claim.attempt
    path, mark = path_of(settings.log_path, *whose), mark_of(*whose, claim.created)
    return S3Target(Bucket(settings), path, mark, compress=settings.gzip)


def sink_of(settings: S3, start: LogPosition | None = None, records: MemoryRecords | None = None) -> ShippingSink:
    target = target_of(settings)
    backlog = Backlog(records, JOB) if records else None
    return ShippingSink(Store("s3"), target, start=start or LogPosition(), backlog=backlog, patience=30)


@pytest.mark.parametrize("text", [b"", b"one\ntwo\n"])
async def test_a_small_log_is_one_object(settings: S3, s3_server: S3Server, text: bytes) -> None:
    sink = sink_of(settings)
    if text:
        await sink.write(text)
    await sink.finish()
    assert s3_server.read(settings.bucket or "", KEY) == text
    assert sink.link.model_dump(exclude_none=True) == {
        "sink": "s3",
        "url": f"s3://{settings.bucket}/{KEY}",
        "bytes": len(text),
    }


async def test_a_small_log_may_be_compressed(settings: S3, s3_server: S3Server) -> None:
    sink = sink_of(settings.model_copy(update={"gzip": True}))
    await sink.write(b"one\n" * 1000)
    await sink.finish()
    stored = s3_server.read(settings.bucket or "", KEY)
    assert len(stored) < 100
    assert gzip.decompress(stored) == b"one\n" * 1000


async def test_a_large_log_goes_in_parts_and_whoever_goes_on_completes_it(settings: S3, s3_server: S3Server) -> None:
    """The consumer dies in the middle of the second part."""
    records, wanted = MemoryRecords(), hashlib.sha256()
    record = RecordSink(records, JOB, max_bytes=1 << 20, tail=WINDOW + WINDOW // 4)
    sink = sink_of(settings)
    blocks = [b"".join(LINE % (n * 250 + i) for i in range(250)) for n in range(60)]
    for block in blocks[:32]:
        await record.write(block)
        await sink.write(block)
    await until(lambda: sink.link.bytes == PART)
    await sink.abandon()
    assert sink.link.bytes == PART
    start = records.position
    again, record = sink_of(settings, start, records), RecordSink(records, JOB, start=start, tail=WINDOW)
    for block in blocks[32:]:
        await record.write(block)
        await again.write(block)
    await again.finish()
    assert again.link.problem is None
    assert again.link.bytes == 15_000_000
    for block in blocks:
        wanted.update(block)
    assert hashlib.sha256(s3_server.read(settings.bucket or "", KEY)).digest() == wanted.digest()


async def test_a_log_that_was_completed_before_its_job_ended_is_known(settings: S3, s3_server: S3Server) -> None:
    """The consumer died between the log's end and the job's."""
    records = MemoryRecords()
    record, sink = RecordSink(records, JOB), sink_of(settings)
    for part in (record, sink):
        await part.write(b"one\n")
        await part.finish()
    again = sink_of(settings, records.position, records)
    await again.finish()
    assert again.link.problem is None
    assert again.link.bytes == 4
    other = Claim(id=JOB.id, queue=JOB.queue, attempt=1, token="t", job=None, created="another job of this id")
    target = target_of(settings, other)
    assert await target.stored() == 0
    await target.abandon()


async def test_a_missing_bucket_is_told_without_secrets(settings: S3) -> None:
    sink = sink_of(settings.model_copy(update={"bucket": "no-such-bucket"}))
    await sink.write(b"one\n")
    await sink.finish()
    assert "NoSuchBucket" in str(sink.link.problem)
    assert "not-a-real-secret" not in repr(sink.link)


@pytest.mark.parametrize(
    ("status", "length", "says"),
    [(404, 4, "HTTP 404"), (404, PART + 1, "HTTP 404"), (200, PART + 1, "is it one of the S3 API?")],
)
async def test_a_server_that_knows_no_s3_stores_nothing(status: int, length: int, says: str) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(status=status, text="<html></html>")

    async with RawTestServer(answer) as server:
        target = target_of(S3(bucket="bucket", endpoint=f"http://127.0.0.1:{server.port}"))
        with pytest.raises(Refused, match=re.escape(says)):
            await target.put(0, bytes(length)[:PART], last=length <= PART)
        await target.abandon()


async def test_a_server_that_is_away_is_told() -> None:
    settings = S3(bucket="bucket", endpoint="http://127.0.0.1:9")
    target = target_of(settings)
    sink = ShippingSink(Store("s3"), target, start=LogPosition(), backlog=None, patience=0.3)
    await sink.write(b"one\n")
    await sink.finish()
    assert str(sink.link.problem).startswith("the store couldn't be reached in time: S3 at http://127.0.0.1:9/bucket:")


def test_without_credentials_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SetupError, match="AWS_SECRET_ACCESS_KEY"):
        Bucket(S3(bucket="bucket"))


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "https://logs.s3.eu-north-1.amazonaws.com"),
        ({"bucket": "a.b"}, "https://s3.eu-north-1.amazonaws.com/a.b"),
        ({"endpoint": "https://minio:9000/"}, "https://minio:9000/logs"),
        ({"endpoint": "https://minio:9000", "path_style": False}, "https://logs.minio:9000"),
    ],
)
def test_where_a_bucket_is(fields: dict[str, str], url: str) -> None:
    from consumer.bucket import url_of

    assert url_of(S3(**{"bucket": "logs", **fields}), "eu-north-1") == url


async def test_a_check_tries_the_bucket_and_leaves_nothing(
    settings: S3, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server
) -> None:
    [good] = await check_stores(Settings(s3=settings, logs={"sinks": ["s3"]}))
    assert (good.level, good.text) == (Level.GOOD, f"s3://{settings.bucket}/logs/ can be written to")
    bucket = Bucket(settings)
    bucket.enter()
    assert (await bucket.ask("GET", "", query={"uploads": ""})).elements("Upload") == []
    assert (await bucket.ask("GET", "", query={"list-type": "2"})).elements("Contents") == []
    await bucket.leave()
    assert await check_stores(Settings(s3=settings)) == []  # nobody uses it
    for wrong, says, fix in (
        (
            {"bucket": "no-such-bucket"},
            "no-such-bucket can't be asked for unfinished uploads: .*NoSuchBucket",
            "create it",
        ),
        (
            {"endpoint": "http://127.0.0.1:1"},
            "can't be asked for unfinished uploads: S3 at http://127.0.0.1:1",
            "s3.endpoint",
        ),
    ):
        used = Settings(s3=settings.model_copy(update=wrong), outputs={"store": "s3"})
        [found] = await check_stores(used)
        assert found.level is Level.PROBLEM
        assert re.search(says, found.text), found.text
        assert fix in (found.fix or "")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    [found] = await check_stores(Settings(s3=settings, logs={"sinks": ["s3"]}))
    assert found.text.startswith("s3: no credentials")


@pytest.mark.parametrize(
    ("refused", "doing"),
    [("GET", "asked for unfinished uploads"), ("HEAD", "asked for an object"), ("POST", "written to")],
)
async def test_a_check_names_the_rights_that_a_bucket_wants(
    settings: S3, monkeypatch: pytest.MonkeyPatch, refused: str, doing: str
) -> None:
    ask = Bucket.ask

    async def answer(bucket: Bucket, method: str, key: str, **kwargs: Any) -> Any:
        if method == refused:
            raise Refused("S3: AccessDenied")
        return await ask(bucket, method, key, **kwargs)

    monkeypatch.setattr(Bucket, "ask", answer)
    [found] = await check_stores(Settings(s3=settings, logs={"sinks": ["s3"]}))
    assert found.text.startswith(f"s3.bucket: {settings.bucket} can't be {doing}")
    assert "s3:PutObject" in (found.fix or "")
