"""A bucket of an S3 server: signed requests, and errors in two kinds, those that may pass and those that won't.

Source of the protocol: https://docs.aws.amazon.com/AmazonS3/latest/API/ . Needs the extra `s3`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple
from xml.etree import ElementTree

import aiohttp
from aiohttp_s3_client import S3Client
from aiohttp_s3_client.credentials import collect_credentials

from consumer.errors import SetupError
from consumer.settings import S3
from consumer.storing import Away, Refused

SECONDS = 60.0
"""For one request, with a body of some megabytes."""
PIECE = 256 * 1024
PASSING = (
    "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted", "TooManyRequests",
)  # fmt: skip


class Answer(NamedTuple):
    """Of a request that succeeded, or of one for what isn't there (404)."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def texts(self, tag: str) -> list[str]:
        """The texts of all elements of that name, whatever their namespace."""
        return [element.text or "" for element in self.elements(tag)]

    def elements(self, tag: str) -> list[Any]:
        """All elements of that name."""
        return [element for element in _parsed(self.body).iter() if _name(element) == tag]


def child(element: Any, tag: str) -> str:
    """The text of an element's child."""
    return next((inner.text or "" for inner in element if _name(inner) == tag), "")


class Bucket:
    """Opens its connections for the first of its users, and closes them after the last one."""

    def __init__(self, settings: S3) -> None:
        """Raises SetupError without a bucket or credentials."""
        if settings.bucket is None:
            raise SetupError("s3.bucket: isn't set")
        self.name, self.prefix = settings.bucket, settings.prefix
        self._credentials = collect_credentials(region=settings.region or "")
        if not (self._credentials.access_key_id and self._credentials.secret_access_key):
            raise SetupError("s3: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if not self._credentials.region:
            self._credentials = collect_credentials(region="us-east-1")
        self._url = url_of(settings, self._credentials.region)
        self._session: aiohttp.ClientSession | None = None
        self._client: S3Client | None = None
        self._users = 0

    def key(self, path: str) -> str:
        """The key of this path."""
        return f"{self.prefix}{path}"

    def link(self, key: str) -> str:
        """The object's name for people and programs."""
        return f"s3://{self.name}/{key}"

    def enter(self) -> None:
        """It is used from now on."""
        self._users += 1
        if self._client is None:
            limits = aiohttp.ClientTimeout(total=SECONDS, sock_connect=5)
            self._session = aiohttp.ClientSession(timeout=limits, cookie_jar=aiohttp.DummyCookieJar())
            self._client = S3Client(self._session, self._url, credentials=self._credentials)

    async def leave(self) -> None:
        """One of its users is done."""
        self._users -= 1
        if not self._users and self._session is not None:
            session, self._session, self._client = self._session, None, None
            await session.close()

    async def ask(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. A 404 for an object that is read, or for an upload, is an Answer. Raises Away, Refused."""
        if self._client is None:
            raise Refused("the bucket isn't in use")
        try:
            async with self._client.request(
                method,
                key,
                params=dict(query or {}),
                data=None if data is None else _pieces(data),
                data_length=None if data is None else len(data),
                headers=dict(headers or {}),
                content_sha256=hashlib.sha256(data or b"").hexdigest(),
                allow_redirects=False,
            ) as response:
                answer = Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as problem:
            why = "no answer in time" if isinstance(problem, TimeoutError) else type(problem).__name__
            raise Away(f"S3 at {self._url}: {why}") from None
        if answer.status < 300:
            # A completion may answer 200 and fail all the same.
            if answer.body[:1024].find(b"<Error>") >= 0:
                raise Away(f"S3 at {self._url}: {_told(answer)}")
            return answer
        code = _code(answer.body)
        asked = method in ("GET", "HEAD") or "uploadId" in (query or ())
        if answer.status == 404 and asked and code != "NoSuchBucket":
            return answer
        told = f"S3 at {self._url}: {_told(answer)}"
        if answer.status >= 500 or answer.status == 429 or code in PASSING:
            raise Away(told)
        raise Refused(told)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    """As one it would hold up the event loop."""
    for at in range(0, len(data), PIECE):
        yield data[at : at + PIECE]


def url_of(settings: S3, region: str) -> str:
    """Where the bucket is."""
    bucket = settings.bucket or ""
    endpoint = (settings.endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    in_path = settings.path_style if settings.path_style is not None else settings.endpoint is not None or "." in bucket
    if in_path:
        return f"{endpoint}/{bucket}"
    scheme, _, host = endpoint.partition("://")
    return f"{scheme}://{bucket}.{host}"


def _parsed(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return ElementTree.Element("none")


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _code(body: bytes) -> str:
    return child(_parsed(body), "Code")


def _told(answer: Answer) -> str:
    """Code and message alone: what else S3 says of a wrong signature is too much."""
    root = _parsed(answer.body)
    said = ": ".join(part for part in (child(root, "Code"), child(root, "Message")[:200]) if part)
    return said or f"HTTP {answer.status}"
