"""Scales the consumers' own Deployment: one consumer, the holder of a Lease, looks at the queues and says how many.

Fewer replicas stop no job: a consumer that is told to go lets its pods go, and the others go on with them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote

from consumer.errors import ExecutorFault
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api
from consumer.executors.kubernetes.lease import Lease
from consumer.model import Backlog, Measure
from consumer.ports import MeasuringQueue
from consumer.scaling import Stabilizer, wanted
from consumer.settings import Settings
from consumer.tasks import end
from enqueue.errors import LongshoreError

log = logging.getLogger(__name__)


def scale_path(namespace: str, deployment: str) -> str:
    """The URL path of a Deployment's number of replicas."""
    return f"/apis/apps/v1/namespaces/{quote(namespace, safe='')}/deployments/{deployment}/scale"


class Autoscaler:
    """`run` goes on until cancelled. `slots`, `busy`: how many jobs each consumer runs at most, and this one now."""

    def __init__(
        self, settings: Settings, queue: MeasuringQueue, slots: Callable[[], int], busy: Callable[[], int]
    ) -> None:
        self._settings, self._queue, self._slots, self._busy = settings, queue, slots, busy
        self._opened: tuple[Api, Lease, str] | None = None
        self._replicas: int | None = None
        self._wanted: int | None = None
        self._told = ""

    def measures(self) -> Iterator[Measure]:
        """Who scales, and what it found."""
        held = self._opened is not None and self._opened[1].held
        yield Measure("leader", held, (("lease", "autoscaler"),))
        if held and self._wanted is not None and self._replicas is not None:
            yield Measure("replicas_wanted", self._wanted)
            yield Measure("replicas", self._replicas)

    async def open(self) -> None:
        """Find the cluster. Raises SetupError."""
        scaling, kubernetes = self._settings.scaling, self._settings.kubernetes
        access = await Access.load(kubernetes.model_copy(update={"namespace": scaling.namespace}))
        api = Api(access, rate=5)
        lease = Lease(api, access.namespace, scaling.lease, self._settings.name, scaling.lease_seconds, doing="scale")
        self._opened = (api, lease, scale_path(access.namespace, str(scaling.deployment)))

    async def run(self) -> None:
        """Campaign for the Lease; scale while it is held. What fails is told once, and tried again. After `open`."""
        assert self._opened is not None
        api, lease, path = self._opened
        scaling = self._settings.scaling
        campaign = asyncio.create_task(self._campaign(lease), name="autoscaler's lease")
        try:
            while True:
                await lease.acquired.wait()
                lease.acquired.clear()
                stabilizer = Stabilizer(scaling, time.monotonic())
                while lease.held:
                    await self._look(api, path, stabilizer, lease)
                    await asyncio.sleep(scaling.interval)
                self._wanted = None
        finally:
            await end(campaign)
            await api.close()

    async def _campaign(self, lease: Lease) -> None:
        try:
            await lease.step()
        except ExecutorFault as fault:
            log.warning("the Lease %s can't be asked for, so we scale nothing: %s", self._settings.scaling.lease, fault)
        await lease.run()

    async def _look(self, api: Api, path: str, stabilizer: Stabilizer, lease: Lease) -> None:
        try:
            async with asyncio.timeout(self._settings.scaling.lease_seconds / 3):
                found = await api.request("GET", path, patience=0)
                queues = await self._queue.backlog()
                replicas = int((found.get("spec") or {}).get("replicas") or 0)
                count = wanted(queues.values(), replicas, self._slots(), self._busy(), self._settings.scaling)
                self._replicas, self._wanted = replicas, count
                if replicas == 0:
                    return  # somebody has switched the consumers off: we are the last to go
                decided = stabilizer.decide(replicas, count, time.monotonic())
                if decided != replicas and lease.held:
                    # Whoever changed it since our look knows more: the version that we saw goes with it.
                    await api.request("PUT", path, body=found | {"spec": {"replicas": decided}}, patience=0)
                    log.info("scaled from %d to %d: %s", replicas, decided, _words(queues))
            self._told = ""
        except (ExecutorFault, LongshoreError, TimeoutError) as error:
            said = str(error) or "no answer in time"
            if said != self._told:
                log.warning("nothing is scaled now: %s", said)
            self._told = said
        except Exception:
            log.exception("scaling failed; it is tried again")


def _words(queues: Mapping[str, Backlog]) -> str:
    return "; ".join(
        f"{name}: {load.waiting} wait, {'?' if load.running is None else load.running} run"
        for name, load in queues.items()
    )
