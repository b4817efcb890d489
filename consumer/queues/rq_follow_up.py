"""What an RQ job's producer wants to happen after it: callbacks and webhooks, as arguments of the settle script.

A callback's function is never imported here: a job that calls it goes to a queue with stock workers. A webhook is
stored with the end and sent afterwards (`webhooks.py`). Formats: rq 2.12, `rq/job.py` and `rq/webhook.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Protocol

from consumer.model import Claim, Settlement
from consumer.settings import Rq
from consumer.values import frozen
from enqueue.job import JOB_NAME
from enqueue.wire import rq as wire
from enqueue.wire.rq_callbacks import callback_job

_KINDS = ("success", "failure", "stopped")
_CALLED = {
    "finished": "success",
    "failed": "failure",
    "queued": "failure",
    "scheduled": "failure",
    "stopped": "stopped",
}
MOST_WEBHOOKS = 20
"""Webhooks of one job that are sent."""


@frozen
class Wishes:
    """What is to follow. `callbacks`: kind -> dotted path and seconds that it may take."""

    callbacks: dict[str, tuple[str, int]] = field(default_factory=dict)
    webhooks: tuple[dict[str, Any], ...] = ()
    function: str = JOB_NAME
    enqueued_at: float | None = None


NO_WISHES = Wishes()


class Serialized(Protocol):
    """A job's own way of writing values."""

    serializer: wire.Serializer


def wishes_of(fields: Sequence[bytes | None], function: str, enqueued_at: bytes | None) -> Wishes:
    """From the hash's `webhooks`, then name and timeout of each kind of callback. What can't be read is left out."""
    if not any(fields):
        return NO_WISHES
    callbacks = {}
    for kind, name, timeout in zip(_KINDS, fields[1::2], fields[2::2], strict=True):
        if name:
            callbacks[kind] = (name.decode("utf-8", "replace"), wire.whole(timeout) or 60)
    return Wishes(callbacks, tuple(_webhooks(fields[0])), function, wire.from_utc(enqueued_at))


def _webhooks(stored: bytes | None) -> list[dict[str, Any]]:
    try:
        found = json.loads(stored or b"[]")
    except (ValueError, RecursionError):
        return []
    hooks = found if isinstance(found, list) else []
    return [hook for hook in hooks if isinstance(hook, dict) and isinstance(hook.get("url"), str)][:MOST_WEBHOOKS]


def refusal(wishes: Wishes) -> str:
    """Why a job with callbacks isn't run where nobody would call them."""
    kind, (name, _) = next(iter(wishes.callbacks.items()))
    return (
        f"on_{kind}: '{name[:200]}' can't be called: functions that a job names are never imported here. Enqueue the "
        "job without it, or have the operator set rq.callback_queue to a queue with stock RQ workers"
    )


def callback_of(
    settlement: Settlement, native: Serialized, status: str, text: str, rq: Rq, ended: float
) -> list[str | bytes | int]:
    """The callback's queue, its job's id, the number of its hash's fields and values, and those; or nothing to call."""
    claim = settlement.claim
    kind = _CALLED.get(status, "")
    wanted = claim.native.wishes.callbacks.get(kind)
    if wanted is None or not rq.callback_queue:
        return ["", "", 0]
    value = {"success": settlement.outcome.model_dump(mode="json"), "failure": text}.get(kind)
    fields = callback_job(
        wanted[0], kind, claim.id, value, rq.callback_queue, native.serializer, timeout=wanted[1], now=ended
    )
    flat = [item for pair in fields.items() for item in pair]
    return [rq.callback_queue, f"{claim.token}-{kind}", len(flat), *flat]


def webhooks_of(claim: Claim, wishes: Wishes, status: str, text: str, rq: Rq, ended: float) -> list[str]:
    """Each webhook that is to be sent at this end, as it is stored until then."""
    if not rq.webhooks or status not in ("finished", "failed"):
        return []
    hooks = [hook for hook in wishes.webhooks if hook.get("job_status") == status]
    body: dict[str, Any] = {
        "job_id": claim.id,
        "func_name": wishes.function,
        "status": status,
        "enqueued_at": _iso(wishes.enqueued_at),
        "ended_at": _iso(ended),
    }
    if status == "failed":
        body["exc_info"] = text
    return [
        json.dumps({"call": f"{claim.token}-{number}", "tries": 0, "hook": hook, "body": body})
        for number, hook in enumerate(hooks)
    ]


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()
