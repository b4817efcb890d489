"""The informer outlives whatever it meets: refusals, odd pods, a server that asks for a pause."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from consumer.executors.kubernetes import watch
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.watch import Informer
from support.consuming import until
from support.fakekube import FakeKube
from support.fakekubelet import FakePod, fresh

ODD: list[dict[str, Any]] = [
    {"status": {"conditions": ["odd"]}},
    {"status": {"message": 5}},
    {"status": {"containerStatuses": {"main": {}}}},
    {"status": {"conditions": 7}},
]


async def stays(pod: FakePod) -> None:
    pod.schedule()


async def create(api: Api, name: str) -> None:
    meta = {"name": name, "labels": {"app.kubernetes.io/managed-by": "longshore", "longshore.dev/job": "j"}}
    await api.request("POST", path_of("jobs", "pods"), body={"metadata": meta, "spec": {"containers": [{}]}})


async def seen(informer: Informer, name: str) -> None:
    await until(lambda: (pod := informer.get(name)) is not None and pod.node)


def spoil(kube: FakeKube, name: str, odd: dict[str, Any]) -> None:
    """The pod gets an odd shape."""
    stored = kube.stored("pods", "jobs", name)
    assert stored is not None
    kube.store("MODIFIED", "pods", fresh(stored) | odd)


@pytest.fixture
async def informer(kube: FakeKube, api: Api) -> AsyncIterator[Informer]:
    kube.script = stays
    informer = Informer(api, "jobs")
    await informer.open()
    yield informer
    await informer.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was to be slept; nobody really sleeps."""
    found: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds:
            found.append(seconds)
        await real(0)

    monkeypatch.setattr(watch.asyncio, "sleep", sleep)
    return found


def doubles(pauses: list[float]) -> bool:
    """Each pause is drawn from the row that a failure after a failure gets."""
    return len(pauses) >= 5 and all(0.1 * 2**i <= pause <= 0.2 * 2**i for i, pause in enumerate(pauses[:5]))


async def test_a_watch_that_is_refused_once_the_start_is_over_is_trouble_that_passes(
    kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has just come back knows no Roles yet: nobody would hear of a task that ends for that."""
    monkeypatch.setattr(watch, "OPEN_SECONDS", 0.0)
    kube.script = stays
    kube.forbidden.add("watch pods")
    informer = Informer(api, "jobs")
    await informer.open()
    await until(lambda: informer.trouble is not None)
    assert informer.trouble is not None
    assert informer.trouble.forbidden is not None
    kube.forbidden.clear()
    await create(api, "p")
    await seen(informer, "p")
    assert informer.trouble is None
    await informer.close()


async def test_a_task_that_has_ended_is_trouble(informer: Informer) -> None:
    assert informer.trouble is None
    assert informer._task is not None
    informer._task.cancel()
    await asyncio.gather(informer._task, return_exceptions=True)
    assert "has ended" in str(informer.trouble)


@pytest.mark.parametrize("odd", ODD)
async def test_a_pod_that_cant_be_read_hides_no_other_one(
    kube: FakeKube, api: Api, informer: Informer, caplog: pytest.LogCaptureFixture, odd: dict[str, Any]
) -> None:
    await create(api, "odd")
    await seen(informer, "odd")
    told: list[tuple[str, bool]] = []
    informer.listen("odd", lambda pod, gone: told.append((pod.uid, gone)))
    before = informer.get("odd")
    for _ in range(2):
        spoil(kube, "odd", odd)
    await create(api, "good")
    await seen(informer, "good")
    assert informer.get("odd") is before
    assert (informer.lists, informer.watches, informer.trouble) == (1, 1, None)
    await informer._list()
    assert informer.get("odd") is before
    assert told == []
    assert caplog.text.count("the pod 'odd' can't be read") == 1
    kube.remove("pods", "jobs", "odd")
    await until(lambda: told)
    assert told == [("", True)]  # whoever holds it asks the API
    assert [pod.name for pod in informer.pods()] == ["good"]


async def test_a_listed_pod_that_cant_be_read_isnt_told_to_be_gone(
    kube: FakeKube, api: Api, informer: Informer
) -> None:
    await informer.close()
    for name in ("odd", "good"):
        await create(api, name)
    spoil(kube, "odd", {"status": {"conditions": ["odd"]}})
    fresh_one = Informer(api, "jobs")
    told: list[bool] = []
    fresh_one.listen("odd", lambda pod, gone: told.append(gone))
    await fresh_one.open()
    assert [pod.name for pod in fresh_one.pods()] == ["good"]
    assert told == []
    await fresh_one.close()


async def test_an_odd_pod_in_the_place_of_another_one_means_that_that_is_gone(
    kube: FakeKube, api: Api, informer: Informer
) -> None:
    await create(api, "p")
    await seen(informer, "p")
    told: list[tuple[str, bool]] = []
    informer.listen("p", lambda pod, gone: told.append((pod.uid, gone)))
    stored = kube.stored("pods", "jobs", "p")
    assert stored is not None
    meta = {**stored["metadata"], "uid": "another"}
    kube.store("ADDED", "pods", {**stored, "metadata": meta, "status": {"conditions": ["odd"]}})
    await until(lambda: told)
    assert told == [("", True)]
    assert informer.pods() == []


async def test_a_line_that_cant_be_read_is_passed_by_a_fresh_list(
    kube: FakeKube, api: Api, informer: Informer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = watch.answers.event

    def event(line: bytes) -> dict[str, Any]:
        if b'"name":"bad"' in line:
            raise ValueError("not JSON")
        return real(line)

    monkeypatch.setattr(watch.answers, "event", event)
    await create(api, "bad")
    await create(api, "good")
    await seen(informer, "good")
    assert informer.get("bad") is not None


@pytest.mark.parametrize("item", [["odd"], {"metadata": ["odd"]}, {"metadata": {"name": "p", "labels": 5}}])
async def test_an_event_of_nobody_is_no_news(informer: Informer, item: Any) -> None:
    version = informer._version
    with pytest.raises(ValueError, match="can't be read"):
        informer._take({"type": "ADDED", "object": item})
    with pytest.raises(ValueError, match="can't be read"):
        informer._take({"type": "ERROR", "object": ["odd"]})
    assert informer._version == version


async def test_a_listener_that_fails_keeps_news_from_nobody(api: Api, informer: Informer) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("a bug")

    told = asyncio.Event()
    informer.listen("p", fails)
    informer.listen("p", lambda pod, gone: told.set())
    await create(api, "p")
    await asyncio.wait_for(told.wait(), 20)
    assert informer.watches == 1


async def test_what_nobody_foresaw_is_told_and_no_hot_loop(
    kube: FakeKube, api: Api, informer: Informer, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    lists = informer.lists
    with monkeypatch.context() as patch:

        async def fails(version: str) -> None:
            informer._heard += 1  # news before it are no success
            raise RuntimeError("a bug")

        patch.setattr(informer, "_watch", fails)
        kube.cut_watches()
        await kube.until(lambda _: informer.lists >= lists + 6)
        assert "a bug" in str(informer.trouble)
    assert doubles(pauses[1:]) or doubles(pauses), pauses
    await create(api, "p")
    await seen(informer, "p")
    assert informer.trouble is None


async def test_lists_that_take_long_and_help_nothing_come_ever_slower(
    kube: FakeKube, api: Api, informer: Informer, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    real, hours = informer._list, itertools.count()
    late = 0.0

    async def slow() -> None:
        nonlocal late
        await real()
        late += watch.LIFE_SECONDS * (1 + next(hours))

    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late))
    monkeypatch.setattr(informer, "_list", slow)
    kube.fault("watch pods", status=410, code="Expired", times=1000)
    lists = kube.verbs().count("list pods")
    kube.cut_watches()
    await kube.until(lambda kube: kube.verbs().count("list pods") >= lists + 7)
    assert doubles(pauses[1:]) or doubles(pauses), pauses


async def test_a_server_that_asks_for_a_pause_gets_it(
    kube: FakeKube, api: Api, informer: Informer, pauses: list[float]
) -> None:
    kube.fault("watch pods", status=429, headers={"Retry-After": "7"})
    kube.fault("watch pods", status=503, headers={"Retry-After": "900"})
    watches = kube.verbs().count("watch pods")
    kube.cut_watches()
    await kube.until(lambda kube: kube.verbs().count("watch pods") >= watches + 3)
    asked = [pause for pause in pauses if pause > watch.PAUSE_FIRST * 8]
    assert any(7 < pause < 9 for pause in asked), pauses
    assert any(watch.PAUSE_CAP < pause < watch.PAUSE_CAP + 2 for pause in asked), pauses
