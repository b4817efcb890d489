"""The port `Queue` on Faktory.

Slots aren't connections: a reservation belongs to the jid, so one to four connections with one FETCH in flight
each feed thousands of slots, and any connection may ACK. Source: the FWP specification, and Faktory 1.10 for what
happens when a reservation ends: the job goes to the retries, and comes again.
"""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import structlog

from consumer.errors import SetupError
from consumer.model import Claim, Settlement, Signal, Verdict
from consumer.queue_order import QueueOrder
from consumer.queues.faktory_connection import Fetcher, Link, beats
from consumer.queues.faktory_resolving import Resolving, Rest
from consumer.queues.faktory_settling import ClaimState, Delivery, Ended, FaktoryRecords, Held, failures_of
from consumer.queues.faktory_words import (
    MARGIN,
    Ending,
    Warnings,
    ack_of,
    bury_of,
    claim_of,
    ending_of,
    is_acked,
    later_of,
)
from enqueue.errors import LongshoreError, ProtocolError, QueueUnavailable
from enqueue.wire import faktory as wire
from enqueue.wire.call import Load, the_job
from enqueue.wire.faktory_fetched import Fetched, decode
from enqueue.wire.resp import Failed, Oversize, Reply

log = structlog.get_logger()

BEAT_EVERY = 15.0
"""Seconds between heartbeats; the server forgets a worker after 60."""
TAKEOVER_EVERY = 5.0
"""Seconds between two looks for claims of dead consumers."""


class FaktoryQueue:
    """The port `Queue` on Faktory; one instance belongs to one consumer process.

    `records` None: nothing is known of a job but what Faktory and this process know. `max_bytes`: the largest
    accepted arguments. `queues`: as `QueueOrder` reads them; by weight each FETCH names them in an order of its own.
    When the web UI says quiet (or terminate), nothing is fetched from then on, and `stopping` is set as soon as what
    was in flight has been handed out; `terminated` is set by terminate only. UsageError for a bad URL or queue name.
    """

    requeues, hands_over = True, False
    """A job can be given back without counting a failure."""

    def __init__(
        self,
        url: str,
        queues: Sequence[str],
        *,
        records: FaktoryRecords | None,
        consumer: str,
        max_bytes: int,
        fetch_connections: int = 4,
        beat_every: float = BEAT_EVERY,
        patience: float = 2.0,
        load: Load = the_job,
        labels: Sequence[str] = (),
        ca_file: str | None = None,
    ) -> None:
        self.address = wire.parse_url(url)
        self.order = QueueOrder.of(queues)
        self.queues = self.order.names
        self.consumer = consumer
        self.worker = wire.Worker(
            secrets.token_hex(8), socket.gethostname(), os.getpid(), ("longshore", consumer, *labels)
        )
        self.stopping = asyncio.Event()
        self.terminated = asyncio.Event()
        self.quiet = False
        self._records, self._max_bytes, self._load = records, max_bytes, load
        self._beat_every, self._patience = beat_every, patience
        self._link = Link(self.address, self.worker, ca_file)
        limit = max(4 * max_bytes, 1024 * 1024)
        wire.fetch(self.queues)  # their names are checked
        self._fetchers = [
            Fetcher(self.address, self.worker, self._command, limit, self._arrived, ca_file)
            for _ in range(max(1, fetch_connections))
        ]
        self._width = 1
        self._asked = 0  # slots of the call of `claim` that waits now
        self._draining = False
        self._delivery = Delivery(self._link)
        self._news = asyncio.Event()
        self._losses = 0
        self._trouble: QueueUnavailable | None = None
        self._arrivals: deque[tuple[bytes | Oversize, float]] = deque()
        self._ready: deque[Claim] = deque()
        self._resolving = Resolving(self._resolved, self._spawn, self._news)
        self._warnings = Warnings()
        self._held: dict[str, Held] = {}
        self._look_at = 0.0
        self._ended = Ended()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Connect and begin the heartbeat. Raises QueueUnavailable; SetupError if the server refuses us."""
        try:
            await self._link.connected()
        except (wire.Unwelcome, ProtocolError) as error:
            raise SetupError(str(error)) from None
        self._spawn(beats(self._link, self.worker.wid, self._beat_every, self._told))

    async def claim(self, slots: int) -> Sequence[Claim]:
        """Up to `slots` jobs in the queues' order; waits about two seconds for the first one.

        Raises QueueUnavailable. A call that is cancelled loses nothing: its jobs come with the next one.
        """
        if slots < 1:
            await asyncio.sleep(0)  # whoever asks in a loop must let the others work
            return []
        now = asyncio.get_running_loop().time()
        if self._records is not None and now >= self._look_at and not (self._ready or self._ending):
            await self._take_over(self._records, slots - self._waiting, now)
        if not self._ready and not self._arrivals and not self._ending:
            try:
                await self._fetch(slots)
            except ProtocolError as error:
                raise QueueUnavailable(str(error)) from None
        if self._ending and not self._waiting:
            self.stopping.set()
            await asyncio.sleep(self._patience)
        while not self._ready and self._waiting:
            if not self._arrivals:
                self._news.clear()
                self._asked = slots
                try:
                    await self._news.wait()
                finally:
                    self._asked = 0
            if self._look_at == 0.0 and self._records is not None and not self._ending:
                break  # a consumer is gone: what it held comes first, and what is in flight with a later call
            if self._arrivals and not self._ending:  # the server finds more while we read what came
                self._fetch_more(slots)
            self._read_arrivals()
        trouble, self._trouble = self._trouble, None
        if not self._ready and trouble is not None:
            raise trouble
        return [self._ready.popleft() for _ in range(min(slots, len(self._ready)))]

    async def drain(self) -> Sequence[Claim]:
        """No more claims: waits up to five seconds for the fetches in flight and returns their jobs."""
        self._draining = True
        try:
            async with asyncio.timeout(5):
                while self._waiting:
                    self._read_arrivals()
                    if self._waiting:
                        self._news.clear()
                        await self._news.wait()
        except TimeoutError:
            log.warning("fetches_unanswered", count=self._waiting, until="their reservations end")
        claims = list(self._ready)
        self._ready.clear()
        return claims

    async def beat(self, claims: Sequence[Claim]) -> Mapping[str, Signal]:
        """{token: Signal} for claims that are lost or cancelled. Faktory's own heartbeat goes by itself."""
        return {} if self._records is None else await self._records.beat(claims)

    async def settle(self, settlements: Sequence[Settlement]) -> Mapping[str, Exception]:
        """Record first, then Faktory; tries on until it is done or `close` was called. {token: error} of the refused.

        A claim that is fenced off (ClaimLost) is another consumer's: Faktory isn't told anything.
        """
        now = time.time()
        counts = await failures_of(settlements, self._held, self._records)
        refused = {} if self._records is None else await self._delivery.store(self._records, settlements, now, counts)
        accepted = [settlement for settlement in settlements if settlement.claim.token not in refused]
        late = {settlement.claim.id for settlement in accepted if self._late(settlement.claim)}
        endings = [ending_of(s, late=s.claim.id in late, now=now, failures=counts.get(s.claim.id, 0)) for s in accepted]
        replies = [Ending("", s.claim.id, tuple(map(wire.push, s.replies))) for s in accepted if s.replies]
        await self._delivery.send(replies)
        refused |= await self._delivery.tell(self._records, endings)
        for settlement in settlements:
            claim = settlement.claim
            verdict = Verdict.DONE if is_acked(claim.job) else settlement.verdict
            if claim.token not in refused and (
                verdict is Verdict.DONE or (verdict is Verdict.BURY and claim.id in late)
            ):
                self._ended.add(claim.id, verdict)
            self._release(claim)
        return refused

    async def close(self) -> None:
        """Say goodbye. Claims stay as they are until their reservations end."""
        self._draining = True
        self._delivery.closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._link.close(), *(fetcher.close() for fetcher in self._fetchers))
        await asyncio.sleep(0)  # what was cancelled while it dialled is closed by the loop's next round

    # --- fetching

    def _command(self) -> bytes:
        return wire.fetch(self.order.drawn())

    @property
    def _ending(self) -> bool:
        return self._draining or self.quiet or self.stopping.is_set()

    @property
    def _waiting(self) -> int:
        """What may still become a claim: FETCHes in flight, and answers that aren't claims yet."""
        return sum(fetcher.busy for fetcher in self._fetchers) + len(self._arrivals) + self._resolving.count

    def _fetch_more(self, slots: int) -> list[Fetcher]:
        """Have as many FETCHes in flight as there are slots and as the queues seem to fill; returns who can't yet."""
        if self._resolving.unstored:  # should we die, what came and isn't claimed waits for its reservation's end
            return []
        free = slots - len(self._ready) - len(self._arrivals) - self._resolving.count
        wanted = min(self._width, free) - sum(fetcher.busy for fetcher in self._fetchers)
        idle = [fetcher for fetcher in self._fetchers if not (fetcher.busy or fetcher.connecting)] if wanted > 0 else []
        idle.sort(key=lambda fetcher: not fetcher.usable)
        for fetcher in idle[:wanted]:
            if fetcher.usable:
                fetcher.start()
        return [fetcher for fetcher in idle[:wanted] if not fetcher.busy]

    async def _fetch(self, slots: int) -> None:
        """The same, with new connections; only without any it waits for the first one."""
        for fetcher in self._fetch_more(slots):
            if self._waiting:
                self._spawn(self._connect(fetcher))
            else:
                await fetcher.connect()
                if not self._ending:
                    fetcher.start()

    async def _connect(self, fetcher: Fetcher) -> None:
        try:
            await fetcher.connect()
        except LongshoreError as error:
            log.info("fetch_connection_failed", error=str(error))

    def _arrived(self, reply: Reply | Exception) -> None:
        self._news.set()
        if isinstance(reply, (bytes, Oversize)):
            self._losses = 0
            self._width = min(len(self._fetchers), self._width * 2)
            self._arrivals.append((reply, asyncio.get_running_loop().time()))
            if self._asked and not self._ending:  # the server finds the next one before anybody here is woken
                self._fetch_more(self._asked)
        elif reply is None:
            self._losses = 0
            self._width = 1
        elif isinstance(reply, Failed):
            self._trouble = QueueUnavailable(f"Faktory at {self.address} answered FETCH with: {reply.text[:300]}")
        elif isinstance(reply, ProtocolError):
            self._trouble = QueueUnavailable(str(reply))
        else:  # one lost connection is dialled anew by the next call; when that is lost too, somebody must wait
            self._losses += 1
            if self._losses > len(self._fetchers) and not self._delivery.closing.is_set():
                self._trouble = QueueUnavailable(f"Faktory at {self.address} drops our connections: {reply}")

    def _read_arrivals(self) -> None:
        fresh: list[tuple[Fetched, str]] = []
        while self._arrivals:
            reply, since = self._arrivals.popleft()
            try:
                self._take_in(decode(reply), since, fresh)
            except ProtocolError as error:
                self._trouble = QueueUnavailable(str(error))
        if fresh and self._records is not None:
            self._spawn(self._resolving.take(self._records, fresh))

    def _take_in(self, fetched: Fetched, since: float, fresh: list[tuple[Fetched, str]]) -> None:
        jid, until = fetched.jid, since + fetched.reserve_for
        if held := self._held.get(jid):  # its reservation had ended: the coming ACK settles the new one
            held.until, held.failures = until, fetched.failures
            log.info("claim_adopted", job_id=jid)
            return
        if verdict := self._ended.get(jid):
            log.info("job_came_again_after_its_end", job_id=jid, verdict=verdict.value)
            if verdict is Verdict.BURY:
                del self._ended[jid]  # should somebody revive it later, it runs
            self._spawn(self._delivery.send([ack_of(jid) if verdict is Verdict.DONE else bury_of(fetched)]))
            return
        token = secrets.token_hex(16)
        self._held[jid] = Held(token, until)
        if self._records is None:
            self._ready.append(self._claim_of(fetched, token, time.time(), None))
        else:
            fresh.append((fetched, token))

    def _claim_of(self, fetched: Fetched, token: str, now: float, state: ClaimState | None) -> Claim:
        known: dict[str, Any] = (
            {"attempt": state.attempt, "record": state.record, "cancelled": state.cancelled} if state else {}
        )
        claim = claim_of(fetched, token=token, now=now, max_bytes=self._max_bytes, load=self._load, **known)
        self._warnings.about(claim, fetched)
        return claim

    async def _admit(self, claim: Claim) -> None:
        self._ready.append(claim)

    async def _take_over(self, records: FaktoryRecords, slots: int, now: float) -> None:
        """Go on with what dead consumers held; their reservations are settled by the jid."""
        self._look_at = now + TAKEOVER_EVERY
        for taken in await records.takeover(self.queues, slots):
            log.info("claim_taken_over", job_id=taken.fetched.jid)
            self._held[taken.fetched.jid] = Held(taken.token, now + taken.until - time.time())
            await self._admit(self._claim_of(taken.fetched, taken.token, time.time(), taken.state))
        if untold := await records.untold(self.queues):
            log.info("settling_for_the_dead", count=len(untold))
            self._spawn(self._delivery.inherit(records, untold))

    def _resolved(self, fetched: Fetched, token: str, now: float, state: ClaimState) -> Rest | None:
        """What the store of Records said of it. Answers with what is still to be done before it is a claim."""
        jid = fetched.jid
        if state.verdict == "ours":
            claim = self._claim_of(fetched, token, now, state)
            if self._waits(claim):
                return functools.partial(self._admit, claim)
            self._ready.append(claim)
            return None
        del self._held[jid]
        if state.verdict in ("final", "failed"):
            log.info("job_came_again_after_its_end", job_id=jid)
            done = state.verdict == "final" or is_acked(self._claim_of(fetched, token, now, state).job)
            self._spawn(self._delivery.send([ack_of(jid) if done else bury_of(fetched)]))
        elif state.verdict == "spoilt":
            self._spawn(self._delivery.send([later_of(fetched, now)]))
        else:  # its consumer's ACK ends our reservation as well, since it goes by the jid
            log.info("job_is_run_by_another_consumer", job_id=jid)
        return None

    def _waits(self, claim: Claim) -> bool:
        """It may have to wait for a limit: `_admit` decides."""
        return False

    def _late(self, claim: Claim) -> bool:
        held = self._held.get(claim.id)
        return held is None or asyncio.get_running_loop().time() > held.until - MARGIN

    def _release(self, claim: Claim) -> None:
        held = self._held.get(claim.id)
        if held is not None and held.token == claim.token:
            del self._held[claim.id]

    def _told(self, state: str) -> None:
        """The server's word by heartbeat: quiet, or terminate."""
        if not self.quiet or (state == "terminate" and not self.terminated.is_set()):
            log.info("told_to_stop", by="Faktory's web UI", state=state)
        self.quiet = True
        if state == "terminate":
            self.terminated.set()
        self._news.set()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
