"""A job as Faktory's FETCH gives it, read without any I/O.

Source: `client/job.go` of contribsys/faktory 1.10 for the fields and their order, `manager/retry.go` for the counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from enqueue.errors import ProtocolError
from enqueue.times import epoch
from enqueue.wire.resp import Oversize

REQUEUES = "longshore_requeues"
"""The key in `custom` that counts how often a consumer pushed the job again after a fault of the infrastructure."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A job as FETCH gave it: the whole object and its size in bytes; `truncated`: its arguments are missing.

    `raw`: the reply itself, where there was one that could be read.
    """

    native: dict[str, Any]
    size: int
    truncated: bool = False
    raw: bytes = b""

    @property
    def jid(self) -> str:
        """The job's id."""
        return str(self.native["jid"])

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return str(self.native.get("queue") or "default")

    @property
    def retry(self) -> int:
        """The server's retries in all: 0 forgets a job that fails, -1 buries it at once, 25 if nobody said."""
        retry = self.native.get("retry")
        return retry if type(retry) is int else 25

    @property
    def failures(self) -> int:
        """How often it failed before; expired reservations count. The server's own counter is 0 after the first."""
        failure = self.native.get("failure")
        count = failure.get("retry_count") if isinstance(failure, dict) else None
        return count + 1 if type(count) is int else 0

    @property
    def expired(self) -> bool:
        """The last of its failures was the end of a reservation, not a word of who ran it."""
        failure = self.native.get("failure")
        return isinstance(failure, dict) and failure.get("errtype") == "ReservationExpired"

    @property
    def requeues(self) -> int:
        """How often it was pushed again by us without counting as failed."""
        count = self.custom.get(REQUEUES)
        return count if type(count) is int and count > 0 else 0

    @property
    def retries_left(self) -> int:
        """The tries that the server still allows after this one."""
        return max(0, self.retry - self.failures)

    @property
    def custom(self) -> dict[str, Any]:
        """What producers attached."""
        custom = self.native.get("custom")
        return custom if isinstance(custom, dict) else {}

    @property
    def reserve_for(self) -> int:
        """Seconds from the FETCH until the server takes the job back: 60 to 86,400, 1,800 if nobody said."""
        seconds = self.native.get("reserve_for")
        return min(86_400, max(60, seconds)) if type(seconds) is int and seconds else 1_800

    @property
    def created(self) -> str:
        """When its producer made it, as it says."""
        return str(self.native.get("created_at") or "")[:64]

    @property
    def queued_at(self) -> float | None:
        """When it came into the queue, in seconds since the epoch."""
        return epoch(self.native.get("enqueued_at")) or epoch(self.native.get("created_at"))


def decode(reply: bytes | Oversize) -> Fetched:
    """Read a fetched job; of an oversize one all that the server writes before the arguments.

    Raises ProtocolError if it is no job at all.
    """
    try:
        if isinstance(reply, bytes):
            try:
                fetched = Fetched(json.loads(reply), len(reply), raw=reply)
            except (ValueError, RecursionError):  # its arguments' doing, such as their depth: it must still be ended
                fetched = Fetched(_beginning(reply) | {"args": None}, len(reply))
        else:
            fetched = Fetched(_beginning(reply.head), reply.size, truncated=True)
        if not isinstance(fetched.native["jid"], str):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ProtocolError("Faktory: FETCH answered something that is no job") from None
    return fetched


def _beginning(head: bytes) -> dict[str, Any]:
    text = head.decode("utf-8", "ignore")
    start = text.find('"args":[')
    while start >= 0:
        try:
            found: dict[str, Any] = json.loads(text[:start] + '"args":[]}')
            return found
        except ValueError:  # that was inside of `custom`
            start = text.find('"args":[', start + 1)
    raise ValueError
