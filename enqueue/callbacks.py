"""Runs RQ callbacks of longshore's jobs on stock RQ workers, where the application's own modules can be imported.

The consumer enqueues a job that calls `call` here, on the queue that its operator chose. The workers of that queue
need this package beside the application.
"""

from __future__ import annotations

from typing import Any


class JobFailed(Exception):
    """What a failure callback gets as the exception: its text is what RQ shows of the failure."""


def call(callback: str, kind: str, job_id: str, value: Any) -> Any:
    """Import and call a callback as RQ would, with the job, its connection, and what belongs to this kind.

    `success`: the outcome; `failure`: type, exception and traceback (None); `stopped`: nothing. A job that isn't kept
    (`result_ttl=0`) has its id only.
    """
    from rq import get_current_job
    from rq.exceptions import NoSuchJobError
    from rq.job import Job
    from rq.utils import import_attribute

    current = get_current_job()
    if current is None:
        raise RuntimeError(f"{__name__}.call is run by RQ's workers")
    try:
        job = Job.fetch(job_id, connection=current.connection, serializer=current.serializer)
    except NoSuchJobError:
        job = Job(job_id, connection=current.connection, serializer=current.serializer)
    further: tuple[Any, ...] = ()
    if kind == "success":
        further = (value,)
    elif kind == "failure":
        further = (JobFailed, JobFailed(value), None)
    return import_attribute(callback)(job, current.connection, *further)
