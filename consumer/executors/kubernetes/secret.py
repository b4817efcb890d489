"""What of a job stands in a Secret, never in its pod: sensitive values, files and long scripts. Pure.

It follows from the job alone: whoever adopts a pod that waits for its Secret makes the same one, whatever the operator
has changed meanwhile.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from consumer.errors import Unrunnable
from consumer.executors import names
from consumer.model import Plan
from enqueue.job import Job

INLINE_SCRIPT = 64 * 1024
"""A longer script comes as a file: the kernel takes at most 128 KiB for one argument."""
SECRET_BYTES = 1_000_000


@dataclass(slots=True)
class Secret:
    """The data of an attempt's Secret (empty: none is needed), and how large each field of the job is in it."""

    name: str
    pod: str
    labels: dict[str, str]
    data: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def put(self, key: str, value: str, of: str) -> None:
        """Add what the job has in this field."""
        raw = value.encode()
        self.data[key] = base64.b64encode(raw).decode()
        self.sizes[of] = self.sizes.get(of, 0) + len(raw)

    def check(self) -> None:
        """Raises Unrunnable if no Secret holds as much."""
        total = sum(self.sizes.values())
        if total > SECRET_BYTES:
            largest = max(self.sizes, key=lambda name: self.sizes[name])
            raise Unrunnable(
                f"{largest}: is too large: files, sensitive variables and long scripts together have {total:,} bytes, "
                f"and a Secret holds at most {SECRET_BYTES:,}"
            )

    def owned_by(self, uid: str) -> dict[str, Any]:
        """As the API wants it, owned by the pod with this uid: it goes when the pod goes."""
        owner = {"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": uid}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.name, "labels": self.labels, "ownerReferences": [owner]},
            "immutable": True,
            "type": "Opaque",
            "data": self.data,
        }


def secret_of(plan: Plan, name: str = "") -> Secret:
    """The Secret of a Plan's pod. `name`: as the pod says; without one it is the pod's."""
    job = plan.job
    labels = {
        names.MANAGED_BY: "longshore",
        names.JOB: names.job_key(plan.queue, plan.id),
        names.ATTEMPT: str(plan.attempt),
    }
    pod = names.pod_name(plan.queue, plan.id, plan.attempt)
    secret = Secret(name or pod, pod, labels)
    for i, file in enumerate(job.files):
        secret.put(f"file-{i}", file.contents, f"files[{i}] ({file.path})")
    for handed in plan.handed:
        secret.put(handed.name, handed.contents, "the arguments")
    if job.init is not None and _comes_as_file(job, job.init.commands):
        secret.put("init-script", "\n".join(job.init.commands), "init.commands")
    if job.commands and _comes_as_file(job, job.commands):
        secret.put("script", "\n".join(job.commands), "commands")
    steps = ("all", "main") if job.init is None else ("all", "main", "init")
    for i, variable in enumerate(job.variables):
        if variable.sensitive and variable.scope in steps:
            secret.put(f"variable-{i}", variable.value, f"variables[{i}] ({variable.name})")
    return secret


def _comes_as_file(job: Job, commands: Sequence[str]) -> bool:
    """The script is too long for an argument, or tells a secret."""
    text = "\n".join(commands)
    return len(text.encode()) > INLINE_SCRIPT or any(value in text for value in job.sensitive_values())
