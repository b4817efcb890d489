"""How claims end on Faktory: the Record first, then the commands, sent until the server has taken them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import structlog

from consumer.errors import ClaimLost
from consumer.model import Claim, Settlement, Signal
from consumer.queues.faktory_connection import Link
from consumer.queues.faktory_words import Ending
from enqueue.errors import ProtocolError, QueueUnavailable
from enqueue.record import Record
from enqueue.wire.resp import Failed, Reply

log = structlog.get_logger()

_UNCERTAIN = 14.0
"""A job that failed comes again after 15 s at the earliest: until then a FAIL may be repeated without hitting it."""
_REFUSALS = 5


class ClaimState(Protocol):
    """What the record store knows of a fetched job."""

    @property
    def attempt(self) -> int:
        """Which attempt this is."""

    @property
    def record(self) -> Record | None:
        """The Record as former attempts left it."""

    @property
    def cancelled(self) -> bool:
        """Somebody wants it cancelled."""

    @property
    def verdict(self) -> Literal["ours", "held", "final"]:
        """Ours to run, held by another living consumer, or at its end (succeeded, cancelled)."""


class FaktoryRecords(Protocol):
    """Where the Records of Faktory's jobs are kept."""

    async def claim(self, jid: str, queue: str, token: str, consumer: str, seconds: float) -> ClaimState:
        """Take a fetched job, atomically; `seconds`: how long it may run at most."""

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        """{token: Signal} of claims that are lost or cancelled."""

    async def settle(self, settlement: Settlement) -> None:
        """Store the Record of an attempt's end. Raises ClaimLost."""


class Delivery:
    """Writes Records and sends commands until they are taken, or until `closing` is set."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.closing = asyncio.Event()

    async def store(self, records: FaktoryRecords, settlements: Sequence[Settlement]) -> dict[str, Exception]:
        """Write the Records; {token: error} of those that were refused or couldn't be written until `closing`."""

        async def one(settlement: Settlement) -> Exception | None:
            pause = 0.2
            while True:
                try:
                    await records.settle(settlement)
                    return None
                except (QueueUnavailable, OSError) as error:
                    if await self._closed_within(pause):
                        return error
                    pause = min(5.0, pause * 2)
                except Exception as error:
                    if not isinstance(error, ClaimLost):
                        log.error("record_refused", job_id=settlement.claim.id, error=str(error))
                    return error

        results = await asyncio.gather(*map(one, settlements))
        return {s.claim.token: e for s, e in zip(settlements, results, strict=True) if e is not None}

    async def send(self, endings: Sequence[Ending]) -> dict[str, Exception]:
        """Send until the server has taken each, with rising pauses; gives up only on `closing`."""
        loop = asyncio.get_running_loop()
        todo, pause, rounds = list(endings), 0.2, 0
        refused: dict[str, Exception] = {}
        sent: float | None = None
        while todo:
            error: Exception
            try:
                await self._link.connected()
                if sent is not None and loop.time() > sent + _UNCERTAIN:
                    for ending in [e for e in todo if not e.repeatable]:
                        log.warning("failure_not_repeated", job_id=ending.jid, why="it may be under way again")
                    todo = [e for e in todo if e.repeatable]
                sent = sent or loop.time()
                replies = await self._link.exchange([command for ending in todo for command in ending.commands])
                todo, error = self._undelivered(todo, replies)
                rounds += 1
                if todo and rounds >= _REFUSALS:
                    return refused | {ending.token: error for ending in todo}
            except (QueueUnavailable, ProtocolError) as unavailable:
                error = unavailable
                log.warning("settling_waits", count=len(todo), error=str(error))
            if todo and await self._closed_within(pause):
                return refused | {ending.token: error for ending in todo}
            pause = min(5.0, pause * 2)
        return refused

    def _undelivered(self, endings: Sequence[Ending], replies: Sequence[Reply]) -> tuple[list[Ending], ProtocolError]:
        left: list[Ending] = []
        error = ProtocolError("")
        at = 0
        for ending in endings:
            for number, _ in enumerate(ending.commands):
                reply = replies[at]
                at += 1
                if not isinstance(reply, Failed):
                    continue
                verb = ending.commands[number].split(b" ", 1)[0].decode()
                if number == ending.decisive and "not found" in reply.text:
                    continue  # the reservation is over: the server has put the job into its retries by itself
                log.warning("faktory_refused", command=verb, job_id=ending.jid, error=reply.text[:300])
                if number == ending.decisive:
                    error = ProtocolError(f"Faktory refused {verb}: {reply.text[:300]}")
                    left.append(ending)
        return left, error

    async def _closed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.closing.wait()
        except TimeoutError:
            return False
        return True
