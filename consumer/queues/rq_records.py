"""Records of RQ's jobs, in RQ's own hashes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import Redis

from consumer.lifeline import Lifeline
from consumer.model import Claim
from consumer.queues import rq_scripts as scripts
from consumer.queues.records import RecordStore
from consumer.settings import Retention
from enqueue.record import Record
from enqueue.wire import rq as wire

log = structlog.get_logger()


class RqRecords(RecordStore):
    """Records of RQ's jobs: in the job's own hash, a short form in its meta."""

    def __init__(
        self, redis: Redis, consumer: str, instance: str, retention: Retention, lifeline: Lifeline | None = None
    ) -> None:
        super().__init__(redis, consumer, instance, retention, lifeline)
        self._sent: dict[str, bytes] = {}
        self.terminated = asyncio.Event()
        """Set by RQ's command `shutdown`."""

    def key_of(self, claim: Claim) -> str:
        """The claim's hash."""
        return wire.job_key(claim.id)

    def guard_of(self, claim: Claim, record: Record) -> list[Any]:
        """Arguments 5 to 10 of the WRITE script."""
        change = claim.native.meta_change(record)
        self._sent[claim.token] = change[2]
        return ["", wire.registry_key("wip", claim.queue), f"{claim.id}:{claim.token}", *change]

    def taken(self, claim: Claim) -> None:
        """The write was taken, and with it the change of meta."""
        claim.native.meta_changed(self._sent.pop(claim.token, b""))

    def refused(self, claim: Claim, answer: Sequence[Any]) -> bool:
        """Somebody changed the meta meanwhile: take theirs and try again."""
        claim.native.meta = answer[1]
        return True

    def channels(self) -> list[str]:
        """Our own cancellations, and RQ's commands to this worker."""
        return [*super().channels(), f"rq:pubsub:{self.consumer}"]

    async def cancelled_id(self, message: bytes) -> str | None:
        """The job's id in a message: bare, or in RQ's command `stop-job`. `shutdown` is obeyed as well.

        `stop-job` leaves no mark of its own, so we make one. `kill-horse` means the one job of a forking worker: we
        have many, and which one is meant nobody says.
        """
        if not message.startswith(b"{"):
            return await super().cancelled_id(message)
        command: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            command = json.loads(message)
        name = command.get("command") if isinstance(command, dict) else None
        if name == "shutdown":
            self.terminated.set()
        elif name == "stop-job":
            job_id = str(command.get("job_id"))
            await self.redis.eval(scripts.STOP, 1, wire.job_key(job_id))
            return job_id
        elif name is not None:
            log.warning("command_ignored", command=str(name)[:100], instead="send stop-job with the job's id")
        return None
