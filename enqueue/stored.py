"""Reading what consumers have stored besides the Records: files that jobs left, and whole logs, by their URLs.

`s3://bucket/key` is asked for with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN, AWS_REGION), at
AWS or where LONGSHORE_S3_ENDPOINT or AWS_ENDPOINT_URL_S3 says; it needs the extra `s3`. `file:` is read here.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from enqueue.errors import LongshoreError, UsageError
from enqueue.record import Link, Output

CHUNK = 256 * 1024
SECONDS = 60.0


class NotStored(LongshoreError):
    """It can't be had: the message says why."""


def presigned(url: str, *, seconds: int = 3600, environment: Mapping[str, str] = os.environ) -> str:
    """An https URL by which anybody can read an `s3://` object for so long (a week at most). Raises UsageError."""
    parts = urlsplit(url)
    if parts.scheme != "s3":
        raise UsageError(f"{url}: only s3:// can be signed")
    try:
        from aws_request_signer import UNSIGNED_PAYLOAD, AwsRequestSigner
    except ModuleNotFoundError:
        raise UsageError("s3:// needs aws_request_signer: pip install 'longshore[s3]'") from None
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not (key and secret):
        raise UsageError("s3:// needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if not 1 <= seconds <= 604_800:
        raise UsageError("a signed URL holds for 1 second to 7 days")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    own = environment.get("LONGSHORE_S3_ENDPOINT") or environment.get("AWS_ENDPOINT_URL_S3")
    bucket = parts.netloc
    if own or "." in bucket:
        base = f"{(own or f'https://s3.{region}.amazonaws.com').rstrip('/')}/{bucket}"
    else:
        base = f"https://{bucket}.s3.{region}.amazonaws.com"
    plain = f"{base}{quote(unquote(parts.path), safe='/~')}"
    if token := environment.get("AWS_SESSION_TOKEN"):
        plain += f"?X-Amz-Security-Token={quote(token, safe='')}"
    signer = AwsRequestSigner(region, key, secret, "s3")
    signed: str = signer.presign_url("GET", plain, content_hash=UNSIGNED_PAYLOAD, expires=seconds)
    return signed


def fetch(stored: Output | Link) -> Iterator[bytes]:
    """Its bytes; the last ones only if all of it is as it was stored. Raises NotStored, UsageError."""
    if stored.url is None:
        raise NotStored(stored.problem or "it wasn't stored")
    if stored.url.startswith("s3:"):
        yield from _checked(_over_http(stored.url), stored)
    elif stored.url.startswith("file:"):
        yield from _checked(_from_file(stored.url), stored)
    else:
        raise NotStored(f"{stored.url}: unknown kind of place")


def _checked(parts: Iterator[bytes], stored: Output | Link) -> Iterator[bytes]:
    digest, size, former = hashlib.sha256(), 0, b""
    for part in parts:
        digest.update(part)
        size += len(part)
        if former:
            yield former
        former = part
    wanted = stored.size if isinstance(stored, Output) else stored.bytes
    if size != wanted or (isinstance(stored, Output) and stored.sha256 not in (None, digest.hexdigest())):
        raise NotStored(f"{stored.url}: isn't what was stored: it has been changed or cut off since")
    if former:
        yield former


def _over_http(url: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(presigned(url), timeout=SECONDS) as answer:
            unzip: Any = zlib.decompressobj(31) if answer.headers.get("Content-Encoding") == "gzip" else None
            while data := answer.read(CHUNK):
                yield data if unzip is None else unzip.decompress(data)
    except urllib.error.HTTPError as error:  # its text may hold the signed URL
        raise NotStored(f"{url}: HTTP {error.code} {error.reason}") from None
    except (OSError, zlib.error) as error:
        raise NotStored(f"{url}: {getattr(error, 'reason', error)}") from None


def _from_file(url: str) -> Iterator[bytes]:
    path = unquote(urlsplit(url).path)
    try:
        with open(path, "rb") as stream:
            while data := stream.read(CHUNK):
                yield data
    except OSError as error:
        raise NotStored(f"{path}: {error.strerror}; was it stored on another machine?") from None
