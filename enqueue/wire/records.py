"""Where Records and logs are kept in Redis, without I/O; the same for both queues."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from enqueue.record import Record

CANCELLATIONS = "longshore:cancel"
"""Channel that carries the ids of jobs that somebody wants cancelled."""
PARTINGS = "longshore:left"
"""Channel that tells of consumers that are gone."""

SOURCE = "longshore:source"
"""Key of the store's own identity: a random word, the same for all who share the store."""

WATCHED = "longshore:watch"
"""Channel that carries, every few seconds, the ids of jobs whose logs somebody follows."""

KEY_KEPT = 30 * 86_400
"""Seconds for which a producer's key is remembered after it was last used."""

TAG_KEPT = 30 * 86_400
"""Seconds for which a job is listed by its tags."""
TAG_MOST = 100_000
"""Jobs that are listed by one tag, the newest."""


def faktory_job_key(jid: str) -> str:
    """The hash that stands in for the job metadata that Faktory doesn't have."""
    return f"longshore:job:{jid}"


def tag_key(tag: str) -> str:
    """The sorted set of a tag's job ids, by the time of their enqueueing."""
    return f"longshore:tag:{tag}"


def log_key(job_id: str) -> str:
    """The stream of a job's log."""
    return f"longshore:log:{job_id}"


def variables_key(job_id: str) -> str:
    """The hash of a job's large outcome variables, by name."""
    return f"longshore:variables:{job_id}"


def record_channel(job_id: str) -> str:
    """Channel that carries the job's status at each change of its Record."""
    return f"longshore:record:{job_id}"


CONSUMERS = "longshore:consumers"
"""Sorted set: consumers by their last sign of life."""


def consumer_key(instance: str) -> str:
    """Exists for as long as this consumer lives."""
    return f"longshore:consumer:{instance}"


EMPTY_DIGEST = bytes(32)
"""Of a log of which nothing is stored yet."""


def digest_after(before: bytes, data: bytes) -> bytes:
    """The digest of a log after one more entry: SHA-256 of the digest before it and its bytes."""
    return hashlib.sha256(before + data).digest()


def entry_id(attempt: int, sequence: int) -> str:
    """The id of a log's entry: rises through an attempt, and from attempt to attempt."""
    return f"{attempt}-{sequence}"


def read_record(data: bytes | str | Mapping[str, object] | None) -> Record | None:
    """A stored Record; None for what is none."""
    if not data:
        return None
    try:
        return Record.loads(data)
    except ValueError:
        return None


def without_secrets(text: str) -> str:
    """A text without the user information of any URL in it."""
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1***@", text)


_OURS = frozenset(
    ("decode_responses", "encoding", "encoding_errors", "health_check_interval", "max_connections", "protocol",
     "socket_connect_timeout", "socket_timeout", "timeout")
)  # fmt: skip


def ours_to_choose(url: str) -> str:
    """The URL without options on how answers are read and for how long they are waited for.

    redis-py lets a URL's options overrule its caller's, and others may share the URL.
    """
    place, mark, query = url.partition("?")
    kept = "&".join(part for part in query.split("&") if part.partition("=")[0] not in _OURS)
    return place + (mark + kept if kept else "")


def place_of(url: str) -> str:
    """Where a server is, for messages: never its user or password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    host = parts.hostname or "localhost"
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{host}:{port or 6379}"
