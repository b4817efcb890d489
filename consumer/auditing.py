"""Audits while the consumer runs: one of those that share queues looks now and then, and tells what it found.

Who that is says a key in the Redis of the Records, which its holder keeps; a second audit at the same time would do no
harm. Whoever loses it forgets what it found, so that nobody tells of what another one knows better.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import structlog
from redis.exceptions import RedisError

from consumer.audit import audit
from consumer.audit_kinds import KINDS, Fault, Looked
from consumer.model import Measure
from consumer.queues import scheme_of
from consumer.queues.redis_server import connect, unusable
from consumer.settings import Settings
from enqueue.backends import RQ_SCHEMES
from enqueue.errors import LongshoreError

log = structlog.get_logger()

FIRST = 60.0
"""Seconds after its start until a consumer looks for the first time, at most: it has claims to take over before."""
LONGEST = 240.0
"""Seconds that one audit may take."""
SPARE = 60.0
"""Seconds that the key lives longer than it should have to."""
SHOWN = 5
"""Faults that the log tells one by one."""


class Auditor:
    """`run` goes on until cancelled. `look`: makes one audit of the settings."""

    def __init__(self, settings: Settings, look: Callable[[Settings], Awaitable[Looked]] | None = None) -> None:
        self._settings = settings
        self._look = look or (lambda settings: audit(settings, most=settings.audit.most))
        self._me = uuid.uuid4().hex
        self._found: Looked | None = None
        self._ended = 0.0
        self._mine = False
        self._told: object = None

    def measures(self) -> Iterator[Measure]:
        """What the last audit found; nothing if it is another consumer's to tell."""
        if self._found is None:
            return
        counts = Counter(fault.kind for fault in self._found.faults)
        for kind, about in KINDS.items():
            yield Measure("audit_faults", counts[kind], (("kind", kind), ("sort", about.sort.value)))
        yield Measure("audit_partial", bool(self._found.partial))
        yield Measure("audit_time_seconds", self._ended)

    async def run(self) -> None:
        """Look every `audit.interval` seconds, if nobody else does. What fails is told once, and tried again."""
        interval = self._settings.audit.interval
        await asyncio.sleep(min(FIRST, interval))
        try:
            while True:
                await self._turn()
                await asyncio.sleep(interval)
        finally:
            await self._leave()

    async def _turn(self) -> None:
        try:
            self._mine = await self._elected()
            if not self._mine:
                self._found = None
                return
            async with asyncio.timeout(LONGEST):
                found = await self._look(self._settings)
        except (LongshoreError, TimeoutError) as error:
            said = str(error) or f"no end within {LONGEST:g} s"
            if said != self._told:
                log.warning("not_audited", error=said, doing="trying again")
            self._told = said
        except Exception:
            log.exception("audit_failed")
        else:
            self._tell(found.faults)
            self._found, self._ended = found, time.time()

    def _tell(self, faults: list[Fault]) -> None:
        now = frozenset(faults)
        if faults and now != self._told:
            kinds = dict(Counter(fault.kind for fault in faults))
            log.warning("audit_faults", kinds=kinds, first=[fault.text for fault in faults[:SHOWN]])
        elif not faults and self._told:
            log.info("audit_clean")
        self._told = now

    async def _elected(self) -> bool:
        """The key is ours, for another round. Raises QueueUnavailable, SetupError."""
        url, key = self._place()
        redis = await connect(url)
        lives = int((self._settings.audit.interval + LONGEST + SPARE) * 1000)
        try:
            if await redis.set(key, self._me, nx=True, px=lives):
                return True
            if await redis.get(key) != self._me.encode():
                return False
            await redis.pexpire(key, lives)
            return True
        except RedisError as error:
            raise unusable(url, error) from None
        finally:
            await redis.aclose()

    async def _leave(self) -> None:
        """Let another one have it at once."""
        self._found = None
        if not self._mine:
            return
        url, key = self._place()
        try:
            async with asyncio.timeout(2):
                redis = await connect(url)
                try:
                    if await redis.get(key) == self._me.encode():
                        await redis.delete(key)
                finally:
                    await redis.aclose()
        except (LongshoreError, RedisError, TimeoutError):
            pass  # it runs out by itself

    def _place(self) -> tuple[str, str]:
        """The Redis, and the key of all consumers that would find the same."""
        settings = self._settings
        rq = scheme_of(settings.queue_url) in RQ_SCHEMES
        url = settings.queue_url if rq else settings.records_url
        same = ["rq" if rq else "faktory", *sorted(settings.order.names), settings.executor]
        same.append(str(settings.kubernetes.namespace))
        return str(url), f"longshore:audit:{hashlib.sha256(repr(same).encode()).hexdigest()[:16]}"
