"""longshore's producer: enqueue jobs, wait for them, follow their logs.

from enqueue import Job, connect

queue = connect("redis://localhost:6379/0")
handle = queue.enqueue(Job(image="alpine:3.20", commands=["echo hello"]))
print(handle.wait(timeout=60).status)
"""

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
