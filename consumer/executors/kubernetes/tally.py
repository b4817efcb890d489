"""Counts requests to the API, as Kubernetes names them: verb and resource."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from consumer.model import Measure

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Tally:
    """What one client asked for; read when somebody wants metrics."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, bool, int]] = Counter()
        self._seconds: dict[tuple[str, str, bool], float] = {}
        self._retries: Counter[tuple[str, str]] = Counter()
        self._throttled = 0.0

    def count(self, method: str, path: str, status: int, seconds: float, waited: float, *, watch: bool = False) -> None:
        """A request that was answered with `status` (0: not at all) after `seconds`, beside those that it `waited`."""
        shape = (method, _shape(path), watch)
        self._requests[*shape, status] += 1
        self._seconds[shape] = self._seconds.get(shape, 0.0) + seconds
        self._throttled += waited

    def again(self, method: str, path: str) -> None:
        """It failed, and is made once more."""
        self._retries[method, _shape(path)] += 1

    def measures(self) -> Iterator[Measure]:
        """All of it."""
        for (method, shape, watch, status), count in self._requests.items():
            yield Measure("api_requests", count, (*_words(method, shape, watch), ("code", str(status))))
        for (method, shape, watch), seconds in self._seconds.items():
            yield Measure("api_request_seconds", seconds, _words(method, shape, watch))
        for (method, shape), count in self._retries.items():
            yield Measure("api_retries", count, _words(method, shape, False))
        yield Measure("api_throttled_seconds", self._throttled)


def _shape(path: str) -> str:
    """The path without names: `pods`, `pods/` for a named one, `pods//log` for what belongs to it."""
    parts = path.split("/")
    start = 5 if parts[1] == "api" else 6
    if len(parts) > start and parts[start - 2] == "namespaces":
        parts = parts[start:]
    else:  # not within a namespace
        parts = parts[start - 2 :] or ["other"]
    if len(parts) > 1:
        parts[1] = ""
    return "/".join(parts)


def _words(method: str, shape: str, watch: bool) -> tuple[tuple[str, str], tuple[str, str]]:
    resource, named, part = (*shape.split("/"), None, None)[:3]
    verb = _VERBS.get(method) or ("watch" if watch else "list" if named is None else "get")
    return ("verb", verb), ("resource", f"{resource}/{part}" if part else str(resource))
