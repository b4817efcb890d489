"""A job runs, and its consumer gives way to one that would not allow it: what runs goes on with what it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enqueue import Status, aio
from support.consuming import consuming, until
from support.fake_cluster import Held, consumer_on, ended_well, enqueue
from support.fakekube import FakeKube
from support.fakekubelet import FakePod

PLACE = "/etc/app.conf"
OVER_IT = {
    "spec": {
        "volumes": [{"name": "theirs", "emptyDir": {}}],
        "containers": [{"name": "main", "volumeMounts": [{"name": "theirs", "mountPath": PLACE}]}],
    }
}
NARROWER: dict[str, dict[str, Any]] = {
    "images": {"kubernetes": {"allowed_images": ["ghcr.io/**"]}},
    "limits": {"kubernetes": {name: {"memory": "32Mi"} for name in ("requests", "limits", "limits_max")}},
    "template": {"kubernetes": {"template": OVER_IT}},
    "grace": {"jobs": {"grace_max": 40}},
    "sinks": {"logs": {"allowed_sinks": []}, "files": {"directory": None}},
}
JOB: dict[str, Any] = {
    "resources": {"limits": {"memory": "64Mi"}},
    "files": [{"path": PLACE, "contents": "a"}],
    "grace": 50,
    "logs": ["record", "file"],
}


async def running(handle: aio.AsyncHandle, consumer: str = "first") -> bool:
    record = await handle.record()
    return (record.status, record.where.consumer) == (Status.RUNNING, consumer)


@pytest.mark.parametrize("narrower", NARROWER.values(), ids=NARROWER)
async def test_a_running_job_outlives_a_narrower_policy(
    redis_url: str, tmp_path: Path, narrower: dict[str, Any]
) -> None:
    held = Held()
    wide = {"jobs": {"grace_max": 60}, "logs": {"allowed_sinks": ["file"]}, "files": {"directory": tmp_path / "logs"}}
    async with FakeKube("jobs", script=held) as kube, aio.connect(redis_url) as queue:
        async with consumer_on(kube, redis_url, tmp_path, name="first", **wide):
            [handle] = await enqueue(queue, 1, **JOB)
            await until(lambda: running(handle))
        async with consumer_on(kube, redis_url, tmp_path, name="next", started=False, **(wide | narrower)):
            await until(lambda: running(handle, "next"))
            [late] = await enqueue(queue, 1, **JOB)
            refused = await late.wait(20)
            held.go.set()
            await ended_well([handle], kube)
    assert (refused.status, refused.reason) == (Status.FAILED, "refused")


@pytest.mark.parametrize("narrower", ["images", "template"])
async def test_a_job_of_which_nothing_exists_is_still_refused(redis_url: str, tmp_path: Path, narrower: str) -> None:
    """Its consumer was about to create its pod."""
    async with FakeKube("jobs") as kube, aio.connect(redis_url) as queue:
        async with consumer_on(kube, redis_url, tmp_path):
            kube.fault("create pods", delay=3600)
            before = kube.verbs().count("create pods")
            [handle] = await enqueue(queue, 1, files=JOB["files"])
            await kube.until(lambda kube: kube.verbs().count("create pods") > before)
        kube.faults.clear()
        async with consumer_on(kube, redis_url, tmp_path, name="next", started=False, **NARROWER[narrower]):
            outcome = await handle.wait(20)
    assert (outcome.status, outcome.reason) == (Status.FAILED, "refused")
    assert kube.created == []


async def test_a_pod_that_waits_for_its_secret_gets_it_under_a_narrower_policy(redis_url: str, tmp_path: Path) -> None:
    """Its consumer went between pod and Secret, so its Record says no more than that it starts."""

    async def script(pod: FakePod) -> None:
        pod.schedule()
        await pod.secret()
        pod.run()
        pod.write(b"hello\n")
        pod.end(0)

    async with FakeKube("jobs", script=script) as kube, aio.connect(redis_url) as queue:
        async with consumer_on(kube, redis_url, tmp_path):
            kube.fault("create secrets", delay=3600)
            before = kube.verbs().count("create secrets")
            [handle] = await enqueue(queue, 1, variables=[{"name": "T", "value": "hidden", "sensitive": True}])
            await kube.until(lambda kube: kube.verbs().count("create secrets") > before)
        kube.faults.clear()
        async with consumer_on(kube, redis_url, tmp_path, name="next", started=False, **NARROWER["images"]):
            await ended_well([handle], kube)


async def test_a_process_outlives_a_narrower_policy(redis_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"echo before; while [ ! -e {go} ]; do sleep 0.05; done; echo after"
    base: dict[str, Any] = {"process": {"directory": tmp_path / "jobs"}, "state_directory": tmp_path / "state"}
    async with aio.connect(redis_url) as queue:
        async with consuming(redis_url, name="first", shutdown="detach", jobs={"grace_max": 60}, **base):
            [handle] = await enqueue(queue, 1, commands=[script], image=None, grace=50)
            await until(lambda: running(handle))
            token = (await handle.record()).token
        async with consuming(redis_url, name="first", jobs={"grace_max": 40}, **base):
            await until(lambda: claimed_again(handle, token))
            go.touch()
            outcome = await handle.wait(20)
        log = b"".join([part async for part in handle.logs()])
    assert (outcome.status, log) == (Status.SUCCEEDED, b"before\nafter\n")


async def claimed_again(handle: aio.AsyncHandle, former: str) -> bool:
    return bool((await handle.record()).token != former)
