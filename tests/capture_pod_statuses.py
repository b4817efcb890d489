"""Captures the pod statuses of tests/data/pod-statuses from a real cluster: `capture_pod_statuses.py [CASE...]`.

Needs KUBECONFIG of an admin of a cluster for tests, an image `busybox` on its node `labnode`, which must be this host,
and KWOK for the nodes with the label `type: kwok` and the pods of the namespace `kwok`. Each case writes one file: how
it was made, and every distinct state that a watch showed of the pod, trimmed. What is expected is said in the test.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.watch import lines_of
from consumer.settings import Kubernetes
from support.pod_cases import CASES, SIMULATED, Case

FOLDER = Path(__file__).parent / "data" / "pod-statuses"
NAMESPACE, SIMULATED_NAMESPACE = "outcome-capture", "kwok"
PARALLEL = 8
LONGEST = 240


class Capture:
    """One pod: its states as they come, and what a case does with it."""

    def __init__(self, api: Api, name: str, namespace: str) -> None:
        self.api, self.name, self.namespace = api, name, namespace
        self.path = path_of(namespace, "pods", name)
        self.events: list[dict[str, Any]] = []
        self.news = asyncio.Event()

    @property
    def pod(self) -> dict[str, Any]:
        return self.events[-1]["object"] if self.events else {}

    @property
    def status(self) -> dict[str, Any]:
        return self.pod.get("status") or {}

    @property
    def gone(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] == "DELETED"

    def heard(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.news.set()
        self.news = asyncio.Event()

    async def until(self, condition: Any) -> None:
        while not condition(self):
            if self.gone:
                return
            await self.news.wait()

    async def delete(self, grace: int) -> None:
        await self.api.request("DELETE", self.path, body={"gracePeriodSeconds": grace})

    async def evict(self) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": self.name}}
        await self.api.request("POST", self.path + "/eviction", body=body)

    async def patch(self, path: str, change: Any) -> None:
        session = self.api._streams  # a merge patch is nothing that the product needs
        token = await self.api.access.authorization()
        arguments = self.api._arguments(path, None, token)
        arguments["headers"] = arguments.get("headers", {}) | {"Content-Type": "application/merge-patch+json"}
        async with session.patch(**arguments, data=json.dumps(change)) as response:
            assert response.status == 200, await response.text()


def trimmed(event: dict[str, Any]) -> dict[str, Any]:
    """One state without names, ids and addresses."""
    pod = event["object"]
    meta, status = pod["metadata"], pod.get("status") or {}
    kept = {k: meta[k] for k in ("deletionTimestamp", "deletionGracePeriodSeconds") if k in meta}
    short: dict[str, Any] = {k: status[k] for k in ("phase", "reason", "message") if k in status}
    fields = ("type", "status", "reason", "message")
    short["conditions"] = [{k: c[k] for k in fields if k in c} for c in status.get("conditions") or ()]
    for kind in ("initContainerStatuses", "containerStatuses"):
        if status.get(kind):
            short[kind] = [{"name": c["name"], "state": _state(c["state"])} for c in status[kind]]
    spec = {"nodeName": "node-1"} if pod["spec"].get("nodeName") else {}
    text = json.dumps({"metadata": {"name": "pod", "uid": "uid", **kept}, "spec": spec, "status": short})
    for ours, plain in ((meta["name"], "pod"), (meta["uid"], "uid"), (meta["namespace"], "namespace")):
        text = text.replace(ours, plain)
    text = re.sub(r"/[^ \"\\]*?/(kubelet|containerd)/", r"/node/\1/", text)  # where this node keeps its things
    return {"type": event["type"], "object": json.loads(text)}


def _state(state: dict[str, Any]) -> dict[str, Any]:
    return {kind: {k: v for k, v in said.items() if k != "containerID"} for kind, said in state.items()}


async def watch(api: Api, namespace: str, captures: dict[str, Capture], ready: asyncio.Event) -> None:
    listed = await api.request("GET", path_of(namespace, "pods"))
    query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
    async with api.stream(path_of(namespace, "pods"), query) as response:
        ready.set()
        async for line in lines_of(response):
            event = json.loads(line)
            if (capture := captures.get(event["object"]["metadata"]["name"])) is not None:
                capture.heard(event)


async def capture(api: Api, case: Case, captures: dict[str, Capture]) -> None:
    namespace = SIMULATED_NAMESPACE if case.node else NAMESPACE
    name = f"capture-{case.name}"
    one = captures[name] = Capture(api, name, namespace)
    meta = {"name": name, "namespace": namespace, "labels": {"lab/stay": "yes"}}
    node = {**SIMULATED, "metadata": {"name": name, "labels": dict(case.labels)}} if case.node else None
    if node:
        await api.request("POST", "/api/v1/nodes", body=node)
        case.spec["nodeName"] = name
    seen: list[dict[str, Any]] = []
    try:
        await api.request("POST", path_of(namespace, "pods"), body={"metadata": meta, "spec": case.spec})
        async with asyncio.timeout(LONGEST):
            await case.do(one)
        seen = list(one.events)
    finally:
        for path, body in ((one.path, {"gracePeriodSeconds": 0}), (f"/api/v1/nodes/{name}", None)):
            try:
                if path == one.path or node:
                    await api.request("DELETE", path, body=body)
            except ApiError as error:
                if error.status != 404:
                    raise
    states: list[dict[str, Any]] = []
    for event in seen:
        short = trimmed(event)
        if not states or states[-1]["object"] != short["object"] or states[-1]["type"] != short["type"]:
            states.append(short)
    text = json.dumps({"made": case.made, "states": states}, indent=1, ensure_ascii=False)
    (FOLDER / f"{case.name}.json").write_text(text + "\n")
    print(case.name, len(states), states[-1]["type"], json.dumps(states[-1]["object"]["status"])[:300], flush=True)


def setup() -> list[tuple[str, dict[str, Any]]]:
    """What the cases refer to: (path, object)."""
    scheduling, node = "/apis/scheduling.k8s.io/v1/priorityclasses", "/apis/node.k8s.io/v1/runtimeclasses"
    return [
        ("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}),
        (path_of(NAMESPACE, "secrets"), {"metadata": {"name": "kept"}, "stringData": {"a": "b"}}),
        (node, {"metadata": {"name": "capture-none"}, "handler": "not-there"}),
        (scheduling, {"metadata": {"name": "capture-low"}, "value": -10}),
        (scheduling, {"metadata": {"name": "capture-high"}, "value": 10}),
    ]


async def main(wanted: list[str]) -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    api = Api(await Access.load(Kubernetes()), rate=200)
    for path, item in setup():
        try:
            await api.request("POST", path, body=item)
        except ApiError as error:
            if error.status != 409:
                raise
    slots = {"capture.example/slot": "1"}
    await Capture(api, "", "").patch("/api/v1/nodes/labnode/status", {"status": {"capacity": slots}})
    captures: dict[str, Capture] = {}
    turn, failed = asyncio.Semaphore(PARALLEL), []

    async def one(case: Case) -> None:
        async with turn:
            try:
                await capture(api, case, captures)
            except (ApiError, TimeoutError, AssertionError) as error:
                failed.append(case.name)
                print(case.name, "FAILED:", repr(error), flush=True)

    watches = []
    for namespace in (NAMESPACE, SIMULATED_NAMESPACE):
        ready = asyncio.Event()
        watches.append(asyncio.create_task(watch(api, namespace, captures, ready)))
        await ready.wait()
    await asyncio.gather(*(one(case) for case in CASES if not wanted or case.name in wanted))
    for task in watches:
        task.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    for path, item in setup():
        await api.request("DELETE", f"{path}/{item['metadata']['name']}")
    await api.close()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(sys.argv[1:])))
