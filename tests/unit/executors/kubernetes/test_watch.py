"""The informer on the fake API server: nothing missed, nothing hot."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from consumer.executors.kubernetes import watch
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.status import Pod
from consumer.executors.kubernetes.watch import Informer
from support.fakekube import FakeKube
from support.fakekubelet import FakePod


async def stays(pod: FakePod) -> None:
    pod.schedule()


def pod_named(name: str, job: str = "j") -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "longshore", "longshore.dev/job": job}
    meta = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [{"name": "main"}]}}


async def create(api: Api, name: str) -> None:
    await api.request("POST", path_of("jobs", "pods"), body=pod_named(name))


@pytest.fixture
async def informer(kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Informer]:
    kube.script = stays
    informer = Informer(api, "jobs")
    await informer.open()
    yield informer
    await informer.close()


async def seen(informer: Informer, name: str, gone: bool = False) -> Pod:
    """Waits until the informer has (or no longer has) this pod."""
    event: asyncio.Event = asyncio.Event()

    def listener(pod: Pod, lost: bool) -> None:
        if lost is gone and (gone or pod.node):
            event.set()

    informer.listen(name, listener)
    try:
        known = informer.get(name)
        if not ((known is None) if gone else (known is not None and known.node)):
            async with asyncio.timeout(20):
                await event.wait()
    finally:
        informer.unlisten(name, listener)
    return informer.get(name) or Pod(name, "")


async def test_pods_are_listed_in_pages_and_watched(kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAGE", 3)
    kube.script = stays
    for i in range(10):
        await create(api, f"p{i}")
    other = pod_named("foreign")
    other["metadata"]["labels"] = {}
    await api.request("POST", path_of("jobs", "pods"), body=other)
    informer = Informer(api, "jobs")
    await informer.open()
    assert [pod.name for pod in informer.of_job("j")] == [f"p{i}" for i in range(10)]
    assert kube.verbs().count("list pods") == 4
    assert informer.get("foreign") is None
    await create(api, "later")
    assert (await seen(informer, "later")).node == "node-1"
    await informer.close()


@pytest.mark.parametrize("as_status", [True, False])
async def test_410_lists_again_and_tells_what_changed(
    kube: FakeKube, api: Api, informer: Informer, as_status: bool
) -> None:
    await create(api, "old")
    await seen(informer, "old")
    await informer.close()
    kube.gone_as_status = as_status
    kube.remove("pods", "jobs", "old")
    await create(api, "new")
    kube.compact()
    lists = informer.lists
    gone = asyncio.create_task(seen(informer, "old", gone=True))
    informer._task = asyncio.create_task(informer._run())  # goes on from its old version
    await seen(informer, "new")
    await gone
    assert informer.lists == lists + 1


async def test_a_cut_watch_goes_on_from_where_it_was(kube: FakeKube, api: Api, informer: Informer) -> None:
    for i in range(5):
        kube.cut_watches()
        await create(api, f"p{i}")
        await seen(informer, f"p{i}")
    assert informer.lists == 1
    assert informer.watches >= 2


@pytest.mark.row(29)
async def test_a_watch_that_is_cut_or_ends_is_no_event(
    kube: FakeKube, api: Api, informer: Informer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAUSE_CAP", 0.1)
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as events:
        for i in range(3):
            kube.cut_watches()
            await create(api, f"cut-{i}")
            await seen(informer, f"cut-{i}")
        kube.watch_closes_at_once = True
        before = informer.watches
        kube.bookmark()
        await kube.until(lambda kube: informer.watches > before + 2)
        kube.watch_closes_at_once = False
        await create(api, "p")
        await seen(informer, "p")
    assert "the watch of pods ended" in caplog.text  # it was cut indeed
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [e for e in events if e["log_level"] in ("warning", "error", "critical")] == []


async def test_bookmarks_move_the_version(kube: FakeKube, api: Api, informer: Informer) -> None:
    other = pod_named("foreign")
    other["metadata"]["labels"] = {}
    await api.request("POST", path_of("jobs", "pods"), body=other)
    kube.bookmark()
    await create(api, "p")
    await seen(informer, "p")
    kube.compact()
    kube.compacted = int(informer._version or 0)  # all before the version that we know is forgotten
    kube.cut_watches()
    await create(api, "q")
    await seen(informer, "q")
    assert informer.lists == 1


async def test_a_watch_that_closes_at_once_is_no_hot_loop(
    kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await real(0)

    kube.watch_closes_at_once = True
    monkeypatch.setattr(watch.asyncio, "sleep", sleep)
    informer = Informer(api, "jobs")
    await informer.open()
    await kube.until(lambda kube: kube.verbs().count("watch pods") >= 12)
    await informer.close()
    assert all(0.1 * 2**i <= pause <= 0.2 * 2**i for i, pause in enumerate(pauses[:7])), pauses
    assert max(pauses) <= watch.PAUSE_CAP


async def test_a_server_that_fails_isnt_hammered_and_comes_back(
    kube: FakeKube, api: Api, informer: Informer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube.fault("watch pods", status=500, body=b"<html><b>bad gateway</b></html>", times=2)
    kube.cut_watches()
    await create(api, "p")
    await seen(informer, "p")


async def test_a_pod_that_came_and_went_unseen_is_told_to_whoever_waits(
    kube: FakeKube, api: Api, informer: Informer
) -> None:
    told: list[tuple[str, bool]] = []
    informer.listen("brief", lambda pod, gone: told.append((pod.uid, gone)))
    kube.compact()
    await informer._list()
    assert told == [("", True)]


async def test_a_pod_that_a_list_no_longer_has_is_told_once(kube: FakeKube, api: Api, informer: Informer) -> None:
    for name in ("goes", "stays"):
        await create(api, name)
        await seen(informer, name)
    told: list[tuple[str, str, bool]] = []
    for name in ("goes", "stays"):
        informer.listen(name, lambda pod, gone: told.append((pod.name, pod.uid, gone)))
    kube.lose("goes")
    await informer._list()
    assert told == [("goes", "", True)]
    assert [pod.name for pod in informer.pods()] == [pod.name for pod in informer.of_job("j")] == ["stays"]


async def test_a_refused_first_watch_is_reported(kube: FakeKube, api: Api) -> None:
    kube.forbidden.add("watch pods")
    informer = Informer(api, "jobs")
    with pytest.raises(ApiError) as caught:
        await informer.open()
    assert caught.value.forbidden is not None
    await informer.close()


async def test_a_server_that_was_set_back_is_noticed_by_its_silence(
    kube: FakeKube, api: Api, informer: Informer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(api, "restored")
    await seen(informer, "restored")
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 0.2)
    await create(api, "lost")
    await seen(informer, "lost")
    kube.cut_watches()
    for name, version in (("restored", "50"), ("lost", None)):  # etcd from a backup: older versions, no word of it
        item = kube._objects.pop(("pods", "jobs", name))
        if version is not None:
            item["metadata"]["resourceVersion"] = version
            kube._objects["pods", "jobs", name] = item
    kube.history.clear()
    kube.rv = 60
    await seen(informer, "lost", gone=True)
    assert informer.get("restored") is not None
    assert int(informer._version or 0) < 100


async def test_events_out_of_order_change_nothing(kube: FakeKube, informer: Informer) -> None:
    def event(kind: str, uid: str, version: int, phase: str) -> dict[str, Any]:
        item = pod_named("p")
        item["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
        return {"type": kind, "object": item | {"status": {"phase": phase}}}

    informer._event(event("ADDED", "1", 1000, "Pending"))
    informer._event(event("MODIFIED", "1", 1009, "Succeeded"))
    informer._event(event("MODIFIED", "1", 1005, "Running"))
    assert (informer.get("p") or Pod("", "")).phase == "Succeeded"
    informer._event(event("ADDED", "2", 1020, "Running"))
    for late in (event("DELETED", "1", 1010, "Succeeded"), event("MODIFIED", "1", 1009, "Succeeded")):
        informer._event(late)
    informer._event(event("DELETED", "1", 1021, "Succeeded"))
    pod = informer.get("p")
    assert pod is not None
    assert (pod.uid, pod.phase) == ("2", "Running")


async def test_a_burst_of_events_is_heard_few_in_a_round_of_the_event_loop() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        pods = [pod_named(f"p{i}") for i in range(10 * watch.AT_ONCE)]
        for pod in pods:
            pod["metadata"]["uid"] = f"uid of {pod['metadata']['name']}"
        yield b"".join(json.dumps({"type": "ADDED", "object": pod}).encode() + b"\n" for pod in pods)

    @contextlib.asynccontextmanager
    async def stream(*_: Any, **__: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(content=SimpleNamespace(iter_any=chunks))

    def listener(pod: Pod, gone: bool) -> None:
        heard[rounds] += 1

    heard, rounds = collections.Counter[int](), 0
    informer = Informer(SimpleNamespace(stream=stream), "jobs")  # type: ignore[arg-type]
    for i in range(10 * watch.AT_ONCE):
        informer.listen(f"p{i}", listener)
    watching = asyncio.create_task(informer._watch("1"))
    while not watching.done():
        rounds += 1
        await asyncio.sleep(0)
    await watching
    assert heard.total() == len(informer.pods()) == 10 * watch.AT_ONCE
    assert max(heard.values()) <= 2 * watch.AT_ONCE  # from one count to the next it's the parts of two rounds
