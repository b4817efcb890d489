"""How claims end on Faktory: the Record first, then the commands, sent until the server has taken them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import structlog

from consumer.errors import ClaimLost
from consumer.model import Claim, Settlement, Signal, Verdict
from consumer.queues.faktory_connection import Link
from consumer.queues.faktory_words import Ending, ending_of
from enqueue.errors import ProtocolError, QueueUnavailable
from enqueue.record import Record
from enqueue.wire import faktory as wire
from enqueue.wire.faktory_fetched import Fetched
from enqueue.wire.resp import Failed

log = structlog.get_logger()
Item = TypeVar("Item")

_REMEMBERED = 10_000

_ROUNDS = 5
"""How often commands are sent that the server refuses; lost connections don't count."""


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
    def verdict(self) -> Literal["ours", "held", "final", "failed", "spoilt"]:
        """Ours to run, held by another living consumer, at its end (succeeded, cancelled), or failed and untold."""


class Taken(Protocol):
    """A job that a dead consumer held."""

    @property
    def token(self) -> str:
        """Fences our writes from now on."""

    @property
    def fetched(self) -> Fetched:
        """As the dead consumer fetched it."""

    @property
    def state(self) -> ClaimState:
        """What the store knows of it."""

    @property
    def until(self) -> float:
        """The end of its reservation, in seconds since the epoch."""


class FaktoryRecords(Protocol):
    """Where the Records of Faktory's jobs are kept."""

    async def claim(self, fetched: Sequence[tuple[Fetched, str]]) -> Sequence[ClaimState | Exception]:
        """Take fetched jobs under their tokens, each atomically."""

    async def takeover(self, queues: Sequence[str], slots: int) -> Sequence[Taken]:
        """Up to `slots` claims of dead consumers, now ours."""

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        """{token: Signal} of claims that are lost or cancelled."""

    async def untold(self, queues: Sequence[str]) -> Sequence[Ending]:
        """What dead consumers have recorded and may not have told Faktory: ours to tell."""

    async def failures(self, jids: Sequence[str]) -> Mapping[str, int]:
        """{jid: failures} of running jobs that the server handed to other consumers, as it counted them then."""

    async def settle(self, ends: Sequence[tuple[Settlement, Ending]]) -> Sequence[Exception | None]:
        """Store the Records of attempts that ended, and what Faktory is to be told; ClaimLost of the lost."""

    async def told(self, endings: Sequence[Ending]) -> Sequence[Exception | None]:
        """Faktory has been told."""


@dataclass(slots=True)
class Held:
    """A job between its FETCH and its settlement; `until`: the end of its reservation on the loop's clock.

    `failures`: as the server counted them when its reservation had ended and it came again.
    """

    token: str
    until: float
    failures: int = 0


async def failures_of(
    settlements: Sequence[Settlement], held: Mapping[str, Held], records: FaktoryRecords | None
) -> dict[str, int]:
    """{jid: failures} as the server counts them by now, where that may decide whether it has a try left."""
    again = [settlement.claim.id for settlement in settlements if settlement.verdict is Verdict.RETRY]
    told = await records.failures(again) if records is not None and again else {}
    return {jid: max(told.get(jid, 0), held[jid].failures if jid in held else 0) for jid in again}


class Ended(OrderedDict[str, Verdict]):
    """How the latest claims of this process ended, by their jids."""

    def add(self, jid: str, verdict: Verdict) -> None:
        """Remember it, and forget the oldest of too many."""
        self[jid] = verdict
        while len(self) > _REMEMBERED:
            self.popitem(last=False)


class Delivery:
    """Writes Records and sends commands until they are taken, or until `closing` is set."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.closing = asyncio.Event()

    async def store(
        self, records: FaktoryRecords, settlements: Sequence[Settlement], now: float, failures: Mapping[str, int]
    ) -> dict[str, Exception]:
        """Write the Records; {token: error} of those that were refused or couldn't be written until `closing`."""
        todo = [(s, ending_of(s, late=False, now=now, failures=failures.get(s.claim.id, 0))) for s in settlements]
        refused: dict[str, Exception] = {}
        pause = 0.2
        while todo:
            errors = await _each(records.settle, todo)
            away = [(end, e) for end, e in zip(todo, errors, strict=True) if isinstance(e, (QueueUnavailable, OSError))]
            for (settlement, _), error in zip(todo, errors, strict=True):
                if error is None or isinstance(error, (QueueUnavailable, OSError)):
                    continue
                if not isinstance(error, ClaimLost):
                    log.error("record_refused", job_id=settlement.claim.id, error=str(error))
                refused[settlement.claim.token] = error
            if away and await self._closed_within(pause):
                return refused | {settlement.claim.token: error for (settlement, _), error in away}
            todo, pause = [end for end, _ in away], min(5.0, pause * 2)
        return refused

    async def tell(self, records: FaktoryRecords | None, endings: Sequence[Ending]) -> dict[str, Exception]:
        """`send`, and note in the Records who was told: until then another consumer would tell it in our place."""
        refused = await self.send(endings)
        if records is not None:
            await self._note(records, [ending for ending in endings if ending.token not in refused])
        return refused

    async def inherit(self, records: FaktoryRecords, endings: Sequence[Ending]) -> None:
        """Tell what dead consumers were about to tell; what they have pushed already is replaced, not doubled."""
        pushed = [e.jid for e in endings if e.needs_before]
        await self.send([Ending("", jid, (wire.mutate("discard", "scheduled", jid=jid),)) for jid in pushed])
        await self.tell(records, endings)

    async def _note(self, records: FaktoryRecords, endings: Sequence[Ending]) -> None:
        todo, pause = list(endings), 0.2
        while todo:
            errors = await _each(records.told, todo)
            todo = [e for e, x in zip(todo, errors, strict=True) if isinstance(x, (QueueUnavailable, OSError))]
            if todo and await self._closed_within(pause):
                return
            pause = min(5.0, pause * 2)

    async def send(self, endings: Sequence[Ending]) -> dict[str, Exception]:
        """Send until the server has taken each, with rising pauses; gives up only on `closing`.

        What was sent on a connection that was lost is sent again, however late: a job that waited for the end of
        its reservation instead might wait for a day.
        """
        todo, pause, rounds = list(endings), 0.2, 0
        while todo:
            error: Exception
            try:
                todo, error = await self._round(todo, last=rounds == _ROUNDS - 1)
                rounds += 1
                if todo and rounds == _ROUNDS:
                    return {ending.token: error for ending in todo}
            except (QueueUnavailable, ProtocolError) as unavailable:
                error = unavailable
                log.warning("settling_waits", count=len(todo), error=str(error))
            if todo and await self._closed_within(pause):
                return {ending.token: error for ending in todo}
            pause = min(5.0, pause * 2)
        return {}

    async def _round(self, endings: Sequence[Ending], *, last: bool) -> tuple[list[Ending], ProtocolError]:
        """Send each once; those that the server refused come back, with the last refusal."""
        left: list[Ending] = []
        error = ProtocolError("")
        first = [(ending, ending.before) for ending in endings if ending.before]
        if first:
            for (ending, command), reply in zip(
                first, await self._link.exchange([command for _, command in first]), strict=True
            ):
                if isinstance(reply, Failed):
                    error = _refusal(ending, command, reply)
                    if ending.needs_before or not last:
                        left.append(ending)
        going = [ending for ending in endings if ending not in left] if left else endings
        commands = [(ending, command) for ending in going for command in ending.commands]
        if commands:
            replies = await self._link.exchange([command for _, command in commands])
            for (ending, command), reply in zip(commands, replies, strict=True):
                if not isinstance(reply, Failed):
                    continue
                if command.startswith(b"FAIL") and "not found" in reply.text:
                    continue  # the reservation is over: the server has put the job into its retries by itself
                error = _refusal(ending, command, reply)
                rest = replace(ending, before=None)
                if rest not in left:
                    left.append(rest)
        return left, error

    async def _closed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.closing.wait()
        except TimeoutError:
            return False
        return True


async def _each(
    work: Callable[[Sequence[Item]], Awaitable[Sequence[Exception | None]]], items: Sequence[Item]
) -> Sequence[Exception | None]:
    """What concerns all concerns each."""
    try:
        return await work(items)
    except Exception as error:
        return [error] * len(items)


def _refusal(ending: Ending, command: bytes, reply: Failed) -> ProtocolError:
    verb = command.split(b" ", 1)[0].decode()
    log.warning("faktory_refused", command=verb, job_id=ending.jid, error=reply.text[:300])
    return ProtocolError(f"Faktory refused {verb}: {reply.text[:300]}")
