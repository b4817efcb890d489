"""The witnesses of a History: the API server, fake or real, Redis' MONITOR, a proxy in front of Faktory."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import redis
from aiohttp import web

from consumer.executors import names
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.watch import lines_of
from consumer.tasks import end
from support.fakekube import FakeKube
from support.history import Event, History, What

_ARGUMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_SETTLED = ("rq:finished:", "rq:failed:", "rq:canceled:", "rq:scheduled:")


class WitnessedKube(FakeKube):
    """The fake API server, whose objects and requests go into `witnessed`."""

    def __init__(self, history: History, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.witnessed = history

    def store(self, event: str, resource: str, item: dict[str, Any]) -> None:
        """Note what comes and goes."""
        kinds = {"ADDED": What.CREATED, "DELETED": What.DELETED}
        if resource == "pods" and event in kinds:
            self.witnessed.events.append(pod_event(kinds[event], item))
        super().store(event, resource, item)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.witnessed.events.append(Event(time.time(), What.REQUEST, name=request.method))
        return await super()._serve(request)


def pod_event(what: What, item: dict[str, Any]) -> Event:
    """A pod that came or went, by its own words on its job and attempt."""
    meta = item["metadata"]
    job = meta.get("annotations", {}).get(names.JOB_ID, "")
    attempt = int(meta.get("labels", {}).get(names.ATTEMPT, 0))
    return Event(time.time(), what, job, attempt, meta["name"], meta["uid"])


async def watch_pods(admin: Api, namespace: str, history: History, queue: str | None = None) -> None:
    """Note what comes and goes of our pods on a cluster, of one queue or of all, until cancelled.

    A server that is away is waited for. Pods that were there before count as created.
    """
    query = {"labelSelector": names.OURS, "watch": "true", "timeoutSeconds": "600"}
    there: dict[str, dict[str, Any]] = {}

    def note(kind: str, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        known = uid in there
        if kind == "DELETED":
            there.pop(uid, None)
        else:
            there[uid] = pod
        if queue not in (None, pod["metadata"].get("annotations", {}).get(names.QUEUE)):
            return
        if kind == "DELETED" or not known:
            what = What.DELETED if kind == "DELETED" else What.CREATED
            history.events.append(pod_event(what, pod))

    while True:  # the server may end a watch at any time
        try:
            async with admin.stream(path_of(namespace, "pods"), query) as response:
                async for line in lines_of(response):
                    event = json.loads(line)
                    if event["type"] == "ERROR":  # it knows no more what was: compare with what is
                        assert event["object"]["code"] == 410, event
                        found = await admin.request(
                            "GET", path_of(namespace, "pods"), query={"labelSelector": names.OURS}
                        )
                        now = {pod["metadata"]["uid"]: pod for pod in found["items"]}
                        for pod in [*(there[uid] for uid in there.keys() - now.keys())]:
                            note("DELETED", pod)
                        for pod in now.values():
                            note("ADDED", pod)
                        query["resourceVersion"] = found["metadata"]["resourceVersion"]
                        break
                    query["resourceVersion"] = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        note(event["type"], event["object"])
        except (ApiError, aiohttp.ClientError, OSError, TimeoutError):
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def monitored(url: str, history: History) -> AsyncIterator[None]:
    """Everything that happens in this database of a Redis on a Unix socket goes into `history`."""
    parts = urlsplit(url)
    database = int(parse_qs(parts.query).get("db", ["0"])[0])
    reader, writer = await asyncio.open_unix_connection(parts.path, limit=2**26)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"
    task = asyncio.create_task(read_monitor(reader, database, history))
    try:
        yield
        mark = f"mark-{time.time_ns()}"
        with redis.Redis.from_url(url) as client:
            client.echo(mark)
        async with asyncio.timeout(30):
            while not any(event.name == mark for event in history.events):
                assert not task.done(), task.exception()
                await asyncio.sleep(0.01)
    finally:
        await end(task)
        writer.close()


async def read_monitor(reader: asyncio.StreamReader, database: int, history: History) -> None:
    """What MONITOR says of this database goes into `history`, until the server ends."""
    while (line := await reader.readline()).endswith(b"\n"):  # a server that is killed leaves half a line
        head, _, rest = line.partition(b"] ")
        if int(head.partition(b"[")[2].split(b" ")[0]) != database:
            continue
        words = [codecs.escape_decode(found)[0] for found in _ARGUMENT.findall(rest)]
        at = float(head[1:].split(b" ")[0])
        if words[0].upper() == b"ECHO":
            history.events.append(Event(at, What.REQUEST, name=words[1].decode()))
        history.events += _events(at, words[0].upper().decode(), words[1:])  # type: ignore[arg-type]


def _events(at: float, command: str, words: list[bytes]) -> list[Event]:
    key = words[0].decode("utf-8", "replace") if words else ""
    kind, _, rest = key.rpartition(":")
    if command == "HSET" and kind in ("rq:job", "longshore:job"):
        fields = dict(zip(words[1::2], words[2::2], strict=True))
        found = []
        if b"longshore_instance" in fields and b"longshore_token" in fields:
            token, holder = fields[b"longshore_token"].decode(), fields[b"longshore_instance"].decode()
            found.append(Event(at, What.CLAIMED, rest, name=rest, value=holder, uid=token))
        if record := fields.get(b"longshore"):
            found.append(Event(at, What.RECORD, rest, value=json.loads(record)))
        return found
    if command == "HSET" and key.startswith("rq:execution:"):
        fields = dict(zip(words[1::2], words[2::2], strict=True))
        member = key.removeprefix("rq:execution:")
        holder = fields.get(b"longshore", b"").decode()
        return [Event(at, What.CLAIMED, member.rpartition(":")[0], name=member, value=holder)] if holder else []
    if command == "DEL":
        members = [word.decode().removeprefix("rq:execution:") for word in words if word.startswith(b"rq:execution:")]
        return [Event(at, What.RELEASED, member.rpartition(":")[0], name=member) for member in members]
    if command == "ZREM" and key.startswith("longshore:claims:"):
        return [Event(at, What.RELEASED, words[1].decode(), name=words[1].decode())]
    if command == "XADD" and kind == "longshore:log":
        what = What.LOG_END if b"end" in words[2::2] else What.LOG
        return [Event(at, what, rest, attempt=int(words[1].split(b"-")[0]))]
    if command == "ZADD" and key.startswith(_SETTLED):
        return [Event(at, What.TOLD, words[-1].decode())]
    return []


def keep_all(
    url: str, history: History, payloads: tuple[bytes, ...] = (b"data", b"longshore_payload", b"longshore_ending")
) -> None:
    """Read all that is stored now into `history.kept`, but the payloads."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            if kind == b"hash":
                value: Any = {name: text for name, text in client.hgetall(key).items() if name not in payloads}
            elif kind == b"stream":
                value = client.xrange(key)
            else:
                continue
            history.kept[key.decode()] = repr(value).encode()


class FaktoryProxy:
    """`async with FaktoryProxy(port, history) as proxy: proxy.url`: notes each ACK and FAIL that goes by."""

    def __init__(self, host: str, port: int, history: History) -> None:
        self._target, self.history = (host, port), history
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaktoryProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"faktory://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await end(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(self._carry(reader, far_writer, True), self._carry(far_reader, writer, False))
            finally:
                far_writer.close()
        writer.close()  # also of who comes while the server is away
        self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: bool) -> None:
        while data := await reader.read(2**16):
            for word in re.findall(rb'(?:^|\n)(?:ACK|FAIL) [^\n]*?"jid":"([^"]+)"', data) if commands else ():
                self.history.events.append(Event(time.time(), What.TOLD, word.decode()))
            writer.write(data)
            await writer.drain()
        writer.close()
