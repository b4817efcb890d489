"""Leadership by a Lease object: one of several consumers holds it, renews it and loses it when it can't.

Source of the protocol: https://pkg.go.dev/k8s.io/client-go/tools/leaderelection. No clock but our own monotonic one is
ever asked how old a Lease is: it is as old as the time for which we have seen it unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from consumer.errors import ExecutorFault
from consumer.executors import names
from consumer.executors.kubernetes.api import Api, ApiError

log = logging.getLogger(__name__)


def leases_path(namespace: str, name: str = "") -> str:
    """The URL path of the namespace's Leases, or of one of them."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace, safe='')}/leases"
    return f"{path}/{quote(name, safe='')}" if name else path


class Lease:
    """A campaign for one Lease; `run` goes on until cancelled and then gives it back.

    Others may take a Lease that they have seen unchanged for `seconds`. Its holder renews it every third of that, and
    stops to count as the holder after two thirds without success.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        holder: str,
        seconds: float,
        *,
        doing: str = "sweep",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holder = f"{holder}_{uuid.uuid4().hex[:12]}"
        self.acquired = asyncio.Event()
        """Set when it becomes ours; for whoever waits to clear."""
        self.store = ""
        """Identity of the store whose pods its holder sweeps; told in the Lease."""
        self._api, self._namespace, self._name = api, namespace, name
        self._seconds, self._clock, self._doing = seconds, clock, doing
        self._renewed: float | None = None
        self._known: dict[str, Any] = {}
        self._observed: tuple[Any, float] | None = None
        self._warned = False

    @property
    def held(self) -> bool:
        """It is ours, and nobody else can have taken it yet."""
        return self._renewed is not None and self._clock() < self._renewed + self._seconds * 2 / 3

    async def run(self) -> None:
        """Campaign, renew, and campaign again after a loss."""
        try:
            while True:
                held = self.held
                try:
                    await self.step()
                except ExecutorFault as fault:
                    log.debug("the Lease %s can't be asked for: %s", self._name, fault)
                if held and not self.held:
                    log.warning("the Lease %s is lost: another consumer may %s now", self._name, self._doing)
                # A holder that couldn't renew tries again soon: its time is short.
                fresh = self._renewed is not None and self._clock() < self._renewed + self._seconds / 6
                await asyncio.sleep(self._seconds / (3 if fresh or self._renewed is None else 15))
        finally:
            await self._release()

    async def step(self) -> None:
        """One try to get or to keep it: one request, or two. Raises ApiError if the API can't say."""
        if self._renewed is not None and not self.held:
            self._renewed = None
        if self._renewed is None:
            await self._campaign()
            return
        try:
            await self._write(self._known)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            self._renewed = None  # somebody changed it: look who holds it
            await self._campaign()

    async def _campaign(self) -> None:
        try:
            found = await self._call("GET")
        except ApiError as error:
            if error.status != 404:
                raise
            found = {}
        spec = found.get("spec") or {}
        version = (found.get("metadata") or {}).get("resourceVersion")
        now = self._clock()
        if self._observed is None or self._observed[0] != version:
            self._observed = (version, now)
        holder = spec.get("holderIdentity")
        if found and holder and holder != self.holder and now < self._observed[1] + self._validity(spec):
            self._compare(found["metadata"].get("annotations") or {})
            return
        try:
            await self._write(found)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return  # another one was quicker
        log.info("the Lease %s is ours: this consumer is the one to %s", self._name, self._doing)
        self.acquired.set()

    def _compare(self, theirs: dict[str, str]) -> None:
        """Whoever holds it should do our work too."""
        if self._warned or not self.store or theirs.get(names.SOURCE, self.store) == self.store:
            return
        self._warned = True
        log.warning(
            "the Lease %s is held by a consumer of another store: nobody may %s for ours; "
            "give the consumers of this store one of their own (kubernetes.lease, and its name in the Role)",
            self._name,
            self._doing,
        )

    def _validity(self, spec: dict[str, Any]) -> float:
        said = spec.get("leaseDurationSeconds")
        return float(said) if isinstance(said, int) and said > 0 else self._seconds

    async def _write(self, found: dict[str, Any]) -> None:
        """Make it ours, or ours for longer, if it is still as it was `found`."""
        asked = self._clock()
        spec = dict(found.get("spec") or {})
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")  # for people
        if spec.get("holderIdentity") != self.holder:
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1 if found else 0
            spec |= {"holderIdentity": self.holder, "acquireTime": now}
        spec |= {"leaseDurationSeconds": max(1, round(self._seconds)), "renewTime": now}
        self._known = await self._call("PUT" if found else "POST", self._body(found, spec))
        self._renewed = asked

    async def _release(self) -> None:
        """Say that it is free, so that the next one needn't wait."""
        held, self._renewed = self.held, None
        if not held:
            return
        spec = (self._known.get("spec") or {}) | {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(2):
                await self._call("PUT", self._body(self._known, spec))
        except (ExecutorFault, TimeoutError):
            pass  # it runs out by itself

    def _body(self, found: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        meta = found.get("metadata") or {"name": self._name, "namespace": self._namespace}
        if self.store:
            meta = meta | {"annotations": {**(meta.get("annotations") or {}), names.SOURCE: self.store}}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}

    async def _call(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request, never repeated by itself, and given up while there is still time for another."""
        path = leases_path(self._namespace, "" if method == "POST" else self._name)
        try:
            async with asyncio.timeout(self._seconds / 6):
                return await self._api.request(method, path, body=body, patience=0)
        except TimeoutError:
            raise ApiError(0, "Timeout", "no answer in time") from None
