"""The real executor for Kubernetes; only its client's connections are replaced, by wires to the cluster in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import CALL_SECONDS, Api, ApiError, error_of
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.limits import Budget
from consumer.executors.kubernetes.sweep import Sweeper
from consumer.executors.kubernetes.tally import Tally
from consumer.executors.kubernetes.watch import Informer
from consumer.ports import Records
from consumer.settings import Settings
from simulate.cluster import SimulatedKube, Stream
from simulate.wire import Wire


class SimulatedApi(Api):
    """Retries, budgets and errors are the client's own."""

    def __init__(self, settings: Settings, kube: SimulatedKube, wire: Wire) -> None:
        own = settings.kubernetes
        self.access, self.patience, self.tally = Access("http://simulated", "jobs"), own.patience, Tally()
        self._all, self._creates = Budget(own.rate), Budget(own.create_rate)
        self._kube, self._wire = kube, wire

    async def close(self) -> None: ...

    async def _answer(
        self, method: str, path: str, query: Mapping[str, str] | None, data: bytes | None, token: str | None
    ) -> tuple[int, bytes, str | None]:
        async with asyncio.timeout(CALL_SECONDS):
            return await self._wire.call(lambda: self._kube.answer(method, path, query or {}, data))

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, sock_read: float | None = None
    ) -> AsyncIterator[Any]:
        await self._all.take()
        opened: list[Stream] = []
        try:
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    asked = dict(query)
                    response = await self._wire.call(lambda: opened.append(self._kube.open(path, asked)) or opened[0])
            except (OSError, TimeoutError) as problem:
                raise self._unreachable(problem) from None
            response.silence = sock_read
            if response.status >= 400:
                raise error_of(response.status, await response.read(), None)
            yield response
        finally:
            for stream in opened:
                stream.close()

    @asynccontextmanager
    async def fetch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Any]:
        async with self.stream(path, query) as response:
            yield response


class SimulatedExecutor(KubernetesExecutor):
    """Opened without the look at its rights."""

    def connect(self, settings: Settings, kube: SimulatedKube, wire: Wire) -> SimulatedExecutor:
        self._made = settings, kube, wire
        return self

    async def open(self) -> None:
        api = SimulatedApi(*self._made)
        informer = Informer(api, "jobs")
        try:
            await informer.open()
        except ApiError as error:
            await informer.close()
            raise ExecutorFault(str(error)) from None
        self._opened = (api, informer, "jobs")

    async def sweep(self, records: Records) -> None:
        api, informer, namespace = self._parts()
        clock = time.monotonic  # the one of now: a default is that of the import
        self._sweeper = Sweeper(api, namespace, informer, self._leftovers, self._settings, self._consumer, clock=clock)
        await self._sweeper.run(records)
