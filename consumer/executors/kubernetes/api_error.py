"""What the Kubernetes API says when it says no."""

from __future__ import annotations

import json
import re
import time
from email.utils import parsedate_to_datetime

from consumer.errors import ExecutorFault

RETRY_AFTER_CAP = 60.0
LONGEST_MESSAGE = 500


class ApiError(ExecutorFault):
    """The API said no. `status` is the HTTP status (0: no answer), `code` the API's word, such as AlreadyExists."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """May go away by itself: no answer, too many requests, a fault of the server."""
        return self.status in (0, 429) or self.status >= 500

    @property
    def forbidden(self) -> re.Match[str] | None:
        """A missing right: a match with the groups user, verb, resource; None if it is something else."""
        if self.status != 403:
            return None
        return re.search(r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"', self.message)


def error_of(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """Read an error's body: a Status object, or whatever a proxy on the way says instead."""
    code, message = "", ""
    try:
        said = json.loads(body)
        if isinstance(said, dict):
            code, message = str(said.get("reason") or ""), str(said.get("message") or "")
    except (ValueError, RecursionError):
        message = " ".join(re.sub(r"<[^>]*>", " ", body[:4096].decode("utf-8", "replace")).split())
    message = message or f"HTTP {status}"
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + " ..."
    return ApiError(status, code, f"{message} (HTTP {status})" if status >= 500 else message, _seconds(retry_after))


def _seconds(retry_after: str | None) -> float | None:
    if not retry_after:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    return min(RETRY_AFTER_CAP, max(0.0, wait))
