"""What was stored is read back as it was: from a folder, from S3 by signed URLs, by the command line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import redis

from consumer.bucket import Bucket
from consumer.settings_sinks import S3
from consumer.sinks.s3 import S3Target
from enqueue.cli import app
from enqueue.errors import UsageError
from enqueue.record import Link, Output, Record, Status
from enqueue.stored import NotStored, fetch, presigned
from support.s3_server import S3Server


@pytest.fixture(autouse=True)
def access(monkeypatch: pytest.MonkeyPatch, s3_server: S3Server) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
    monkeypatch.setenv("LONGSHORE_S3_ENDPOINT", s3_server.endpoint)


def kept(path: Path, name: str, data: bytes) -> Output:
    path.write_bytes(data)
    return Output(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), url=path.as_uri())


async def test_objects_are_read_by_signed_urls_and_logs_unpacked(s3_server: S3Server) -> None:
    settings = S3(bucket=s3_server.make_bucket(), endpoint=s3_server.endpoint)
    bucket, data = Bucket(settings), b"line\n" * 1000
    for path, compress in (("q/a~20b", False), ("q/log", True)):
        target = S3Target(bucket, path, compress=compress)
        await target.put(0, data, last=True)
        await target.close(len(data))
    url = f"s3://{settings.bucket}/q/a~20b"
    output = Output(name="a b", size=5000, sha256=hashlib.sha256(data).hexdigest(), url=url)
    assert b"".join(fetch(output)) == data
    assert b"".join(fetch(Link(sink="s3", url=f"s3://{settings.bucket}/q/log", bytes=5000))) == data
    assert "not-a-real-secret" not in presigned(url)
    with pytest.raises(NotStored, match="HTTP 404"):
        list(fetch(output.model_copy(update={"url": url + "x"})))
    with pytest.raises(NotStored, match="isn't what was stored"):
        list(fetch(output.model_copy(update={"sha256": "0" * 64})))


def test_where_a_signed_url_leads() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-north-1"}
    assert presigned("s3://b/a/c", environment=keys).startswith("https://b.s3.eu-north-1.amazonaws.com/a/c?X-Amz-")
    assert presigned("s3://b.c/a", environment=keys).startswith("https://s3.eu-north-1.amazonaws.com/b.c/a?")
    assert "X-Amz-Security-Token=t%2F1&" in presigned("s3://b/a", environment=keys | {"AWS_SESSION_TOKEN": "t/1"})
    for url, environment, problem in (
        ("s3://b/a", {}, "AWS_ACCESS_KEY_ID"),
        ("file:///etc/passwd", keys, "only s3://"),
    ):
        with pytest.raises(UsageError, match=problem):
            presigned(url, environment=environment)


def test_the_command_lists_shows_and_saves(
    redis_url: str, redis_client: redis.Redis, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    outputs = (
        kept(tmp_path / "1", "a/one.txt", b"one\n"),
        kept(tmp_path / "2", "../up", b"up\n"),
        Output(name="large\x1b[2J", size=10, problem="not kept: too large"),
    )
    record = Record(id="j1", queue="default", attempt=1, status=Status.SUCCEEDED, outputs=outputs)
    redis_client.hset("rq:job:j1", mapping={"longshore": record.dumps(), "status": "finished", "origin": "default"})

    def run(*args: str) -> bytes:
        assert not app([*args, "--queue-url", redis_url], standalone_mode=False)
        return capfdbinary.readouterr().out

    listed = run("outputs", "j1")
    assert b"a/one.txt" in listed
    assert b"not kept: too large" in listed
    assert b"\x1b[2J" not in listed + run("show", "j1")
    assert run("outputs", "j1", "--get", "../up") == b"up\n"
    with pytest.raises(UsageError, match="no file 'b'; it left 3 others"):
        run("outputs", "j1", "--get", "b")
    assert app(["outputs", "j1", "-o", str(tmp_path / "here"), "--queue-url", redis_url], standalone_mode=False) == 1
    out, err = capfdbinary.readouterr()
    assert out.decode() == f"{tmp_path}/here/a/one.txt\n"
    assert b"'../up': not written" in err
    assert [path.name for path in (tmp_path / "here").rglob("*") if path.is_file()] == ["one.txt"]
    with pytest.raises(UsageError, match="File exists"):
        run("outputs", "j1", "-o", str(tmp_path / "here"))
    (tmp_path / "1").unlink()
    with pytest.raises(NotStored, match="another machine"):
        run("outputs", "j1", "--get", "a/one.txt")
