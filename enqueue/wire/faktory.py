"""The Faktory work protocol, without any I/O: addresses, handshake, commands, replies and jobs as they travel.

Source: the FWP specification (version 2) in the docs of contribsys/faktory, and what its server 1.10 does where
the specification is silent. A command is one line; replies are a subset of RESP.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from enqueue.errors import ProtocolError, QueueUnavailable, UsageError
from enqueue.job import JOB_NAME, Job, reservation
from enqueue.times import rfc3339
from enqueue.wire.resp import Failed, Reply
from enqueue.wire.trace import current

DEFAULT_PORT = 7419
OUTCOME_NAME = "longshore.outcome"
"""The job type of a reply: its one argument is the Record."""

LOG_NAME = "longshore.log"
"""The job type of a reply with lines of the log."""

_SCHEMES = {"faktory": False, "tcp": False, "faktory+tls": True, "tcp+tls": True}
_MAX_ITERATIONS = 1_000_000
_QUEUE = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)
_PLAIN_JID = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class Unwelcome(QueueUnavailable):
    """The server refuses this client, such as for a wrong password: trying again alone won't help."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Faktory server is. Neither the password nor the user is ever shown."""

    host: str
    port: int = DEFAULT_PORT
    tls: bool = False
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_url(url: str) -> Address:
    """`faktory://:password@host:7419` -> Address; `+tls` for TLS, port 7419 if none is given.

    As other Faktory clients have it, a lone user part counts as the password. Raises UsageError, which never
    quotes the URL, since it may hold a password.
    """
    example = "a Faktory URL looks like faktory://:password@host:7419, or faktory+tls:// for TLS"
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
        host = parts.hostname
    except ValueError as error:
        text = "its port must be a number from 1 to 65535" if "ort" in str(error) else "its host can't be read"
        raise UsageError(f"queue URL: {text}; {example}") from None
    if parts.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise UsageError(f"queue URL: must begin with one of {known}; {example}")
    if not host:
        raise UsageError(f"queue URL: names no host; {example}")
    if port == 0:
        raise UsageError(f"queue URL: its port must be a number from 1 to 65535; {example}")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        why = "nothing may follow the port (write special characters of a password as %XX)"
        raise UsageError(f"queue URL: {why}; {example}")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if user and parts.password is None:
        user, password = "", user
    return Address(host, port or DEFAULT_PORT, _SCHEMES[parts.scheme], user, password)


# --- handshake -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worker:
    """What a consumer says of itself: all its connections share one `wid`."""

    wid: str
    hostname: str
    pid: int
    labels: tuple[str, ...] = ()


def password_hash(password: str, salt: str, iterations: int) -> str:
    """SHA-256 over password and salt, then over itself, `iterations` times in all; hexadecimal.

    Raises ProtocolError above a million iterations, with which a server could keep a client busy for long.
    """
    if not 1 <= iterations <= _MAX_ITERATIONS:
        raise ProtocolError(f"Faktory asks for {iterations} hash iterations; 1 to {_MAX_ITERATIONS} are accepted")
    digest = (password + salt).encode()
    for _ in range(iterations):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


def hello(greeting: Reply, address: Address, worker: Worker | None = None) -> bytes:
    """The HELLO that answers the server's `HI {...}`; without a worker it is a producer's.

    Raises Unwelcome if a password is wanted and none is given, ProtocolError for anything but a greeting.
    """
    if isinstance(greeting, Failed):
        raise Unwelcome(f"Faktory at {address} refuses us: {greeting.text[:300]}")
    try:
        if not isinstance(greeting, str) or not greeting.startswith("HI "):
            raise ValueError
        hi = json.loads(greeting[3:])
        salt, iterations = hi.get("s"), hi.get("i", 1)
        if not (salt is None or isinstance(salt, str)) or type(iterations) is not int:
            raise ValueError
    except (ValueError, AttributeError, RecursionError):
        raise ProtocolError(f"what answers at {address} doesn't greet like a Faktory server") from None
    said: dict[str, Any] = {"v": 2}
    if salt is not None:
        if not address.password:
            raise Unwelcome(f"Faktory at {address} wants a password, and the queue URL has none")
        said["pwdhash"] = password_hash(address.password, salt, iterations)
    if address.user:
        said["username"] = address.user
    if worker is not None:
        said |= {"wid": worker.wid, "hostname": worker.hostname, "pid": worker.pid, "labels": list(worker.labels)}
    return _line("HELLO", said)


def welcomed(reply: Reply, address: Address) -> None:
    """Raises Unwelcome with the server's words if it didn't accept our HELLO."""
    if reply != "OK":
        said = reply.text if isinstance(reply, Failed) else "an unexpected reply"
        raise Unwelcome(f"Faktory at {address} refuses us: {said[:300]}")


def expect_ok(reply: Reply, what: str) -> None:
    """Raises ProtocolError with the server's own words unless the reply is OK."""
    if reply == "OK":
        return
    said = reply.text if isinstance(reply, Failed) else "an unexpected reply"
    raise ProtocolError(f"Faktory refused {what}: {said[:300]}")


# --- commands ----------------------------------------------------------------------------------------------------


def _line(verb: str, value: Any) -> bytes:
    return b"%s %s\r\n" % (verb.encode(), json.dumps(value, separators=(",", ":")).encode())


def is_queue_name(name: str) -> bool:
    """Faktory accepts this as a queue's name."""
    return _QUEUE.fullmatch(name) is not None


def queue_name(name: str) -> str:
    """The name, if Faktory accepts it. Raises UsageError."""
    if not is_queue_name(name):
        raise UsageError(f"queue name {name[:80]!r}: may hold letters, digits, '.', '_' and '-' only")
    return name


def push(job: Mapping[str, Any]) -> bytes:
    """PUSH: replies OK."""
    return _line("PUSH", job)


def push_many(jobs: Sequence[Mapping[str, Any]]) -> bytes:
    """PUSHB: replies an object {jid: error} of the jobs that were refused."""
    return _line("PUSHB", jobs)


def fetch(queues: Sequence[str]) -> bytes:
    """FETCH from the queues in this strict order: replies a job, or nil after 2 s."""
    return _fetch(tuple(queues))


@lru_cache(64)
def _fetch(queues: tuple[str, ...]) -> bytes:
    """Kept: it is sent for each job."""
    return f"FETCH {' '.join(queue_name(name) for name in queues)}\r\n".encode()


def ack(jid: str) -> bytes:
    """ACK: replies OK, for a jid that the server doesn't know too."""
    if jid.isascii() and jid.isalnum():  # as nearly all are: no need to ask a writer of JSON
        return b'ACK {"jid":"%s"}\r\n' % jid.encode()
    return _line("ACK", {"jid": jid})


def fail(jid: str, kind: str, message: str, backtrace: Sequence[str] = ()) -> bytes:
    """FAIL: cut to what the server keeps (100 and 1000 bytes, the last 50 lines); -ERR for an unknown jid."""
    lines = [line[:2000] for line in backtrace[-50:]]
    said = {"jid": jid, "errtype": cut(kind, 100), "message": cut(message, 1000), "backtrace": lines}
    return _line("FAIL", said)


def beat(wid: str, rss_kb: int, state: str = "") -> bytes:
    """BEAT: replies OK, or {"state": "quiet" | "terminate"}; -ERR for a worker that the server has forgotten."""
    said: dict[str, Any] = {"wid": wid, "rss_kb": rss_kb}
    if state:
        said["current_state"] = state
    return _line("BEAT", said)


def mutate(
    command: Literal["kill", "discard", "requeue"],
    target: Literal["retries", "dead", "scheduled"],
    *,
    jid: str = "",
    jobtype: str = "",
) -> bytes:
    """MUTATE the entries of one jid or of one job type.

    Raises UsageError without either: the server would take the whole set. Without a space, since the server
    splits the line there; a plain jid goes as a pattern, which Redis matches by itself.
    """
    if command not in ("kill", "discard", "requeue") or target not in ("retries", "dead", "scheduled"):
        raise UsageError("MUTATE: kill, discard or requeue in retries, dead or scheduled")
    if bool(jid) == bool(jobtype):
        raise UsageError("MUTATE needs a filter, a jid or a job type: without one it would take every job of the set")
    wanted: dict[str, Any]
    if jid:
        wanted = {"regexp": f'*"jid":"{jid}"*'} if _PLAIN_JID.fullmatch(jid) else {"jids": [jid]}
    else:
        wanted = {"jobtype": jobtype}
    text = json.dumps({"cmd": command, "target": target, "filter": wanted}, separators=(",", ":"))
    return f"MUTATE {text.replace(' ', chr(92) + 'u0020')}\r\n".encode()


def queue(verb: Literal["PAUSE", "RESUME", "REMOVE"], names: Sequence[str]) -> bytes:
    """QUEUE PAUSE, RESUME or REMOVE, by name. Raises UsageError without a name."""
    if not names:
        raise UsageError(f"QUEUE {verb}: name at least one queue")
    return f"QUEUE {verb} {' '.join(queue_name(name) for name in names)}\r\n".encode()


INFO = b"INFO\r\n"
"""INFO: replies an object with the sizes of queues and sets."""

END = b"END\r\n"
"""END: no reply, the server closes."""


def cut(text: str, size: int) -> str:
    """At most `size` bytes of UTF-8, never half a character."""
    data = text.encode("utf-8", "replace")
    return data[:size].decode("utf-8", "ignore") if len(data) > size else data.decode()


# --- jobs --------------------------------------------------------------------------------------------------------


def new_jid() -> str:
    """A random job id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def build_job(
    job: Job, queue: str, *, jid: str | None = None, at: float | None = None, payload: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The Job as Faktory stores it, ready for `push`; `at` (seconds since the epoch) schedules it.

    `payload`: the job's, if that is known already.

    `retry` is always said: the server would otherwise use, and let others change, a default of its own.
    Raises UsageError for a bad queue name.
    """
    built: dict[str, Any] = {
        "jid": jid or new_jid(),
        "queue": queue_name(queue),
        "jobtype": JOB_NAME,
        "args": [job.payload() if payload is None else payload],
        "retry": -1 if not job.retries else job.retries,
        "reserve_for": reservation(job.timeout),
        "created_at": rfc3339(datetime.now(UTC)),
    }
    if at is not None:
        built["at"] = rfc3339(at)
    if custom := current() | ({"reply_to": job.reply_to} if job.reply_to else {}):
        built["custom"] = custom
    return built
