"""The fake API server without HTTP: what it answers is FakeKube's, its streams are pushed on virtual time."""

from __future__ import annotations

import asyncio
import functools
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from pydantic_core import to_json

from simulate.clock import WORLD, VirtualLoop
from simulate.wire import Weather
from support.fakekube import FakeKube
from support.fakekube_http import KINDS, Request, matches, status
from support.fakekube_streams import event
from support.fakekubelet import FakePod, Script, stamp
from support.history import Event, What
from support.witnesses import pod_event

BOOKMARK_SECONDS = 50.0


class Stream:
    """A body that is sent as it comes; the part of aiohttp's response that the consumer uses."""

    def __init__(self, loop: VirtualLoop, weather: Weather, code: int = 200) -> None:
        self.status, self.headers = code, {}  # type: ignore[var-annotated]
        self.closed = self.over = self.ended = False
        self._loop, self._weather, self._last = loop, weather, 0.0
        self._pieces: list[bytes] = []
        self._error: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self.silence: float | None = None

    # --- the server's side

    def write(self, data: bytes) -> None:
        """Send more of it."""
        if data:
            self._deliver(lambda: self._pieces.append(data))

    def end(self) -> None:
        """All is sent."""
        self.ended = True
        self._deliver(lambda: setattr(self, "over", True))

    def cut(self) -> None:
        """The connection breaks."""
        self._deliver(lambda: setattr(self, "_error", aiohttp.ClientPayloadError("connection reset")))

    def _deliver(self, deed: Callable[[], object]) -> None:
        def come() -> None:
            deed()
            if self._news is not None and not self._news.done():
                self._news.set_result(None)

        self._last = max(self._last + 1e-6, self._loop.now + self._weather.passage())  # in the order of sending
        self._loop.call_at(self._last, come, context=WORLD)

    # --- the client's

    @property
    def content(self) -> Stream:
        return self

    async def readany(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.over:
                return b""
            self._news = self._loop.create_future()
            try:
                async with asyncio.timeout(self.silence):
                    await self._news
            except TimeoutError:
                raise aiohttp.ServerTimeoutError("silence") from None
            finally:
                self._news = None
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    async def iter_any(self) -> AsyncIterator[bytes]:
        while data := await self.readany():
            yield data

    async def read(self) -> bytes:
        return b"".join([data async for data in self.iter_any()])

    def close(self) -> None:
        self.closed = True


class _Asked:
    """As much of aiohttp's request as FakeKube looks at."""

    headers: Mapping[str, str] = {}

    def __init__(self, namespace: str) -> None:
        self.match_info = {"ns": namespace}


class SimulatedPod(FakePod):
    """A pod that takes its time to go."""

    kube: SimulatedKube

    def _state(self, step: str, state: dict[str, Any], phase: str | None = None) -> None:
        if "terminated" in state and step == "main":  # it says when it began, as real ones do
            known = ((self.object or {}).get("status") or {}).get("containerStatuses") or [{"state": {}}]
            began = known[0]["state"].get("running", {}).get("startedAt")
            state = {"terminated": state["terminated"] | ({"startedAt": began} if began else {})}
        self.kube.by_kubelet(lambda: super(SimulatedPod, self)._state(step, state, phase))

    async def started(self) -> None:
        """Waits until there is a kubelet to start it."""
        there = asyncio.Event()
        self.kube.by_kubelet(there.set)
        await there.wait()

    def deleted(self) -> None:
        loop, rng = self.kube.loop, self.kube.rng
        if not self.obstinate:
            grace = float((self.object or {"metadata": {}})["metadata"].get("deletionGracePeriodSeconds") or 0)
            seen = functools.partial(self.kube.by_kubelet, super().deleted)
            loop.later(rng.uniform(0, grace) if rng.random() < 0.7 else grace, seen)


class SimulatedKube(FakeKube):
    """`note` is told of containers that start (CREATED), pods that go and requests that come."""

    pod_type = SimulatedPod

    def __init__(
        self, loop: VirtualLoop, rng: random.Random, weather: Weather, note: Callable[[Event], None], script: Script
    ) -> None:
        super().__init__("jobs", script=script)
        self.loop, self.rng, self.weather, self._note = loop, rng, weather, note
        self.began: set[str] = set()
        """Uids of pods whose main container has started."""
        self.ends: dict[str, int] = {}
        """Their exit codes, by uid, as far as they have ended."""
        self.whose: dict[str, tuple[str, int]] = {}
        """Job and attempt of each pod."""
        self._watches: list[tuple[Stream, str, dict[str, str]]] = []
        self._streams: list[Stream] = []
        self._logs: list[Stream] = []
        self._sending: set[asyncio.Task[None]] = set()
        self.busy = 0
        """The status with which half of all calls are refused."""
        self.cut_logs = 0.0
        """The share of log connections that break somewhere."""
        self._untold: list[Callable[[], None]] | None = None
        self._kubelets_stop = 0

    def stop_kubelets(self) -> None:
        """Containers run on, but nobody tells of them, and what was told of their logs ends as if that were all."""
        self._kubelets_stop += 1
        self._untold = self._untold or []
        for stream in self._logs:
            stream.end()
        self._logs.clear()

    def start_kubelets(self) -> None:
        """They tell what has come to pass, unless they were stopped once more."""
        self._kubelets_stop -= 1
        if not self._kubelets_stop:
            untold, self._untold = self._untold or [], None
            for deed in untold:
                deed()

    def by_kubelet(self, deed: Callable[[], None]) -> None:
        """Done now, or once there are kubelets."""
        if self._untold is None:
            deed()
        else:
            self._untold.append(deed)

    def store(self, event_type: str, resource: str, item: dict[str, Any]) -> None:
        super().store(event_type, resource, item)
        if resource == "pods":
            self._witness(event_type, item)
        for stream, kind, query in self._watches:
            if kind == resource and not stream.closed and matches(item, query):
                stream.write(event(event_type, item))

    def _witness(self, event_type: str, item: dict[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        if uid not in self.whose:
            told = pod_event(What.CREATED, item)
            self.whose[uid] = (told.job, told.attempt)
        for found in item["status"].get("containerStatuses", ()):
            if found["state"].keys() & {"running", "terminated"} and uid not in self.began:
                self.began.add(uid)
                self._note(pod_event(What.CREATED, item))
            if "terminated" in found["state"]:
                self.ends.setdefault(uid, found["state"]["terminated"]["exitCode"])
        if event_type == "DELETED":
            self._note(pod_event(What.DELETED, item))

    def answer(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes, str | None]:
        """Status, body and Retry-After of a call."""
        row, namespace = self._row(method, path, query)
        if self.busy and self.rng.random() < 0.5:
            return self.busy, b"try later", "1" if self.busy == 429 else None
        asked = self._answer(_Asked(namespace), row, body or b"")  # type: ignore[arg-type]
        try:
            asked.send(None)
        except StopIteration as done:
            found = done.value
            return found.status, bytes(found.body or b""), None
        raise AssertionError(f"{method} {path} waits for something")

    def open(self, path: str, query: Mapping[str, str]) -> Stream:
        """A watch, or a log."""
        row, namespace = self._row("GET", path, query)
        stream = Stream(self.loop, self.weather)
        self._streams = [other for other in self._streams if not (other.closed or other.over)]
        self._streams.append(stream)
        if row.query.get("watch") == "true":
            self._watch(stream, row, namespace)
        else:
            self._log(stream, row, namespace)
        return stream

    def hang_up(self) -> None:
        """All connections that are open break."""
        for stream in self._streams:
            stream.cut()
        self._watches.clear()

    def _row(self, method: str, path: str, query: Mapping[str, str]) -> tuple[Request, str]:
        self._note(Event(time.time(), What.REQUEST, name=method))
        parts = urlsplit(path).path.split("/")
        parts = parts[parts.index("namespaces") + 1 :]
        namespace, resource, name, sub = (*parts, "", "")[:4]
        return Request(method, resource, name, sub, dict(query)), namespace

    def _watch(self, stream: Stream, row: Request, namespace: str) -> None:
        position, query = int(row.query.get("resourceVersion") or 0), row.query
        if 0 < position < self.compacted:
            expired = {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "reason": "Expired",
                "message": "too old resource version",
                "code": 410,
            }
            stream.write(event("ERROR", expired))
            stream.end()
            return
        for version, kind, what, item in self.history:
            if version > position and what == row.resource and matches(item, query):
                stream.write(event(kind, item))
        entry = (stream, row.resource, query)
        self._watches.append(entry)

        def mark() -> None:
            if entry in self._watches and not stream.closed:
                told = {"kind": KINDS[row.resource], "metadata": {"resourceVersion": str(self.rv)}}
                stream.write(to_json({"type": "BOOKMARK", "object": told}) + b"\n")
                self.loop.later(BOOKMARK_SECONDS, mark)

        def over() -> None:
            if entry in self._watches:
                self._watches.remove(entry)
                stream.end()

        self.loop.later(BOOKMARK_SECONDS, mark)
        self.loop.later(float(query.get("timeoutSeconds") or 1800), over)

    def _log(self, stream: Stream, row: Request, namespace: str) -> None:
        item, step = self.stored("pods", namespace, row.name), row.query.get("container", "main")
        refused = None
        if item is None:
            refused = status(404, "NotFound", f'pods "{row.name}" not found')
        elif self._untold is not None:
            refused = status(500, "InternalError", "dial tcp 10.0.0.1:10250: connect: connection refused")
        elif item["spec"].get("nodeName") and self.pods[row.name].state(step) not in ("running", "terminated"):
            refused = status(400, "BadRequest", f'container "{step}" in pod "{row.name}" is waiting to start')
        if refused is not None:
            stream.status = refused.status
            stream.write(bytes(refused.body))  # type: ignore[arg-type]
            stream.end()
        elif not item["spec"].get("nodeName"):  # type: ignore[index]
            stream.status = 204
            stream.end()
        else:
            task = self.loop.create_task(self._send(stream, row, step))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, stream: Stream, row: Request, step: str) -> None:
        log, follows = self.pods[row.name].logs[step], row.query.get("follow") == "true"
        since, stamped = row.query.get("sinceTime", "")[:19], row.query.get("timestamps") == "true"
        budget = self.rng.randrange(400) if self.rng.random() < self.cut_logs else math.inf
        sent = 0
        self._logs = [*(other for other in self._logs if not other.over), stream]
        while not (stream.closed or stream.ended):
            news, closed = log.news, log.closed
            lines, sent = log.lines[sent:], len(log.lines)
            lines = [(stamp(at), line) for at, line in lines if stamp(at)[:19] >= since]
            data = b"".join(at.encode() + b" " + line if stamped else line for at, line in lines)
            if len(data) >= budget:
                stream.write(data[: int(budget)])
                stream.cut()
                return
            if data:
                stream.write(data)
                budget -= len(data)
            if closed or not follows:
                stream.end()
                return
            await news.wait()


def outcome_of(kube: SimulatedKube, job: str, attempt: int) -> list[int | None]:
    """The exit codes of the attempt's pods that had begun; None: it never ended."""
    return [kube.ends.get(uid) for uid in sorted(kube.began) if kube.whose[uid] == (job, attempt)]
