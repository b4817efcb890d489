"""Names, labels and annotations of our pods and containers: pure functions of queue, job id and attempt.

A pod's name is a compare-and-set: whoever creates it second gets 409 and looks. Job ids never stand in names or
labels as they are (they may be long or odd), only in an annotation.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re

MANAGED_BY = "app.kubernetes.io/managed-by"
OURS = f"{MANAGED_BY}=longshore"
JOB = "longshore.dev/job"
ATTEMPT = "longshore.dev/attempt"
CONSUMER = "longshore.dev/consumer"
JOB_ID = "longshore.dev/job-id"
QUEUE = "longshore.dev/queue"
DIGEST = "longshore.dev/job-digest"
SOURCE = "longshore.dev/source"
CREATED = "longshore.dev/created"
SECRET = "longshore.dev/secret"


@functools.lru_cache(maxsize=8192)  # every event of a pod asks for it again
def job_key(queue: str, job_id: str) -> str:
    """26 characters (130 bits) that stand for a job: a valid label and part of a name."""
    digest = hashlib.sha256(f"{queue}\0{job_id}".encode("utf-8", "surrogatepass")).digest()
    return base64.b32encode(digest[:20]).decode().lower()[:26]


def pod_name(queue: str, job_id: str, attempt: int) -> str:
    """The one name of this attempt's pod."""
    return f"ls-{job_key(queue, job_id)}-{attempt}"


@functools.lru_cache(maxsize=16)
def label_of(text: str) -> str:
    """The text if it is a label value, else a hash that is one."""
    if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", text, re.ASCII):
        return text
    return base64.b32encode(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()).decode().lower()[:26]
