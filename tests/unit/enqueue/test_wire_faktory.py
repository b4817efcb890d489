"""The protocol core: addresses, handshake, commands, replies and jobs, without a server."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enqueue.errors import ProtocolError, UsageError
from enqueue.job import Job
from enqueue.wire import faktory as wire
from enqueue.wire.faktory_fetched import Fetched, decode
from enqueue.wire.resp import Failed, Oversize, Replies, Reply

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "user", "password"),
    [
        ("faktory://queue", "queue", 7419, False, "", ""),
        ("tcp://queue:1234/", "queue", 1234, False, "", ""),
        ("faktory+tls://:p%40ss%2F@queue", "queue", 7419, True, "", "p@ss/"),
        ("tcp+tls://me:pw@10.0.0.1:7419", "10.0.0.1", 7419, True, "me", "pw"),
        ("tcp://pw@queue", "queue", 7419, False, "", "pw"),
        ("faktory://[::1]:99", "::1", 99, False, "", ""),
    ],
)
def test_urls(url: str, host: str, port: int, tls: bool, user: str, password: str) -> None:
    address = wire.parse_url(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)
    assert (address.user, address.password) == (user, password)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@queue",
        f"faktory://:{SECRET}@",
        f"faktory://:{SECRET}@queue:x",
        f"faktory://:{SECRET}@queue:0",
        f"faktory://:{SECRET}@queue:70000",
        f"faktory://:{SECRET}@queue/0",
        f"faktory://:a/{SECRET}@queue",
        f"faktory://:{SECRET}@queue?x=1",
        f"faktory://:{SECRET}@[::1",
        "queue:7419",
        "",
    ],
)
def test_bad_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(UsageError, match="queue URL: ") as refused:
        wire.parse_url(url)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_the_password_is_in_no_text() -> None:
    address = wire.parse_url(f"tcp://user-x:{SECRET}@queue")
    assert str(address) == "queue:7419"
    assert SECRET not in repr(address)
    assert "user-x" not in repr(address)


@pytest.mark.parametrize(
    ("password", "salt", "iterations", "digest"),
    [
        # by `printf '%s' foobar | sha256sum`, and that digest hashed again as bytes
        ("foo", "bar", 1, "c3ab8ff13720e8ad9047dd39466b3c8974e592c2fa383d4a3960714caef0c4f2"),
        ("foo", "bar", 2, "3f2c7ccae98af81e44c0ec419659f50d8b7d48c681e5d57fc747d0461e42dda1"),
    ],
)
def test_password_hash(password: str, salt: str, iterations: int, digest: str) -> None:
    assert wire.password_hash(password, salt, iterations) == digest


@pytest.mark.parametrize("iterations", [0, -1, 1_000_001])
def test_absurd_iterations_are_refused(iterations: int) -> None:
    with pytest.raises(ProtocolError, match="iterations"):
        wire.password_hash("a", "b", iterations)


def test_hello() -> None:
    plain = wire.parse_url("tcp://queue")
    assert wire.hello('HI {"v":2}', plain) == b'HELLO {"v":2}\r\n'
    worker = wire.Worker("ab12", "host", 7, ("longshore",))
    said = json.loads(wire.hello('HI {"v":2,"i":2,"s":"bar"}', wire.parse_url("tcp://:foo@queue"), worker)[6:])
    assert said["wid"] == "ab12"
    assert said["labels"] == ["longshore"]
    assert said["pwdhash"] == wire.password_hash("foo", "bar", 2)
    with pytest.raises(wire.Unwelcome, match="wants a password"):
        wire.hello('HI {"v":2,"i":2,"s":"bar"}', plain)
    with pytest.raises(wire.Unwelcome, match="too many connections"):
        wire.hello(Failed("too many connections"), plain)


GREETINGS = ["", "OK", "HI", "HI []", "HI {", 'HI {"s":1}', 'HI {"s":"a","i":"9"}', b"HI {}", None]


@pytest.mark.parametrize("greeting", GREETINGS)
def test_what_is_no_faktory_server(greeting: Reply) -> None:
    with pytest.raises(ProtocolError, match="doesn't greet"):
        wire.hello(greeting, wire.parse_url("tcp://:x@queue"))


replies = st.lists(
    st.one_of(
        st.none(),
        st.binary(max_size=200),
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=50),
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=50).map(
            lambda text: Failed(text.removeprefix("ERR "))
        ),
    ),
    max_size=8,
)


def encoded(reply: Reply) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    if isinstance(reply, Failed):
        return b"-ERR " + reply.text.encode() + b"\r\n"
    assert isinstance(reply, str)
    return b"+" + reply.encode() + b"\r\n"


@given(replies, st.data())
def test_replies_come_out_however_the_bytes_are_split(expected: list[Reply], data: st.DataObject) -> None:
    stream = b"".join(map(encoded, expected))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    parser, got = Replies(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += parser.feed(stream[start:stop])
    assert got == expected


@given(st.integers(11, 400), st.lists(st.integers(1, 60), max_size=20))
def test_an_oversize_bulk_is_skipped_and_the_next_reply_read(size: int, steps: list[int]) -> None:
    body = bytes(range(65, 91)) * 20
    stream = encoded(body[:size]) + encoded("OK")
    parser, got, at = Replies(limit=10), [], 0
    for step in [*steps, len(stream)]:
        got += parser.feed(stream[at : at + step])
        at += step
    assert got == [Oversize(size, body[:size]), "OK"]


def test_of_a_huge_bulk_only_the_beginning_is_kept() -> None:
    parser = Replies(limit=1000)
    got = parser.feed(b"$10000000\r\n")
    for _ in range(100):
        got += parser.feed(b"x" * 100_000)
    got += parser.feed(b"\r\n+OK\r\n")
    assert got[0] == Oversize(10_000_000, b"x" * 65_536)
    assert got[1:] == ["OK"]


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error_or_waits_for_more(data: bytes) -> None:
    try:
        Replies().feed(data)
    except ProtocolError:
        pass


@pytest.mark.parametrize("data", [b"HTTP/1.1 400\r\n", b"$x\r\n", b"$2\r\nabc\r\n", b"*1\r\n", b"+" + b"a" * 70_000])
def test_what_is_no_reply(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Replies().feed(data)


def test_mutate_never_goes_without_a_filter() -> None:
    for jid, jobtype in (("", ""), ("a", "b")):
        with pytest.raises(UsageError, match="filter"):
            wire.mutate("discard", "retries", jid=jid, jobtype=jobtype)
    with pytest.raises(UsageError):
        wire.mutate("clear", "retries", jid="a")  # type: ignore[arg-type]


@given(st.text(min_size=1, max_size=40), st.booleans())
def test_mutate_has_no_space_in_its_json(name: str, by_jid: bool) -> None:
    line = wire.mutate("kill", "retries", jid=name) if by_jid else wire.mutate("kill", "retries", jobtype=name)
    assert line.startswith(b"MUTATE {")
    assert line.count(b" ") == 1
    assert line.count(b"\n") == 1
    wanted = json.loads(line[7:])["filter"]
    assert name in (wanted.get("jobtype"), *wanted.get("jids", ())) or wanted["regexp"] == f'*"jid":"{name}"*'


@given(st.text(max_size=1500), st.text(max_size=300), st.lists(st.text(max_size=20), max_size=70))
def test_fail_keeps_to_the_limits(message: str, kind: str, backtrace: list[str]) -> None:
    line = wire.fail("jid", kind, message, backtrace)
    assert line.count(b"\n") == 1
    said = json.loads(line[5:])
    assert len(said["message"].encode()) <= 1000
    assert len(said["errtype"].encode()) <= 100
    assert said["backtrace"] == backtrace[-50:]


@pytest.mark.parametrize("name", ["", "a b", "a\r\nFLUSH", "*", "a,b"])
def test_queue_names(name: str) -> None:
    with pytest.raises(UsageError, match="queue name"):
        wire.fetch([name])
    with pytest.raises(UsageError, match="queue name"):
        wire.queue("REMOVE", [name])
    with pytest.raises(UsageError, match="queue name"):
        wire.build_job(Job(commands=("true",)), name)


def test_queue_commands_name_a_queue() -> None:
    assert wire.queue("PAUSE", ["a", "b"]) == b"QUEUE PAUSE a b\r\n"
    with pytest.raises(UsageError, match="at least one"):
        wire.queue("REMOVE", [])


@pytest.mark.parametrize(("retries", "sent"), [(None, -1), (0, -1), (3, 3)])
def test_a_job_always_says_retry(retries: int | None, sent: int) -> None:
    built = wire.build_job(Job(commands=("true",), retries=retries, timeout=100, reply_to="answers"), "default")
    assert built["retry"] == sent
    assert built["reserve_for"] == 1000
    assert built["jobtype"] == "longshore.job"
    assert built["custom"] == {"reply_to": "answers"}
    assert len(built["jid"]) >= 24
    assert Job.load(built["args"][0]).timeout == 100
    assert "at" not in built
    assert wire.build_job(Job(commands=("true",)), "default", at=0.0)["at"] == "1970-01-01T00:00:00.000000Z"


def test_a_fetched_job() -> None:
    first = Fetched({"jid": "a"}, 1)
    assert (first.retry, first.failures, first.retries_left, first.reserve_for) == (25, 0, 25, 1800)
    again = Fetched({"jid": "a", "retry": 2, "failure": {"retry_count": 0}, "reserve_for": 7, "custom": None}, 1)
    assert (again.failures, again.retries_left, again.reserve_for, again.custom) == (1, 1, 60, {})
    assert Fetched({"jid": "a", "retry": -1}, 1).retries_left == 0
    assert Fetched({"enqueued_at": "2026-01-02T03:04:05.123456789Z"}, 1).queued_at == pytest.approx(1767323045.123456)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"jid":1}', b"\xff", b"null", b"[" * 100_000])
def test_what_is_no_job(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no job"):
        decode(data)


def test_the_beginning_of_an_oversize_job_is_read() -> None:
    custom = {"args": [1], "x": {"args": []}}
    job = {"retry": 3, "custom": custom, "jid": "abcdefgh", "jobtype": "t", "args": ["x" * 99]}
    text = json.dumps(job, separators=(",", ":")).encode()
    fetched = decode(Oversize(5_000_000, text[:-20]))
    assert fetched.native == job | {"args": []}
    assert fetched.truncated
    with pytest.raises(ProtocolError):
        decode(Oversize(5_000_000, text[:40]))


@pytest.mark.parametrize("args", [b"[" * 100_000 + b"]" * 100_000, b"[" + b"9" * 5000 + b"]"])
def test_a_job_whose_arguments_cant_be_read_can_still_be_ended(args: bytes) -> None:
    fetched = decode(b'{"jid":"12345678","queue":"q","jobtype":"longshore.job","args":%s,"retry":-1}' % args)
    assert (fetched.jid, fetched.queue, fetched.native["args"]) == ("12345678", "q", None)
