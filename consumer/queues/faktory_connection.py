"""A consumer's connections to Faktory: some that fetch, one FETCH in flight on each, and one for all the rest."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence

import structlog

from enqueue.backends.faktory_aio import Connection, dial
from enqueue.backends.faktory_client import READ_TIMEOUT, unreachable
from enqueue.errors import ProtocolError, QueueUnavailable
from enqueue.wire import faktory as wire
from enqueue.wire.resp import Failed, Reply

log = structlog.get_logger()


class Link:
    """The connection for ACK, FAIL, PUSH, MUTATE and BEAT. Made again, with the same wid, whenever it was lost."""

    def __init__(self, address: wire.Address, worker: wire.Worker, ca_file: str | None = None) -> None:
        self._address, self._worker, self._ca_file = address, worker, ca_file
        self._connection: Connection | None = None
        self._dialing = asyncio.Lock()

    async def connected(self) -> Connection:
        """The standing connection. Raises QueueUnavailable or ProtocolError."""
        async with self._dialing:
            if self._connection is None or not self._connection.usable:
                self._connection = await dial(self._address, self._worker, ca_file=self._ca_file)
            return self._connection

    async def exchange(self, commands: Sequence[bytes], timeout: float = READ_TIMEOUT) -> list[Reply]:
        """All the commands at once, then their replies; tried once.

        Raises QueueUnavailable (the commands may have been carried out) or ProtocolError.
        """
        connection = await self.connected()
        try:
            return await connection.exchange(commands, timeout)
        except OSError as error:
            raise unreachable(self._address, error) from None

    def drop(self) -> None:
        """Forget the connection; the next command makes a new one."""
        if self._connection is not None:
            self._connection.abort()

    async def close(self) -> None:
        """Say goodbye."""
        if self._connection is not None:
            await self._connection.close()


class Fetcher:
    """A fetch connection with at most one FETCH in flight.

    `arrived` gets each answer, or the error of a lost one, whether or not anybody waits: a cancelled caller can't
    lose a job.
    """

    def __init__(
        self,
        address: wire.Address,
        worker: wire.Worker,
        command: Callable[[], bytes],
        limit: int,
        arrived: Callable[[Reply | Exception], None],
        ca_file: str | None = None,
    ) -> None:
        self._address, self._worker, self._limit, self._ca_file = address, worker, limit, ca_file
        self._command, self._arrived = command, arrived
        self._connection: Connection | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.busy = False
        self.connecting = False

    @property
    def usable(self) -> bool:
        """A FETCH can be started at once."""
        return not self.busy and self._connection is not None and self._connection.usable

    async def connect(self) -> None:
        """Dial if need be; not while it is `connecting`. Raises QueueUnavailable or ProtocolError."""
        if self._connection is None or not self._connection.usable:
            self.connecting = True
            try:
                self._connection = await dial(self._address, self._worker, limit=self._limit, ca_file=self._ca_file)
            finally:
                self.connecting = False

    def start(self) -> None:
        """Send a FETCH; the server answers within about 2 s."""
        assert self._connection is not None
        self.busy = True
        loop = asyncio.get_running_loop()
        self._due = loop.time() + READ_TIMEOUT
        if self._watch is None:  # one timer for many FETCHes: a busy queue answers thousands of them meanwhile
            self._watch = loop.call_at(self._due, self._look)
        self._connection.call(self._command(), self._done)

    async def close(self) -> None:
        """Say goodbye. An answer that is still on its way is lost until its reservation ends: wait for it first."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._connection is not None:
            await self._connection.close()

    def _look(self) -> None:
        """Give up a connection whose answer is overdue; look again when the answer of a later FETCH would be."""
        self._watch = None
        if not self.busy or self._connection is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._due:
            self._watch = loop.call_at(self._due, self._look)
        else:
            self._connection.abort(TimeoutError())

    def _done(self, answer: list[Reply] | Exception) -> None:
        self.busy = False
        self._arrived(answer if isinstance(answer, Exception) else answer[0])


async def beats(link: Link, wid: str, every: float, told: Callable[[str], None]) -> None:
    """BEAT until cancelled, after quiet and terminate too; one that failed is tried again soon.

    `told` gets "quiet" or "terminate" each time that the server answers so.
    """
    state = ""
    while True:
        pause = every
        try:
            (reply,) = await link.exchange([wire.beat(wid, resident_kb(), state)])
            if isinstance(reply, Failed):  # the server has forgotten us: a new HELLO makes us known
                log.info("heartbeat_refused", error=reply.text[:300])
                link.drop()
                pause = min(1.0, pause)
            elif (said := _state_of(reply)) and state != "terminate":
                state = said
                told(state)
        except (QueueUnavailable, ProtocolError) as error:
            log.warning("heartbeat_failed", error=str(error))
            pause = min(5.0, pause)
        await asyncio.sleep(pause)


def _state_of(reply: Reply) -> str:
    try:
        said = json.loads(reply) if isinstance(reply, bytes) else None
    except ValueError:
        return ""
    state = said.get("state") if isinstance(said, dict) else None
    return state if state in ("quiet", "terminate") else ""


def resident_kb() -> int:
    """This process's resident memory in KiB; 0 where /proc doesn't say."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except (OSError, ValueError, IndexError):
        return 0
