"""longshore's producer: enqueue jobs, wait for them, follow their logs.

from enqueue import Job, connect

queue = connect("redis://localhost:6379/0")
handle = queue.enqueue(Job(image="alpine:3.20", commands=["echo hello"]))
print(handle.wait(timeout=60).status)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enqueue.client import Handle, Producer, connect
    from enqueue.errors import (
        InvalidJob,
        LongshoreError,
        ProtocolError,
        QueueUnavailable,
        RecordsUnavailable,
        UnknownJob,
        UsageError,
    )
    from enqueue.explain import Cause, Explanation
    from enqueue.job import JOB_NAME, Job
    from enqueue.job_parts import File, InitStep, Limit, Retention, SecretReference, Variable
    from enqueue.logs import LogCheck, LogLine
    from enqueue.order import Enqueued, Order
    from enqueue.pod import Resources, Toleration
    from enqueue.record import Outcome, Progress, Reason, Record, Status

__all__ = [
    "JOB_NAME",
    "Cause",
    "Enqueued",
    "Explanation",
    "File",
    "Handle",
    "InitStep",
    "InvalidJob",
    "Job",
    "Limit",
    "LogCheck",
    "LogLine",
    "LongshoreError",
    "Order",
    "Outcome",
    "Producer",
    "Progress",
    "ProtocolError",
    "QueueUnavailable",
    "Reason",
    "Record",
    "RecordsUnavailable",
    "Resources",
    "Retention",
    "SecretReference",
    "Status",
    "Toleration",
    "UnknownJob",
    "UsageError",
    "Variable",
    "connect",
]

_PLACES = {
    "client": ("Handle", "Producer", "connect"),
    "errors": (
        "InvalidJob",
        "LongshoreError",
        "ProtocolError",
        "QueueUnavailable",
        "RecordsUnavailable",
        "UnknownJob",
        "UsageError",
    ),
    "explain": ("Cause", "Explanation"),
    "job": ("JOB_NAME", "Job"),
    "job_parts": ("File", "InitStep", "Limit", "Retention", "SecretReference", "Variable"),
    "logs": ("LogCheck", "LogLine"),
    "order": ("Enqueued", "Order"),
    "pod": ("Resources", "Toleration"),
    "record": ("Outcome", "Progress", "Reason", "Record", "Status"),
}
"""Where each name is. It is imported when somebody asks for it: `longshore --help` needs no client of Redis."""


def __getattr__(name: str) -> Any:
    if name in _PLACES or name == "aio":
        return importlib.import_module(f"enqueue.{name}")
    for module, names in _PLACES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"enqueue.{module}"), name)
            return value
    raise AttributeError(f"module 'enqueue' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
