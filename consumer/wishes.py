"""What a job asks of the consumer itself, whatever runs it, and the operator doesn't allow. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from consumer.ports import CollectingExecutor, Executor
from consumer.settings import Settings
from enqueue.job import Job
from enqueue.record import Reason


def refused_wishes(job: Job, settings: Settings, executor: Executor) -> Iterator[tuple[Reason, str]]:
    """Each field that can't be honoured here: a sentence that begins with its name."""
    if job.logs is not None:
        allowed = {*settings.logs.sinks, *settings.logs.allowed_sinks}
        for name in job.logs:
            if name not in allowed:
                known = ", ".join(sorted(allowed)) or "none"
                yield Reason.REFUSED, f"logs: '{name}' isn't allowed here (logs.allowed_sinks); allowed: {known}"
    if job.outputs is not None:
        bound = settings.outputs.max_bytes
        if settings.outputs.store is None:
            yield Reason.REFUSED, "outputs: there is nowhere to keep them here (outputs.store)"
        if not (isinstance(executor, CollectingExecutor) and executor.collects):
            yield Reason.REFUSED, f"outputs: the {executor.name} executor can't collect them"
        if job.outputs.max_bytes is not None and job.outputs.max_bytes > bound:
            yield Reason.REFUSED, f"outputs: max_bytes: is more than the {bound:,} allowed here (outputs.max_bytes)"
