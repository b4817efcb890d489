"""An RQ job that calls another job's callback on a stock worker, without I/O."""

from __future__ import annotations

import zlib
from typing import Any

from enqueue.wire import rq as wire

CALL = "enqueue.callbacks.call"
"""What the stock worker runs; it imports the callback there, where the application is installed."""


def callback_job(
    callback: str,
    kind: str,
    job_id: str,
    value: object,
    queue: str,
    serializer: wire.Serializer,
    *,
    timeout: int,
    now: float | None = None,
) -> dict[str, str | bytes | int]:
    """The hash of the job. `kind`: success, failure or stopped; `value`: the outcome, the failure's text, or None."""
    moment = wire.utc(now)
    call: Any = (CALL, None, (callback, kind, job_id, value), {})
    return {
        "created_at": moment,
        "data": zlib.compress(wire.dumps(call, serializer)),
        "success_callback_name": "",
        "failure_callback_name": "",
        "stopped_callback_name": "",
        "started_at": "",
        "ended_at": "",
        "last_heartbeat": "",
        "worker_name": "",
        "group_id": "",
        "origin": queue,
        "description": f"{callback[:200]} after job {job_id}",
        "enqueued_at": moment,
        "timeout": timeout,
        "status": "queued",
    }
