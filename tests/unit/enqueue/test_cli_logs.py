"""`longshore logs` on a real Redis."""

from __future__ import annotations

import gc
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import typer

from enqueue.cli import app, main
from enqueue.errors import UsageError
from enqueue.record import Log, Record, Status
from enqueue.wire.records import EMPTY_DIGEST, digest_after, log_key

FIRST, SECOND = b"\x1b[31mred\x1b[0m\n", b"\xff bell\x07\n"


@pytest.fixture
def job(redis_client: redis.Redis) -> str:
    """A job that has ended; its log has two entries, and the Record says what the job wrote besides."""
    middle = digest_after(EMPTY_DIGEST, FIRST)
    last = digest_after(middle, SECOND)
    key = log_key("j1")
    redis_client.xadd(key, {"l": 1, "b": len(FIRST), "h": EMPTY_DIGEST, "t": 1_000, "d": FIRST}, id="1-1")
    redis_client.xadd(key, {"l": 2, "b": 21, "h": middle, "t": 5_000, "d": SECOND}, id="1-2")
    redis_client.xadd(key, {"l": 2, "b": 21, "h": last, "end": 1, "lines": 2}, id="1-3")
    gap = {"reason": "unread", "lines": 3, "bytes": 30, "after_line": 2}
    log = Log(stream=key, entries=3, lines=2, bytes=21, gaps=(gap,), complete="gap", digest=last.hex())
    record = Record(id="j1", queue="default", attempt=1, status=Status.SUCCEEDED, log=log)
    redis_client.hset("rq:job:j1", mapping={"longshore": record.dumps(), "status": "finished", "origin": "default"})
    return "j1"


def logs(url: str, *args: str) -> None:
    app(["logs", "j1", "--queue-url", url, *args], standalone_mode=False)


def test_each_line_has_the_time_at_which_it_was_written_and_whose_it_is(
    redis_client: redis.Redis, redis_url: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Where the source told no times, when it was stored."""
    key = log_key("j1")
    times = b"1795000000000 1 500 1 -90000"
    redis_client.xadd(key, {"l": 3, "t": 1_795_000_002_000, "m": times, "s": "init", "d": "a\nb\nc\n"}, id="1-1")
    redis_client.xadd(key, {"l": 4, "t": 1_795_000_003_000, "d": "d\n"}, id="1-2")
    record = Record(id="j1", queue="default", attempt=1, status=Status.SUCCEEDED, log=Log(stream=key))
    redis_client.hset("rq:job:j1", mapping={"longshore": record.dumps(), "status": "finished", "origin": "default"})
    logs(redis_url, "--timestamps", "--prefix")
    assert capfdbinary.readouterr().out.decode().splitlines() == [
        "j1 1 init | 2026-11-18T11:06:40.000Z a",
        "j1 1 init | 2026-11-18T11:06:40.500Z b",
        "j1 1 init | 2026-11-18T11:05:10.500Z c",
        "j1 1 main | 2026-11-18T11:06:43.000Z d",
    ]
    logs(redis_url, "--since", "2026-11-18T11:06:40.2Z")
    assert capfdbinary.readouterr().out == b"b\nc\nd\n"
    logs(redis_url, "--tail", "3", "--timestamps")
    assert capfdbinary.readouterr().out.startswith(b"2026-11-18T11:06:40.500Z b\n")


def test_a_file_gets_no_escape_sequence_and_standard_error_what_is_missing(
    job: str, redis_url: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    logs(redis_url)
    out, err = capfdbinary.readouterr()
    assert out == b"red\n\xff bell^G\n"
    assert err == (
        b"longshore: 3 lines (30 bytes) missing: the job wrote more than could be read; its container runtime has lost "
        b"the rest (unread)\n"
    )
    logs(redis_url, "--raw")
    assert capfdbinary.readouterr().out == FIRST + SECOND
    logs(redis_url, "-f", "--since", "1970-01-01T00:00:02Z", "--tail", "5", "--timestamps")
    assert capfdbinary.readouterr().out == b"1970-01-01T00:00:05.000Z \xff bell^G\n"


def test_json_for_programs(job: str, redis_url: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    logs(redis_url, "--json")
    first, second, end = map(json.loads, capfdbinary.readouterr().out.splitlines())
    assert first == {"attempt": 1, "line": 1, "at": "1970-01-01T00:00:01.000Z", "text": "\x1b[31mred\x1b[0m"}
    assert (second["line"], second["base64"]) == (2, "/yBiZWxsBw==")
    assert (end["end"]["complete"], end["end"]["damaged"]) == ("gap", [])


def test_a_damaged_log_is_told_by_the_exit_code(
    job: str, redis_url: str, redis_client: redis.Redis, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    redis_client.xdel(log_key("j1"), "1-1")
    code = app(["logs", "j1", "--queue-url", redis_url], standalone_mode=False)
    assert code == 1
    assert b"1 lines (13 bytes) that were stored are gone from the store" in capfdbinary.readouterr().err


def test_who_cannot_take_the_log_is_no_damage_to_it(
    job: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk and a reader such as `head` that is gone have codes of their own, and no stack trace."""
    monkeypatch.setattr(gc, "set_threshold", lambda *numbers: None)
    monkeypatch.setattr(sys, "argv", ["longshore", "logs", job, "--queue-url", redis_url])
    reader, writer = os.pipe()
    os.close(reader)
    for place, code, says in ((os.open("/dev/full", os.O_WRONLY), 74, "No space left"), (writer, 141, "")):
        for name in ("stdout", "stderr"):  # typer puts others in their place
            monkeypatch.setattr(sys, name, getattr(sys, name))
        monkeypatch.setattr(sys, "stdout", os.fdopen(place, "w"))
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        said = capfd.readouterr().err
        assert says in said
        assert "Traceback" not in said


def stands(client: redis.Redis, job: str, status: Status, data: bytes) -> None:
    """A job with so much more of a log."""
    client.xadd(log_key(job), {"t": 1_000, "d": data}, id=f"1-{client.xlen(log_key(job)) + 1}")
    record = Record(id=job, queue="default", attempt=1, status=status, log=Log(stream=log_key(job)))
    known = "finished" if status.final else "started"
    client.hset(f"rq:job:{job}", mapping={"longshore": record.dumps(), "status": known, "origin": "default"})


def test_several_are_followed_at_once_until_all_have_ended_and_each_has_its_own_trouble(
    job: str,
    redis_url: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The first one ends only when the others have been shown."""
    stands(redis_client, "j0", Status.RUNNING, b"zero\n")
    redis_client.xdel(log_key(job), "1-1")
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as shown, os.fdopen(writer, "w") as out, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(sys, "stdout", out)
        args = ["logs", "-f", "--prefix", "j0", job, "nope", "j0", "--queue-url", redis_url]
        code = pool.submit(app, args, standalone_mode=False)
        code.add_done_callback(lambda _: out.close())
        try:
            assert {shown.readline(), shown.readline(), shown.readline()} == {
                b"j0 1 main | zero\n",
                b"j1 1 main | [longshore: 1 lines dropped here]\n",
                b"j1 1 main | \xff bell^G\n",
            }
        finally:
            stands(redis_client, "j0", Status.SUCCEEDED, b"last\n")
        assert shown.readline() == b"j0 1 main | last\n"
        assert code.result(30) == 1
    said = capfd.readouterr().err
    assert "longshore: nope: there is no job 'nope' here" in said
    assert "longshore: j1: 1 lines (13 bytes) that were stored are gone from the store" in said
    assert "longshore: j0" not in said


def test_several_one_after_the_other_and_as_json(
    job: str, redis_url: str, redis_client: redis.Redis, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stands(redis_client, "j0", Status.SUCCEEDED, b"zero\n")
    logs(redis_url, "j0", "--tail", "1")
    assert capfdbinary.readouterr().out == b"\xff bell^G\nzero\n"
    logs(redis_url, "j0", "--json")
    told = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [one["job"] for one in told] == ["j1", "j1", "j1", "j0", "j0"]
    assert [one["end"]["complete"] for one in told if "end" in one] == ["gap", None]


@pytest.mark.parametrize(
    ("args", "says"), [(["--since", "soon"], "--since"), (["--raw", "--json"], "--raw"), (["j2", "--raw"], "one job")]
)
def test_wrong_usage(args: list[str], says: str) -> None:
    with pytest.raises((UsageError, typer.Exit), match=says):
        logs("redis://127.0.0.1:1/0", *args)
