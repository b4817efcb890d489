"""Jobs on RQ in tests: ends without anything that runs, and stock workers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis
import rq

from consumer.model import Claim, LogPosition, Settlement, Verdict
from consumer.outcome import failure_text
from consumer.queues.rq import RqQueue
from consumer.recording import log_of, record_claimed, record_ended
from enqueue.record import Outcome, Status, Where

JOB = {"image": "alpine:3.20", "commands": ["echo hi"]}
SUCCESS = Outcome(status=Status.SUCCEEDED, exit_code=0, variables={"a": "1"})
FAILURE = Outcome(
    status=Status.FAILED, reason="exit_code", message="exited with code 3", hint="See its log.", exit_code=3
)
CANCELLED = Outcome(status=Status.CANCELLED, reason="requested", message="cancelled while it ran", exit_code=143)


def ended(claim: Claim, outcome: Outcome, verdict: Verdict, **kwargs: Any) -> Settlement:
    """The end of a claim, as `run_job` makes it."""
    record = record_claimed(claim, "c1", "null", "")
    record = record_ended(record, outcome, verdict, Where(), None, log_of("", LogPosition()), time.time())
    text = failure_text(record, outcome, verdict, ()) if outcome.status is Status.FAILED else ""
    return Settlement(claim, verdict, outcome, record, text, **kwargs)


def run_stock(connection: redis.Redis, *queues: str, **options: Any) -> None:
    """A stock worker runs all that is there."""
    rq.SimpleWorker(list(queues), connection=connection, **options).work(burst=True)


async def claimed(queue: RqQueue) -> Claim:
    """The next job; scheduled ones come by themselves."""
    async with asyncio.timeout(20):
        while True:
            for claim in await queue.claim(1):
                return claim
