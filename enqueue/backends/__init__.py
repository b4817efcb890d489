"""The table of backends, by URL scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from enqueue.errors import UsageError

if TYPE_CHECKING:
    from enqueue.protocol import Backend
    from enqueue.wire.rq import Serializer

RQ_SCHEMES = ("redis", "rediss", "unix")
FAKTORY_SCHEMES = ("faktory", "faktory+tls", "tcp", "tcp+tls")


def make_backend(
    url: str, records: str | None, queue: str, serializer: Serializer
) -> tuple[Backend, str | None, str | None]:
    """The backend for a URL, the Redis URL to use and the Faktory URL to use. Raises UsageError."""
    scheme, records_scheme = _scheme("queue", url), _scheme("records", records or "")
    if scheme in RQ_SCHEMES:
        from enqueue.backends.rq import RqBackend

        if records:
            raise UsageError("records: RQ keeps its records with the jobs; leave it out")
        return RqBackend(queue, serializer), url, None
    if scheme in FAKTORY_SCHEMES:
        from enqueue.backends.faktory import FaktoryBackend

        if records and records_scheme not in RQ_SCHEMES:
            raise UsageError("records: must be a Redis URL: redis://, rediss:// or unix://")
        return FaktoryBackend(queue, records=bool(records)), records, url
    known = ", ".join(f"{name}://" for name in (*RQ_SCHEMES, *FAKTORY_SCHEMES))
    raise UsageError(f"the queue URL's scheme '{scheme}' is unknown; use one of {known}")


def _scheme(what: str, url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:
        raise UsageError(f"the {what} URL can't be read: {error}") from None


def faktory_url_from(environment: Mapping[str, str]) -> str | None:
    """Faktory's URL as its own clients find it: FAKTORY_PROVIDER names the variable that holds it, else FAKTORY_URL.

    Raises UsageError, which never quotes a value, for a provider that can't be followed.
    """
    provider = environment.get("FAKTORY_PROVIDER")
    if not provider:
        return environment.get("FAKTORY_URL") or None
    if ":" in provider:
        raise UsageError("FAKTORY_PROVIDER: must be the name of the variable that holds the URL, not the URL itself")
    url = environment.get(provider)
    if not url:
        raise UsageError(f"FAKTORY_PROVIDER: names {provider[:80]}, which isn't set")
    return url
