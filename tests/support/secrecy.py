"""Looks for a secret in whatever was stored: as it is, and in the forms in which programs print it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import redis

SECRET = "s3cr/t+'q\"é$x\\y-0123456789"
PRINTING = r"""
import base64, binascii, json, os, shlex, sys, urllib.parse
s = os.environ["TOKEN"]
b = s.encode()
for form in (
    s, "user:" + s, b.hex(), b.hex().upper(), json.dumps(s), json.dumps(s, ensure_ascii=False), repr(s), shlex.quote(s),
    urllib.parse.quote(s), urllib.parse.quote_plus(s), *(base64.b64encode(b"x" * n + b).decode() for n in range(3)),
    base64.urlsafe_b64encode(b).decode(),
):
    print(form)
    sys.stderr.write(form + "\n")
print("::set-outcome-var leak=" + s)
print("::error file=" + s + "::" + s)
print("::progress 50 " + s)
sys.stdout.flush()
sys.stdout.write(s[:9])
sys.stdout.flush()
print(s[9:])
minted = "minted-" + "by-the-job"
print("::add-mask " + minted)
print("it is", minted)
open(os.environ["LONGSHORE_OUTCOME"], "a").write("file=" + s + " " + minted + "\n")
if "LONGSHORE_OUTPUTS" in os.environ:  # a file's name is told in the Record, and is a part of its place
    with open(os.environ["LONGSHORE_OUTPUTS"] + "/" + minted, "wb") as file:
        pid = os.getppid()
        while pid > 1:  # what a list of processes shows of all above this one
            file.write(open(f"/proc/{pid}/cmdline", "rb").read())
            pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
if "CHILD" in os.environ:
    print("::enqueue " + os.environ["CHILD"], flush=True)
sys.exit("failed with " + s)
"""
"""A Python program that prints $TOKEN in every form, mints another secret, and fails."""

MINTED = "minted-by-the-job"


def forms() -> Iterator[bytes]:
    """What must be found nowhere."""
    for secret in (SECRET, MINTED):
        raw = secret.encode()
        yield from (raw, raw.hex().encode(), raw.hex().upper().encode(), quote(secret).encode())
        yield from (json.dumps(secret)[1:-1].encode(), repr(secret)[1:-1].encode())
        for shift in range(3):  # without the characters that share bits with the neighbours
            yield base64.b64encode(b"x" * shift + raw)[4:-4]


def found_in(what: str, data: bytes) -> list[str]:
    """Where a form of a secret stands."""
    return [f"{what}: {form!r}" for form in forms() if form in data]


def stored(client: redis.Redis, payload: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """All that a Redis holds, but the hash fields of payloads."""
    readers: dict[bytes, Any] = {
        b"string": client.get,
        b"stream": client.xrange,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    for key in client.scan_iter():
        kind = client.type(key)
        if kind == b"hash":
            for name, value in client.hgetall(key).items():
                if name.decode() not in payload:
                    yield f"{key!r} {name!r}", value
        else:
            yield repr(key), _plain(readers[kind](key))


def _plain(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return b" ".join(_plain(part) for pair in value.items() for part in pair)
    return b" ".join(_plain(part) for part in value) if isinstance(value, (list, tuple, set)) else str(value).encode()
