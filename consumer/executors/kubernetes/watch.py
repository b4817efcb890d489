"""One informer for all our pods of a namespace: LIST once, then WATCH, for ever.

Source of the protocol: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp

from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.status import Pod, slim
from consumer.executors.names import OURS
from consumer.model import Measure

log = logging.getLogger(__name__)

PAGE = 250
WATCH_SECONDS = (240, 300)
SILENCE_SECONDS = 90.0
"""Bookmarks come about once a minute: a longer silence means a dead connection."""
RELIST_SECONDS = 600.0
PAUSE_FIRST, PAUSE_CAP, LIFE_SECONDS = 0.2, 30.0, 5.0
OPEN_SECONDS = 10.0
"""How long a start waits for the first watch; one that is refused later is trouble as any other."""
AT_ONCE = 32
"""Events in one round of the event loop: each may let a job go on, which is some work more for the same round."""

Listener = Callable[[Pod, bool], None]
"""Called with the pod as it is now; with True and what was last seen of it (uid "": nothing) when it isn't listed."""


class Gone(Exception):
    """The API no longer has the history that we ask for (410): list again."""


class Informer:
    """Keeps slim copies of all our pods and tells listeners, by pod name, of every change."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._path = path_of(namespace, "pods")
        self._pods: dict[str, Pod] = {}
        self._jobs: dict[str, tuple[str, ...]] = {}  # nearly always one; sets would be thousands
        self._listeners: dict[str, list[Listener]] = {}
        self._version: str | None = None
        self._listed = 0.0
        self._task: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()
        """Set while a watch is open: what is here is then at most moments old."""
        self._trouble: ApiError | None = None
        self._opening = False
        self._odd: set[str] = set()
        """Names of pods that can't be read, each told once."""
        self._heard = 0
        self._watched_since = math.inf
        self._news = time.monotonic()
        self.lists = 0
        self.watches = 0

    async def open(self) -> None:
        """List, then keep watching until `close`. Raises ApiError if the first list or watch is refused."""
        await self._list(patience=3)
        self._opening = True
        self._task = asyncio.create_task(self._run(), name="kubernetes informer")
        opened = asyncio.create_task(self.connected.wait())
        try:
            await asyncio.wait({self._task, opened}, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._opening = False  # from now on nobody would hear of an error that ends the task
            opened.cancel()
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.connected.clear()

    @property
    def trouble(self) -> ApiError | None:
        """Why the API can't be watched now; None: it can, or nothing is known yet."""
        if self._task is not None and self._task.done():
            return ApiError(0, "", "the watch of pods has ended")
        return self._trouble

    def get(self, name: str) -> Pod | None:
        """The pod of this name, if it is listed."""
        return self._pods.get(name)

    def of_job(self, key: str) -> list[Pod]:
        """The pods of a job (by its label), of all its attempts."""
        return [self._pods[name] for name in sorted(self._jobs.get(key, ()))]

    def pods(self) -> list[Pod]:
        """All that are listed."""
        return list(self._pods.values())

    def measures(self) -> Iterator[Measure]:
        """How fresh what is here is."""
        yield Measure("pods", len(self._pods))
        yield Measure("watch_up", self.connected.is_set())
        yield Measure("watch_age_seconds", time.monotonic() - self._news)
        yield Measure("watch_lists", self.lists)
        yield Measure("watches", self.watches)

    def listened(self, name: str) -> bool:
        """Somebody here holds the pod of this name."""
        return name in self._listeners

    def listen(self, name: str, listener: Listener) -> None:
        """Tell `listener` of every change of this pod, until `unlisten`."""
        self._listeners.setdefault(name, []).append(listener)

    def unlisten(self, name: str, listener: Listener) -> None:
        """Stop telling; harmless if it wasn't told."""
        listeners = self._listeners.get(name)
        if listeners and listener in listeners:
            listeners.remove(listener)
            if not listeners:
                del self._listeners[name]

    async def _run(self) -> None:
        pause = PAUSE_FIRST
        while True:
            heard, self._watched_since = self._heard, math.inf
            why: str | None = None
            unreadable, told = False, 0.0
            try:
                if self._version is None or time.monotonic() - self._listed >= RELIST_SECONDS:
                    await self._list()
                await self._watch(self._version or "0")
            except Gone as error:
                self._version, why = None, str(error)
            except ApiError as error:
                if error.status in (400, 410):  # a version that the server can't use
                    self._version = None
                if self._opening and self.watches == 0 and error.status in (401, 403):
                    raise  # `open` waits for the first watch and reports it
                why, told = str(error), min(PAUSE_CAP, error.retry_after or 0.0)
                if error.status not in (400, 410):
                    self._trouble = error
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                why = f"{type(error).__name__}: {error}"
                unreadable = isinstance(error, ValueError)  # a line that was cut; else it comes again from our version
                # No bookmark either: was the server set back to an older state?
                if isinstance(error, TimeoutError) or (unreadable and self._heard == heard):
                    self._version = None
            except Exception as error:
                log.exception("the watch of pods failed; they are listed again")
                why, unreadable = f"{type(error).__name__}: {error}", True
                self._version, self._trouble = None, ApiError(0, "", f"pods can't be watched: {why}")
            finally:
                self.connected.clear()
            # From the watch's opening: a list may take as long as it likes, and is no success that others follow from.
            lived = time.monotonic() - self._watched_since > LIFE_SECONDS
            if lived or (self._heard > heard and not unreadable):
                pause = PAUSE_FIRST
            if why is None and lived:
                continue
            if why is not None:
                log.debug("the watch of pods ended, it is opened again: %s", why)
            await asyncio.sleep(told + random.uniform(pause / 2, pause))
            pause = min(PAUSE_CAP, pause * 2)

    async def _list(self, patience: float = 0) -> None:
        found: dict[str, Pod] = {}
        query = {"labelSelector": OURS, "limit": str(PAGE)}
        odd: set[str] = set()
        version, pause = "", PAUSE_FIRST
        while True:
            try:
                page = await self._api.request("GET", self._path, query=query, patience=patience, read=answers.page)
            except ApiError as error:
                if error.status == 410 and "continue" in query:  # the list took too long: from the start
                    found.clear()
                    odd.clear()
                    del query["continue"]
                    await asyncio.sleep(random.uniform(pause / 2, pause))
                    pause = min(PAUSE_CAP, pause * 2)
                    continue
                raise
            await asyncio.sleep(0)  # to decode a page takes long enough
            for item in page.get("items") or ():
                if (pod := self._read(item, odd)) is not None:
                    found[pod.name] = pod
            meta = page.get("metadata") or {}
            version = meta.get("resourceVersion") or version
            if not meta.get("continue"):
                break
            query["continue"] = meta["continue"]
            await asyncio.sleep(0)
        self.lists += 1
        self._version, self._listed = version, time.monotonic()
        self._news, self._odd = self._listed, odd
        for name in [name for name in self._pods if name not in found]:
            self._forget(self._pods[name])  # whoever listens is told below
        for pod in found.values():
            known = self._pods.get(pod.name)
            if known is not None and known.uid != pod.uid:
                self._lost(pod.name)
            if known != pod:
                self._put(pod)
        for name in [name for name in self._listeners if name not in found and name not in odd]:
            self._tell(Pod(name, ""), True)  # it may have come and gone while nobody watched

    async def _watch(self, version: str) -> None:
        left = max(1.0, RELIST_SECONDS - (time.monotonic() - self._listed))
        query = {
            "labelSelector": OURS,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(round(min(left, random.uniform(*WATCH_SECONDS)))),
        }
        async with self._api.stream(self._path, query, sock_read=SILENCE_SECONDS) as response:
            self.watches += 1
            self._trouble = None
            self._watched_since = time.monotonic()
            self.connected.set()
            count = 0
            async for line in lines_of(response):
                self._news = time.monotonic()
                self._take(answers.event(line))
                count += 1
                if count % AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _take(self, event: dict[str, Any]) -> None:
        """Hear an event; one of a pod that can't be read is passed over, since others wait behind it.

        Raises Gone, ApiError, and ValueError if nobody can tell whose it is.
        """
        try:
            self._event(event)
        except (Gone, ApiError):
            raise
        except Exception as error:
            kind, (name, uid, version) = event.get("type"), answers.identity(event.get("object"))
            if kind == "ERROR" or not (name and version):
                raise ValueError(f"an event that can't be read: {error!r}") from error
            known = self._pods.get(name)
            if kind == "DELETED" and (known is None or known.uid == uid):
                self._lost(name)
            elif kind != "DELETED":
                self._tell_of_odd(name, error, self._odd)
                if known is not None and known.uid != uid:
                    self._lost(name)
            self._version = version

    def _read(self, item: Any, odd: set[str]) -> Pod | None:
        """A listed pod; if it can't be read it is what it was, or nothing yet, and its name among the `odd`."""
        try:
            return slim(item)
        except Exception as error:
            name, uid, _ = answers.identity(item)
            known = self._pods.get(name)
            if known is not None and known.uid != uid:
                return None
            self._tell_of_odd(name, error, odd)
            return known

    def _tell_of_odd(self, name: str, error: Exception, odd: set[str]) -> None:
        if name not in self._odd and name not in odd:
            log.error("the pod '%s' can't be read, what it was before counts: %r", name, error)
        odd.add(name)

    def _event(self, event: dict[str, Any]) -> None:
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            code, message = item.get("code"), item.get("message") or "the watch failed"
            if code == 410:
                raise Gone(message)
            raise ApiError(code or 500, item.get("reason") or "", message)
        version = (item.get("metadata") or {}).get("resourceVersion")
        if kind != "BOOKMARK":
            pod = slim(item)
            known = self._pods.get(pod.name)
            if known is not None and _older(pod, known):
                return
            if kind == "DELETED":
                if known is None or known.uid == pod.uid:
                    self._forget(pod)
                    self._tell(pod, True)
            else:
                if known is not None and known.uid != pod.uid:
                    self._lost(pod.name)
                self._put(pod)
            self._heard += 1
        if version:
            self._version = version

    def _put(self, pod: Pod) -> None:
        self._pods[pod.name] = pod
        if pod.job:
            names = self._jobs.get(pod.job, ())
            if pod.name not in names:
                self._jobs[pod.job] = (*names, pod.name)
        self._tell(pod, False)

    def _lost(self, name: str) -> None:
        """It has gone, and nobody saw how."""
        if (pod := self._pods.get(name)) is not None:
            self._forget(pod)
        self._tell(Pod(name, ""), True)

    def _forget(self, pod: Pod) -> None:
        self._pods.pop(pod.name, None)
        names = self._jobs.pop(pod.job, ())
        if others := tuple(name for name in names if name != pod.name):
            self._jobs[pod.job] = others

    def _tell(self, pod: Pod, gone: bool) -> None:
        for listener in list(self._listeners.get(pod.name, ())):
            try:
                listener(pod, gone)
            except Exception:
                log.exception("news of the pod %s were of no use", pod.name)  # others listen too


def _older(one: Pod, other: Pod) -> bool:
    """By their versions, which rise within one server's life."""
    return one.version.isdigit() and other.version.isdigit() and int(one.version) < int(other.version)


async def lines_of(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines of a stream, read in big chunks (readline costs ten times as much and has a limit)."""
    rest = b""
    async for chunk in response.content.iter_any():
        if b"\n" not in chunk:
            rest += chunk
            continue
        *whole, tail = (rest + chunk).split(b"\n")
        rest = tail
        for line in whole:
            if line:
                yield line
    if rest.strip():
        yield rest
