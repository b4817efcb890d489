"""A small Kubernetes API server for tests: pods and Secrets over HTTP, with faults on demand and a request ledger.

What it answers is held to the real server by tests/contracts/test_kubernetes_api.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import web

from consumer.executors.kubernetes.profiles import violations
from support import ledger
from support.fakekube_http import KINDS, Fault, Request, drop, matches, refusal, replace, said, status, unmet
from support.fakekube_streams import serve_log, serve_watch
from support.fakekubelet import FakePod, Script, fresh, rfc3339, succeeds


class FakeKube:
    """`async with FakeKube() as kube:` serves at kube.url."""

    pod_type = FakePod

    def __init__(self, *namespaces: str, script: Script = succeeds) -> None:
        self.namespaces = set(namespaces or ("jobs",))
        self.script = script
        self.pods: dict[str, FakePod] = {}
        """All pods that ever were, the last one of a name."""
        self.created: list[str] = []
        """Uids of all pods that were created."""
        self.names_created: list[str] = []
        """Their names: an attempt's pod has always the same."""
        self.ledger: list[Request] = []
        self.counts = True  # what it is asked for is what the consumer needs, and not a test's own doing
        self.faults: list[Fault] = []
        self.forbidden: set[str] = set()
        self.refuses: str | None = None
        """Why no pod may be created: a key of fakekube_http.REFUSALS."""
        self.enforces = "privileged"
        """The Pod Security level of its namespaces."""
        self.token: str | None = None
        self.compacted = 0
        self.gone_as_status = False
        self.watch_closes_at_once = False
        self.watch_stalls = False
        """Watches stay open and say nothing: a half-open connection."""
        self.cut_logs_after: list[int] = []
        """Bytes after which the next log connections are cut, one entry a connection."""
        self.url = ""
        self.rv = 100
        self.collects = True
        """What a removed object owned goes at once; else it stays until `collect`: in a cluster that takes a while."""
        self._gone: set[str] = set()
        self._objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.news, self.cut = asyncio.Event(), asyncio.Event()
        self.written = asyncio.Event()
        """Set, and replaced, when watchers have something to look at."""
        self.bookmarks = 0
        self.ready = True
        """What it says of itself."""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> FakeKube:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        ledger.note(self.ledger if self.counts else ())
        for pod in self.pods.values():
            if pod.task is not None:
                pod.task.cancel()
        await asyncio.gather(*(p.task for p in self.pods.values() if p.task), return_exceptions=True)

    async def start(self, port: int = 0) -> None:
        """Serve, on the former port after a stop."""
        app = web.Application(client_max_size=4 * 2**20)
        app.router.add_get("/readyz", self._ready)
        for group in ("/api/v1", "/apis/{group}/v1"):
            for rest in ("", "/{name}", "/{name}/{sub}"):
                app.router.add_route("*", group + "/namespaces/{ns}/{resource}" + rest, self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port or int(self.url.rpartition(":")[2] or 0))
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the port and all connections; what is stored stays."""
        self.cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def stored(self, resource: str, namespace: str, name: str) -> dict[str, Any] | None:
        """An object, if there is one."""
        return self._objects.get((resource, namespace, name))

    def names(self, resource: str) -> list[str]:
        """All names of a resource."""
        return [name for kind, _, name in self._objects if kind == resource]

    def store(self, event: str, resource: str, item: dict[str, Any]) -> None:
        """Write an object with a new resourceVersion and tell the watchers."""
        self.rv += 1
        meta = item["metadata"]
        meta["resourceVersion"] = str(self.rv)
        key = (resource, meta["namespace"], meta["name"])
        if event == "DELETED":
            self._objects.pop(key, None)
        else:
            self._objects[key] = item
        self.history.append((self.rv, event, resource, item))
        self._wake_watchers()

    def remove(self, resource: str, namespace: str, name: str) -> None:
        """Remove an object, and the Secrets that it owns as `collects` says."""
        item = self._objects.get((resource, namespace, name))
        if item is None:
            return
        self.store("DELETED", resource, fresh(item))
        self._gone.add(item["metadata"]["uid"])
        if self.collects:
            self.collect()

    def collect(self) -> None:
        """The garbage collector's turn: what removed objects owned goes."""
        gone, self._gone = self._gone, set()
        for kind, where, owned in [key for key in self._objects if key[0] != "pods"]:
            owners = self._objects[kind, where, owned]["metadata"].get("ownerReferences") or ()
            if any(owner["uid"] in gone for owner in owners):
                self.remove(kind, where, owned)

    async def until(self, condition: Callable[[FakeKube], bool], seconds: float = 60) -> None:
        """Waits until something is so, looking after every change and every request."""
        async with asyncio.timeout(seconds):
            while not condition(self):
                await self.news.wait()

    async def changed(self) -> None:
        """Waits for the next change of anything."""
        await self.news.wait()

    def _wake_watchers(self) -> None:
        self.written.set()
        self.written = asyncio.Event()
        self._wake()

    def _wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    def fault(self, verb: str, **fields: Any) -> None:
        """Plan a fault: see Fault."""
        self.faults.append(Fault(verb, **fields))

    def cut_watches(self) -> None:
        """Cut all open watches in the middle."""
        self.cut.set()
        self.cut = asyncio.Event()
        self._wake_watchers()

    def bookmark(self) -> None:
        """Send a bookmark to all watchers."""
        self.bookmarks += 1
        self._wake_watchers()

    def lose(self, name: str) -> None:
        """A pod goes, and no watcher is told."""
        for key in [key for key in self._objects if key[0] == "pods" and key[2] == name]:
            del self._objects[key]

    def restore(self, version: int) -> None:
        """The store as from a backup: versions begin again at `version`, and watchers know a future that isn't."""
        self.rv = version
        self.history.clear()

    def compact(self) -> None:
        """Forget the history: watches that want it get 410."""
        self.rv += 1
        self.compacted = self.rv
        self.history.clear()

    def verbs(self, since: int = 0) -> list[str]:
        """The ledger as verbs."""
        return [request.verb for request in self.ledger[since:]]

    @property
    def creates(self) -> int:
        """How often a pod was to be created, dry runs left out."""
        return sum(row.verb == "create pods" and "dryRun" not in row.query for row in self.ledger)

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response(text="ok") if self.ready else status(403, "Forbidden", "forbidden: RBAC knows no roles yet")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        info = request.match_info
        row = Request(request.method, info["resource"], info.get("name", ""), info.get("sub", ""), dict(request.query))
        self.ledger.append(row)
        self._wake()
        body = await request.read()
        fault = next((f for f in self.faults if f.verb == row.verb and f.times > 0), None)
        if fault is not None:
            fault.times -= 1
            if fault.delay:
                await asyncio.sleep(fault.delay)
            if fault.drop == "before":
                return drop(request)
            if fault.status:
                row.status = fault.status
                if fault.body is not None:
                    return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
                return status(fault.status, fault.code, fault.message, headers=fault.headers)
        answer = await self._answer(request, row, body)
        row.status = answer.status
        if fault is not None and fault.hang:
            await asyncio.Event().wait()
        return drop(request) if fault is not None and fault.drop == "after" else answer

    async def _answer(self, request: web.Request, row: Request, body: bytes) -> web.StreamResponse:
        namespace = request.match_info["ns"]
        if self.token is not None and request.headers.get("Authorization") != self.token:
            return status(401, "Unauthorized", "Unauthorized")
        if row.verb in self.forbidden:
            verb, _, resource = row.verb.partition(" ")
            why = f'User "consumer" cannot {verb} resource "{resource}" in API group "" in the namespace "{namespace}"'
            return status(403, "Forbidden", f"{row.resource} is forbidden: {why}")
        if row.query.get("watch") == "true":
            return await serve_watch(self, request, row.resource, namespace)
        if row.method == "POST" and not row.sub:
            return self._create(row, namespace, json.loads(body))
        if not row.name:
            return self._list(row, namespace)
        item = self.stored(row.resource, namespace, row.name)
        if item is None:
            message = f'{row.resource} "{row.name}" not found'
            return status(404, "NotFound", message, {"name": row.name, "kind": row.resource})
        if row.sub == "log":
            return await serve_log(self, request, row, item)
        if row.sub == "eviction":
            return self._evict(row, item)
        if row.method == "PUT":
            return replace(self.store, row, item, json.loads(body))
        return self._delete(row, item, body) if row.method == "DELETE" else said(item)

    def _create(self, row: Request, namespace: str, item: dict[str, Any]) -> web.StreamResponse:
        name = item["metadata"]["name"]
        details = {"name": name, "kind": row.resource}
        if namespace not in self.namespaces:
            message = f'namespaces "{namespace}" not found'
            return status(404, "NotFound", message, {"name": namespace, "kind": "namespaces"})
        if row.resource == "pods" and not item["spec"].get("containers"):
            message = f'Pod "{name}" is invalid: spec.containers: Required value'
            return status(422, "Invalid", message, details)
        if row.resource == "pods" and self.refuses is not None:
            return refusal(self.refuses, name, namespace)
        if row.resource == "pods" and violations(item, self.enforces):
            return refusal("security", name, namespace)
        if (row.resource, namespace, name) in self._objects:
            return status(409, "AlreadyExists", f'{row.resource} "{name}" already exists', details)
        now = rfc3339(time.time())
        uid = str(uuid.uuid4())
        item["metadata"] |= {"namespace": namespace, "uid": uid, "creationTimestamp": now}
        if row.resource == "pods":
            item["status"] = {"phase": "Pending"}
        if row.query.get("dryRun"):
            return said(item, 201)
        self.store("ADDED", row.resource, item)
        answer = said(item, 201)
        if row.resource == "pods":
            self.created.append(uid)
            self.names_created.append(name)
            pod = self.pods[name] = self.pod_type(self, item)
            pod.task = asyncio.ensure_future(self.script(pod))
        owners = {owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()}
        if owners and not owners & {o["metadata"]["uid"] for o in self._objects.values()}:
            asyncio.get_running_loop().call_soon(self.remove, row.resource, namespace, name)
        return answer

    def _delete(self, row: Request, item: dict[str, Any], body: bytes) -> web.StreamResponse:
        options = json.loads(body) if body else {}
        meta = item["metadata"]
        if (refused := unmet(row, meta, options.get("preconditions") or {})) is not None:
            return refused
        grace = options.get("gracePeriodSeconds", item.get("spec", {}).get("terminationGracePeriodSeconds", 30))
        over = item.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if row.resource != "pods" or over or grace == 0 or not item["spec"].get("nodeName"):
            if row.resource == "pods" and grace:  # the real one marks the pod first, even when it then goes at once
                item = fresh(item)
                item["metadata"]["deletionTimestamp"] = rfc3339(time.time())
                self.store("MODIFIED", "pods", item)
            self.remove(row.resource, meta["namespace"], row.name)
            if row.resource == "pods":
                pod = self.pods[row.name]
                if pod.task is not None:
                    pod.task.cancel()
                pod.vanish()
            return said(item)
        item = fresh(item)
        item["metadata"] |= {"deletionTimestamp": rfc3339(time.time() + grace), "deletionGracePeriodSeconds": grace}
        self.store("MODIFIED", "pods", item)
        asyncio.get_running_loop().call_soon(self.pods[row.name].deleted)
        return said(item)

    def _evict(self, row: Request, item: dict[str, Any]) -> web.StreamResponse:
        self.pods[row.name].disrupt()
        item = self._objects["pods", item["metadata"]["namespace"], row.name]
        self._delete(row, item, b"")
        said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return web.json_response(said, status=201)

    def _list(self, row: Request, namespace: str) -> web.StreamResponse:
        items = [
            item
            for (kind, where, _), item in sorted(self._objects.items())
            if kind == row.resource and where == namespace and matches(item, row.query)
        ]
        version = str(self.rv)
        if row.query.get("resourceVersionMatch") == "Exact" and int(row.query["resourceVersion"]) < self.compacted:
            return status(410, "Expired", "The resourceVersion for the provided list is too old.")
        if token := row.query.get("continue"):
            version, _, after = base64.b64decode(token).decode().partition(" ")
            if int(version) < self.compacted:
                return status(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list result."
                )
            items = [item for item in items if item["metadata"]["name"] > after]
        meta = {"resourceVersion": version}
        limit = int(row.query.get("limit", "0"))
        if limit and len(items) > limit:
            items, left = items[:limit], len(items) - limit
            meta["continue"] = base64.b64encode(f"{version} {items[-1]['metadata']['name']}".encode()).decode()
            meta["remainingItemCount"] = left  # type: ignore[assignment]
        return web.json_response(
            {"kind": KINDS[row.resource] + "List", "apiVersion": "v1", "metadata": meta, "items": items}
        )
