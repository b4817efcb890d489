"""The secrets that the consumer itself has: masked in every job's log and in what we say ourselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretBytes, SecretStr

SHORTEST = 6
"""A shorter one (characters) isn't masked in the logs of jobs that know nothing of it."""

_TELLING = re.compile(r"(?:^|_)(?:PASSWORD|PASSWD|SECRET|TOKEN|DSN|(?:API|ACCESS|PRIVATE|SECRET)_KEY)$", re.IGNORECASE)
_JOBS_OWN = ("job_types",)  # settings that hold what jobs get: a Job says itself what of it is secret


def own_secrets(settings: BaseModel, environment: Mapping[str, str]) -> frozenset[str]:
    """Passwords in URLs, secret settings, and variables of our environment that are named like secrets."""
    found = set(_in_value(settings))
    for name, value in environment.items():
        found.update({value, *_in_text(value)} if _TELLING.search(name) else _in_text(value))
    return frozenset(secret for secret in found if len(secret) >= SHORTEST)


def _in_value(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _in_text(value)
    elif isinstance(value, SecretStr):
        yield from {value.get_secret_value(), *_in_text(value.get_secret_value())}
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode("utf-8", "replace")
    elif isinstance(value, BaseModel):
        for name, inner in value:
            if name in _JOBS_OWN:
                continue
            if isinstance(inner, str) and _TELLING.search(name):
                yield inner
            yield from _in_value(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _in_value(inner)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for inner in value:
            yield from _in_value(inner)


def _in_text(text: str) -> Iterator[str]:
    """The password of a URL, as it stands there and as it is meant; a user without one may be a key, as in a DSN."""
    if "://" not in text or "@" not in text:
        return
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    user = parts.netloc.rpartition("@")[0]
    name, colon, password = user.partition(":")
    secret = password if colon else name if parts.scheme in ("http", "https") else ""
    yield from {secret, unquote(secret)}
