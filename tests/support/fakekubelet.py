"""The kubelet of the fake API server: a test says, pod by pod, what happens, as an async function of a FakePod."""

from __future__ import annotations

import asyncio
import copy
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.fakekube import FakeKube

Script = Callable[["FakePod"], Awaitable[None]]


def rfc3339(moment: float) -> str:
    """Whole seconds, as in statuses."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def stamp(nanoseconds: int) -> str:
    """Nine digits, as in logs."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 10**9)) + f".{nanoseconds % 10**9:09}Z"


def fresh(item: dict[str, Any]) -> dict[str, Any]:
    """A copy whose metadata, status and fields of the spec may be changed: the history keeps what was sent."""
    copied = {**item, "metadata": {**item["metadata"]}, "status": copy.deepcopy(item.get("status", {}))}
    return copied | ({"spec": {**item["spec"]}} if "spec" in item else {})


class Log:
    """One container's log: (nanoseconds, line with its newline, if it has one)."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        self.closed = False
        self.rotations = 0
        self.read = asyncio.Event()
        """Set once a reader was sent all; replaced by what is written then."""
        self.news = asyncio.Event()

    def write(self, data: bytes, at: int | None = None) -> None:
        """Append lines; all of one call have the same timestamp if `at` is given, else each its own."""
        *whole, rest = data.split(b"\n")
        for line in [*(line + b"\n" for line in whole), *([rest] if rest else [])]:
            self.lines.append((at if at is not None else time.time_ns(), line))
        self.read = asyncio.Event()
        self.poke()

    def rotate(self, kept: int = 0) -> None:
        """Only the last lines are left; whoever follows gets a clean end."""
        self.lines = self.lines[len(self.lines) - kept :]
        self.rotations += 1
        self.poke()

    def poke(self) -> None:
        """Wake the readers."""
        self.news.set()
        self.news = asyncio.Event()


class FakePod:
    """A pod under the hands of its script."""

    def __init__(self, kube: FakeKube, pod: dict[str, Any]) -> None:
        self.kube = kube
        self.namespace = pod["metadata"]["namespace"]
        self.name = pod["metadata"]["name"]
        self.uid = pod["metadata"]["uid"]
        self.spec = pod["spec"]
        self.logs = defaultdict[str, Log](Log)
        self.obstinate = False
        """Ignores its deletion: a dead node."""
        self.ignores_term = False
        self.task: asyncio.Task[None] | None = None

    @property
    def object(self) -> dict[str, Any] | None:
        """The stored object, if this very pod still exists."""
        found = self.kube.stored("pods", self.namespace, self.name)
        return found if found is not None and found["metadata"]["uid"] == self.uid else None

    @property
    def annotations(self) -> dict[str, str]:
        """The pod's annotations."""
        return self.object["metadata"]["annotations"] if self.object else {}

    def state(self, step: str = "main") -> str | None:
        """waiting, running or terminated."""
        for found in ((self.object or {}).get("status") or {}).get(_LISTS.get(step, _INITS), ()):
            if found["name"] == step:
                return next(iter(found["state"]))
        return None

    def change(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Change the object and tell the watchers."""
        if self.object is not None:
            new = fresh(self.object)
            edit(new)
            self.kube.store("MODIFIED", "pods", new)

    def status(self, **fields: Any) -> None:
        """Set fields of the status: phase, reason, message, conditions."""
        self.change(lambda pod: pod["status"].update(fields))

    def schedule(self, node: str = "node-1") -> None:
        """Give it a node."""

        def edit(pod: dict[str, Any]) -> None:
            pod["spec"]["nodeName"] = node
            pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
            for step, name in _LISTS.items():
                if step == "main" or pod["spec"].get("initContainers"):
                    waiting = {"waiting": {"reason": "ContainerCreating" if step == "init" else "PodInitializing"}}
                    pod["status"][name] = [{"name": step, "state": waiting}]

        self.change(edit)

    def unschedulable(self, message: str = "0/1 nodes are available: 1 Insufficient cpu.") -> None:
        """The scheduler finds no node."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.status(conditions=[condition])

    def disrupt(self, reason: str = "EvictionByEvictionAPI", message: str = "Eviction API: evicting") -> None:
        """The condition that an eviction leaves."""
        self.status(conditions=[{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}])

    def wait(self, reason: str, message: str = "", step: str = "main") -> None:
        """The container waits for `reason`."""
        self._state(step, {"waiting": {"reason": reason, "message": message}})

    def run(self, step: str = "main") -> None:
        """The container runs."""
        self._state(step, {"running": {"startedAt": rfc3339(time.time())}}, "Running" if step == "main" else "Pending")

    def write(self, data: bytes, step: str = "main", at: int | None = None) -> None:
        """The container writes."""
        self.logs[step].write(data, at)

    def end(self, code: int = 0, reason: str | None = None, message: str = "", step: str = "main") -> None:
        """The container ends, and with it the pod, unless it was a good init step."""
        now = rfc3339(time.time())
        ended = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "finishedAt": now}
        ended |= {"startedAt": now} | ({"message": message} if message else {})
        phase = "Failed" if code else "Succeeded" if step == "main" else None
        self._state(step, {"terminated": ended}, phase)
        self.logs[step].closed = True
        self.logs[step].poke()

    def _state(self, step: str, state: dict[str, Any], phase: str | None = None) -> None:
        def edit(pod: dict[str, Any]) -> None:
            pod["status"][_LISTS[step]] = [{"name": step, "state": state}]
            if phase:
                pod["status"]["phase"] = phase

        self.change(edit)

    async def secret(self) -> dict[str, Any] | None:
        """Waits for the Secret that the pod refers to, as a kubelet does. None: it refers to none."""
        if not (names := set(re.findall(rf"'({re.escape(self.name)}[a-z0-9-]*)'", str(self.spec)))):
            return None
        [name] = names
        while (found := self.kube.stored("secrets", self.namespace, name)) is None:
            await self.kube.changed()
        return found

    def deleted(self) -> None:
        """The kubelet sees the deletionTimestamp."""
        if self.obstinate:
            return
        if self.task is not None:
            self.task.cancel()
        if self.state() == "running":
            self.end(137 if self.ignores_term else 143)
        self.vanish()

    def vanish(self) -> None:
        """Nothing of it is left."""
        for log in self.logs.values():
            log.closed = True
            log.poke()
        if self.object is not None:
            self.kube.remove("pods", self.namespace, self.name)


_INITS = "initContainerStatuses"
_LISTS = {"main": "containerStatuses", "init": _INITS}


async def succeeds(pod: FakePod) -> None:
    """The plain life: scheduled, its Secret there, init step, one line, exit code 0."""
    pod.schedule()
    await pod.secret()
    if pod.spec.get("initContainers"):
        pod.run("init")
        pod.write(b"init\n", "init")
        pod.end(0, step="init")
    pod.run()
    pod.write(b"hello\n")
    pod.end(0)
