"""What the cluster in memory streams is what the fake API server streams over HTTP: one story, told on both."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.watch import lines_of
from consumer.settings import load_settings
from simulate.clock import Process, virtual
from simulate.cluster import SimulatedKube
from simulate.executor import SimulatedApi
from simulate.wire import Weather, Wire
from support.fakekube import FakeKube
from support.fakekubelet import FakePod

PODS = path_of("jobs", "pods")
POD = {"metadata": {"name": "p", "labels": {"a": "1"}}, "spec": {"containers": [{"name": "main"}]}}


async def nothing(pod: FakePod) -> None:
    """The story says what happens."""


async def until_end(api: Api, path: str, query: dict[str, str]) -> list[Any]:
    """Status and lines of a stream, or what was refused."""
    try:
        async with api.stream(path, query) as response:
            return [response.status, *[line async for line in lines_of(response)]]
    except ApiError as error:
        return [error.status, error.code]


async def story(api: Api, kube: FakeKube) -> list[Any]:
    """What a client sees, without times, uids and versions."""
    log, stamped = f"{PODS}/p/log", {"container": "main", "timestamps": "true"}
    follow = stamped | {"follow": "true"}
    seen: list[Any] = [await until_end(api, log, follow)]
    version = (await api.request("GET", PODS))["metadata"]["resourceVersion"]
    await api.request("POST", PODS, body=json.loads(json.dumps(POD)))
    seen.append(await until_end(api, log, follow))
    pod = kube.pods["p"]
    pod.schedule()
    seen.append(await until_end(api, log, follow))
    pod.run()
    pod.write(b"one\ntwo\n")
    reading = asyncio.ensure_future(until_end(api, log, follow))
    seen.append([line.partition(b" ")[2] for line in (await until_end(api, log, stamped))[1:]])
    seen.append(await until_end(api, log, {"container": "main"}))
    pod.write(b"three\n")
    pod.end(3)
    seen.append([line.partition(b" ")[2] for line in (await reading)[1:]])
    seen.append(await until_end(api, log, follow | {"sinceTime": "2999-01-01T00:00:00Z"}))
    for selector in ("a=1", "a=2"):
        query = {"watch": "true", "resourceVersion": version, "labelSelector": selector, "timeoutSeconds": "1"}
        events = [json.loads(line) for line in (await until_end(api, PODS, query))[1:]]
        seen.append([(event["type"], event["object"]["status"].get("phase")) for event in events])
    kube.compact()
    query = {"watch": "true", "resourceVersion": version}
    [event] = [json.loads(line) for line in (await until_end(api, PODS, query))[1:]]
    seen.append([event["type"], {**event["object"], "message": ""}])
    return seen


async def _over_http() -> list[Any]:
    async with FakeKube("jobs", script=nothing) as kube:
        kube.counts = False  # what is asked here is no consumer's
        api = Api(Access(kube.url, "jobs"))
        try:
            return await story(api, kube)
        finally:
            await api.close()


def test_both_stream_the_same() -> None:
    real = asyncio.run(_over_http())
    with virtual(1) as loop:
        weather = Weather(random.Random(1))
        kube = SimulatedKube(loop, weather.rng, weather, lambda event: None, nothing)
        wire = Wire(loop, Process("client"), weather, ConnectionResetError)
        simulated = loop.run_until_complete(story(SimulatedApi(load_settings(name="c"), kube, wire), kube))
    assert simulated == real
    assert real[0] == [404, "NotFound"]
