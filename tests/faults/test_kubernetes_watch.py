"""Watches that stall, close, lie or lag: the informer ends with what is really there, at a bounded rate of requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from consumer.executors.kubernetes import watch
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.watch import Informer
from consumer.executors.names import OURS
from support.fakekube import FakeKube
from support.fakekube_http import Request
from support.fakekubelet import FakePod

LABELS = dict([OURS.split("=")]) | {"longshore.dev/job": "j"}


async def stays(pod: FakePod) -> None:
    pod.schedule()


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with FakeKube("jobs", script=stays) as kube:
        yield kube


@pytest.fixture
async def api(kube: FakeKube) -> AsyncIterator[Api]:
    api = Api(Access(kube.url, "jobs"), rate=10_000, patience=5)
    yield api
    await api.close()


@pytest.fixture
async def informer(kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Informer]:
    monkeypatch.setattr(watch, "PAUSE_CAP", 0.3)
    informer = Informer(api, "jobs")
    await informer.open()
    yield informer
    await informer.close()


def pod_named(name: str, version: str = "", uid: str = "") -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "labels": LABELS}
    meta |= {"uid": uid, "resourceVersion": version} if version else {}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [{"name": "main"}]}}


async def create(api: Api, name: str) -> None:
    await api.request("POST", path_of("jobs", "pods"), body=pod_named(name))


async def holds(informer: Informer, *names: str) -> None:
    """Waits until exactly these pods are known."""
    async with asyncio.timeout(20):
        while sorted(pod.name for pod in informer.pods()) != sorted(names):
            changed = asyncio.Event()
            told, forget = informer._tell, informer._forget
            informer._tell = lambda pod, gone, told=told, changed=changed: (told(pod, gone), changed.set())  # type: ignore
            informer._forget = lambda pod, forget=forget, changed=changed: (forget(pod), changed.set())  # type: ignore
            await changed.wait()
            informer._tell, informer._forget = told, forget  # type: ignore[method-assign]


@pytest.mark.row(22)
async def test_a_watch_that_says_nothing_any_more_is_opened_again(
    kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(watch, "PAUSE_CAP", 0.3)
    kube.watch_stalls = True
    informer = Informer(api, "jobs")
    await informer.open()
    await create(api, "p")
    await kube.until(lambda kube: kube.verbs().count("watch pods") >= 2)
    kube.watch_stalls = False
    await holds(informer, "p")
    await informer.close()


@pytest.mark.row(23)
async def test_a_watch_that_closes_at_once_for_ever_costs_little(kube: FakeKube, api: Api) -> None:
    kube.watch_closes_at_once = True
    informer = Informer(api, "jobs")
    await informer.open()
    began = time.monotonic()
    await kube.until(lambda kube: kube.verbs().count("watch pods") >= 5)
    assert time.monotonic() - began >= 0.1 + 0.2 + 0.4  # at least the pauses between them, whatever the machine does
    await create(api, "p")
    kube.watch_closes_at_once = False
    await holds(informer, "p")
    await informer.close()


class Forgetful(FakeKube):
    """Every further page of a list comes too late."""

    async def _answer(self, request: web.Request, row: Request, body: bytes) -> web.StreamResponse:
        if "continue" in row.query:
            self.compact()
        return await super()._answer(request, row, body)


@pytest.mark.row(21)
async def test_pages_that_always_come_too_late_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAGE", 1)
    async with Forgetful("jobs", script=stays) as kube:
        api = Api(Access(kube.url, "jobs"), rate=10_000, patience=5)
        for name in ("a", "b"):
            await create(api, name)
        informer = Informer(api, "jobs")
        opening = asyncio.create_task(informer.open())
        began = time.monotonic()
        await kube.until(lambda kube: kube.verbs().count("list pods") >= 8)
        assert time.monotonic() - began >= 0.1 + 0.2 + 0.4  # at least the pauses between them
        monkeypatch.setattr(watch, "PAGE", 2)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await informer.open()
        assert sorted(pod.name for pod in informer.pods()) == ["a", "b"]
        await informer.close()
        await api.close()


@pytest.mark.row(24)
async def test_versions_that_begin_again_are_found_by_the_next_list(
    kube: FakeKube, api: Api, informer: Informer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(api, "old")
    await holds(informer, "old")
    kube.lose("old")
    kube.restore(5)
    await create(api, "new")  # its version is one that our watch has long passed
    monkeypatch.setattr(watch, "RELIST_SECONDS", 0.0)
    kube.cut_watches()
    await holds(informer, "new")
    monkeypatch.undo()
    kube.cut_watches()
    await create(api, "newer")
    await holds(informer, "new", "newer")


@pytest.mark.row(25)
async def test_a_deletion_that_was_missed_is_found_by_the_next_list(
    kube: FakeKube, api: Api, informer: Informer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        await create(api, name)
    await holds(informer, "a", "b")
    kube.lose("a")
    monkeypatch.setattr(watch, "RELIST_SECONDS", 0.0)
    kube.cut_watches()
    await holds(informer, "b")


EVENTS = [
    ("ADDED", pod_named("p", "11", "one")),
    ("MODIFIED", pod_named("p", "12", "one")),
    ("DELETED", pod_named("p", "13", "one")),
    ("ADDED", pod_named("p", "14", "two")),
    ("MODIFIED", pod_named("p", "15", "two")),
]


@pytest.mark.row(25, 26)
@given(st.lists(st.integers(0, len(EVENTS) - 1), max_size=8))
def test_events_that_come_again_or_late_never_bring_back_the_past(again: list[int]) -> None:
    informer = Informer(None, "jobs")  # type: ignore[arg-type]
    for kind, item in EVENTS:
        informer._event({"type": kind, "object": item})
    bookmark = {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "20", "creationTimestamp": None}}
    informer._event({"type": "BOOKMARK", "object": bookmark})
    for index in again:
        kind, item = EVENTS[index]
        informer._event({"type": kind, "object": item})
    known = informer.get("p")
    assert known is not None
    assert (known.uid, len(informer.pods())) == ("two", 1)


@pytest.mark.row(27)
async def test_five_thousand_pods_come_in_pages(kube: FakeKube, api: Api) -> None:
    template = pod_named("x")
    for i in range(5000):
        meta = {**template["metadata"], "name": f"p{i}", "uid": f"u{i}", "namespace": "jobs"}
        kube.store("ADDED", "pods", template | {"metadata": meta, "status": {"phase": "Pending"}})
    informer = Informer(api, "jobs")
    await informer.open()
    assert len(informer.pods()) == 5000
    pages = kube.verbs().count("list pods")
    assert pages % 10 == 0
    kube.compact()
    kube.cut_watches()
    await kube.until(lambda kube: kube.verbs().count("list pods") >= pages + 10)
    await informer.close()
    assert len(informer.pods()) == 5000


@pytest.mark.row(21)
async def test_a_list_that_expires_between_its_pages_begins_again(
    kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAGE", 2)
    for name in "abcde":
        await create(api, name)
    expired = b'{"kind":"Status","code":410,"reason":"Expired","message":"the continue parameter is too old"}'
    informer = Informer(api, "jobs")
    seen = 0

    def second_page(kube: FakeKube) -> bool:
        nonlocal seen
        seen = kube.verbs().count("list pods")
        return seen == 1

    listing = asyncio.create_task(informer.open())
    await kube.until(second_page)
    kube.fault("list pods", status=410, body=expired)
    await listing
    await holds(informer, *"abcde")
    await informer.close()
