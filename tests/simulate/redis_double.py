"""A client of the Store in memory, as far as the consumer's own code uses redis-py's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from consumer.queues.recent import Recent
from consumer.queues.rq import RqQueue
from consumer.tasks import end
from enqueue.wire import records as wire
from simulate.store import Store, raw
from simulate.wire import Wire

Deed = Callable[[], Any]


def broken(why: str) -> Exception:
    """As redis-py says it."""
    return redis.ConnectionError(why)


class Script:
    """One of our scripts."""

    def __init__(self, client: RedisDouble, source: str) -> None:
        self.script = self.sha = source
        self._client = client

    async def __call__(self, keys: Sequence[Any] = (), args: Sequence[Any] = (), client: Any = None) -> Any:
        def deed() -> Any:
            return self._client.store.run(self.script, keys, args)

        return await self._client.do(deed) if client is None else client.add(deed)


class Pipeline:
    """Some commands in one round trip; those that only RQ's pages read do nothing."""

    def __init__(self, client: RedisDouble) -> None:
        self._client, self._deeds = client, []  # type: ignore[var-annotated]

    async def __aenter__(self) -> Pipeline:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def add(self, deed: Deed) -> None:
        self._deeds.append(deed)

    def evalsha(self, sha: str, count: int, *rest: Any) -> None:
        self.add(lambda: self._client.store.run(sha, rest[:count], rest[count:]))

    def _ignored(self, *_: Any, **__: Any) -> None:
        self.add(lambda: 1)

    hset = sadd = srem = delete = expire = exists = hexists = hdel = _ignored

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        return await self._client.do(lambda: [deed() for deed in self._deeds])  # type: ignore[no-any-return]


class PubSub:
    """What is published while nobody is connected is lost."""

    def __init__(self, client: RedisDouble) -> None:
        self._client = client
        self._messages: list[dict[str, bytes]] = []
        self._channels: tuple[str, ...] = ()
        self._news = asyncio.Event()

    async def __aenter__(self) -> PubSub:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            self._client.store.subscribers[channel].remove(self._heard)

    async def subscribe(self, *channels: str) -> None:
        def deed() -> None:
            for channel in channels:
                self._client.store.subscribers.setdefault(channel, []).append(self._heard)
            self._channels = channels

        await self._client.do(deed)

    def _heard(self, channel: bytes, data: bytes) -> None:
        if not self._client.wire.weather.down:
            self._messages.append({"channel": channel, "data": data})
            self._news.set()

    async def get_message(self, *, ignore_subscribe_messages: bool, timeout: float) -> dict[str, bytes] | None:
        if not self._messages:
            self._news.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                if self._client.wire.weather.down:
                    raise broken("connection reset") from None
                return None
        return self._messages.pop(0)


class RedisDouble:
    """What a consumer holds of the Store."""

    def __init__(self, store: Store, wire: Wire) -> None:
        self.store, self.wire = store, wire

    async def do(self, deed: Deed) -> Any:
        return await self.wire.call(deed)

    def register_script(self, source: str) -> Script:
        return Script(self, source)

    def pipeline(self, transaction: bool = True) -> Pipeline:
        return Pipeline(self)

    def pubsub(self) -> PubSub:
        return PubSub(self)

    async def info(self) -> dict[str, Any]:
        return await self.do(lambda: {"redis_version": "8.0.0"})  # type: ignore[no-any-return]

    async def client_info(self) -> dict[str, Any]:
        return {}

    async def get(self, key: str) -> Any:
        return await self.do(lambda: self.store.values.get(key))

    async def set(self, key: str, value: str, nx: bool = False) -> None:
        await self.do(lambda: self.store.values.setdefault(key, raw(value)))

    async def hset(self, key: str, field: str, value: Any) -> None:
        prefix = wire.consumer_key("")
        if key.startswith(prefix):
            instance = key.removeprefix(prefix)
            await self.do(lambda: self.store.consumers.setdefault(instance, {}).update({field: float(value)}))

    async def delete(self, *keys: str) -> None:
        prefix = wire.consumer_key("")
        await self.do(lambda: self.store.part([key.removeprefix(prefix) for key in keys]))

    async def zrem(self, key: str, *members: str) -> None:
        await self.do(lambda: [self.store.signs.pop(member, None) for member in members])

    async def publish(self, channel: str, message: str) -> None:
        await self.do(lambda: self.store.publish(channel, message.encode()))

    async def xdel(self, key: str, *entries: str) -> None:
        log = self.store.jobs[key.removeprefix(wire.log_key(""))].log
        await self.do(lambda: [log.pop((int(a), int(n)), None) for a, _, n in (e.partition("-") for e in entries)])

    async def xrevrange(self, key: str, high: str, low: str, count: int) -> list[Any]:
        return (await self.xrange(key, low, high, 10**9))[: -count - 1 : -1]

    async def xrange(self, key: str, low: str, high: str, count: int) -> list[Any]:
        log = self.store.jobs[key.removeprefix(wire.log_key(""))].log
        first, last = (tuple(map(int, bound.split("-"))) for bound in (low, high))

        def deed() -> list[Any]:
            found = [(entry, fields) for entry, fields in sorted(log.items()) if first <= entry <= last]
            return [(b"%d-%d" % entry, fields) for entry, fields in found[:count]]

        return await self.do(deed)  # type: ignore[no-any-return]

    async def blmove(self, source: str, target: str, timeout: float, *ends: str) -> Any:
        store, waits = self.store, []

        def deed() -> bool:
            waits.append(store.arrived)
            return bool(store.waiting)

        if await self.do(deed):
            return b"something"
        try:
            async with asyncio.timeout(timeout):
                await waits[0].wait()
        except TimeoutError:
            return None
        return b"something"

    async def aclose(self) -> None: ...


class SimulatedQueue(RqQueue):
    """The real queue, Records and takeovers; only what RQ's own pages show is left out."""

    def connect(self, client: RedisDouble) -> SimulatedQueue:
        """To be used instead of the URL."""
        self.redis = self._waiting = client  # type: ignore[assignment]
        return self

    async def open(self) -> None:
        try:
            await self._enter()
        except redis.RedisError as error:
            from consumer.queues.redis_server import unusable

            raise unusable(self.url, error) from None
        self._last_takeover = 0.0
        self._recent = Recent(time.monotonic)  # the clock of now: a default is that of the import
        self.worker.beat = self.worker.stopping = self.worker.leave = _nothing  # type: ignore[method-assign]
        self.worker._promote = _no_rows
        self.worker.limits.sweep = _nothing  # type: ignore[assignment, method-assign]
        self._webhooks.close = _nothing  # type: ignore[method-assign]
        self.worker._maintain = _nothing
        self._tasks = [asyncio.create_task(self.worker.stay_alive())]

    async def close(self) -> None:
        await self._stop_waiting()
        await end(*self._tasks)
        await self.records.leave(held=bool(self._known))


async def _nothing(*_: Any, **__: Any) -> None: ...


async def _no_rows(*_: Any, **__: Any) -> list[Any]:
    return []
