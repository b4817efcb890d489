"""Functions and callbacks that stock RQ workers run in tests."""

from __future__ import annotations

import json
import threading
from typing import Any

from rq import get_current_job
from rq.exceptions import InvalidJobOperation


def succeed(*_: Any) -> dict[str, Any]:
    return {"status": "succeeded"}


def fail(*_: Any) -> None:
    raise RuntimeError("exited with code 3")


def _told(job: Any, connection: Any, kind: str, *further: Any) -> None:
    try:
        status: str | None = str(job.get_status(refresh=True).value)
    except InvalidJobOperation:  # not kept
        status = None
    connection.rpush("told", json.dumps([kind, job.id, status, *further]))


def note_success(job: Any, connection: Any, result: Any) -> None:
    _told(job, connection, "success", result["status"])


def note_failure(job: Any, connection: Any, kind: Any, error: Any, trace: Any) -> None:
    _told(job, connection, "failure", kind.__name__, str(error).splitlines()[0])


def note_stopped(job: Any, connection: Any) -> None:
    _told(job, connection, "stopped")


def fail_first(*_: Any) -> dict[str, Any]:
    job = get_current_job()
    if job is not None and job.retries_left:
        fail()
    return succeed()


def cancel_itself(*_: Any) -> dict[str, Any]:
    job = get_current_job()
    assert job is not None
    type(job).fetch(job.id, connection=job.connection).cancel()
    return succeed()


def wait(*_: Any) -> None:
    """Runs until it is stopped."""
    job = get_current_job()
    assert job is not None
    job.connection.set("running", 1)
    threading.Event().wait()
