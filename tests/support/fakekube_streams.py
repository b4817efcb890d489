"""What the fake API server streams: watches and logs."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic_core import to_json

from support.fakekube_http import KINDS, Request, drop, matches, status
from support.fakekubelet import stamp

if TYPE_CHECKING:
    from support.fakekube import FakeKube


def event(kind: str, item: Mapping[str, Any]) -> bytes:
    """One line of a watch."""
    return to_json({"type": kind, "object": item}) + b"\n"


async def serve_watch(kube: FakeKube, request: web.Request, resource: str, namespace: str) -> web.StreamResponse:
    """Events from a version on, until the client's time is over."""
    query, cut = request.query, kube.cut
    position, bookmarks = int(query.get("resourceVersion") or 0), kube.bookmarks
    gone = 0 < position < kube.compacted
    expired = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired"}
    expired |= {"message": f"too old resource version: {position} ({kube.compacted})", "code": 410}  # type: ignore[dict-item]
    if gone and kube.gone_as_status:
        return web.json_response(expired, status=410)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)

    async def send(kind: str, item: Mapping[str, Any]) -> None:
        await response.write(event(kind, item))

    if gone:
        await send("ERROR", expired)
        return response
    until = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
    while not kube.watch_closes_at_once and not cut.is_set() and time.monotonic() < until:
        written = kube.written
        if kube.watch_stalls:
            await cut.wait()
            break
        since = bisect.bisect_right(kube.history, position, key=lambda entry: entry[0])
        lines = []
        for version, kind, what, item in kube.history[since:]:
            if what == resource and item["metadata"]["namespace"] == namespace:
                position = version
                if matches(item, query):
                    lines.append(event(kind, item))
        if lines:
            await response.write(b"".join(lines))
        if bookmarks != kube.bookmarks and query.get("allowWatchBookmarks") == "true":
            bookmarks = kube.bookmarks
            mark = {"kind": KINDS[resource], "apiVersion": "v1", "metadata": {"resourceVersion": str(kube.rv)}}
            await send("BOOKMARK", mark | ({"spec": {"containers": None}, "status": {}} if resource == "pods" else {}))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                await written.wait()
    return drop(request, response) if cut.is_set() else response


async def serve_log(kube: FakeKube, request: web.Request, row: Request, item: dict[str, Any]) -> web.StreamResponse:
    """A container's log, from the whole second of `sinceTime` on."""
    pod, step = kube.pods[row.name], row.query.get("container", "main")
    if not item["spec"].get("nodeName"):
        return web.Response(status=204)
    if pod.state(step) not in ("running", "terminated"):
        message = f'container "{step}" in pod "{row.name}" is waiting to start: ContainerCreating'
        return status(400, "BadRequest", message)
    log, follows = pod.logs[step], row.query.get("follow") == "true"
    since, stamped = row.query.get("sinceTime", "")[:19], row.query.get("timestamps") == "true"
    budget = kube.cut_logs_after.pop(0) if kube.cut_logs_after else None
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    sent, rotations = 0, log.rotations
    while log.rotations == rotations:
        news, closed, read = log.news, log.closed, log.read
        lines, sent = log.lines[sent:], len(log.lines)
        lines = [(stamp(at), line) for at, line in lines if stamp(at)[:19] >= since]
        data = b"".join(at.encode() + b" " + line if stamped else line for at, line in lines)
        if budget is not None and len(data) >= budget:
            await response.write(data[:budget])
            return drop(request, response)
        if data:
            await response.write(data)
            budget = None if budget is None else budget - len(data)
        read.set()
        if closed or not follows:
            return response
        await news.wait()
    return response
