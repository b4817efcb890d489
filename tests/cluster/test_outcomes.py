"""What producers are told of jobs that end in every way a cluster knows, with the Role of k8s/base/rbac.yaml only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.kubernetes.api import Api, ApiError, path_of
from enqueue import Job, Status, aio
from enqueue.record import Outcome, Record
from support.consuming import consuming, until

pytestmark = [pytest.mark.cluster]

EAT = 'x=aaaaaaaaaaaaaaaa; while :; do x="$x$x"; done'
SMALL = {"limits": {"memory": "16Mi"}}
FILL = "head -c 15000000 /dev/zero > $HOME/full; sleep 600"
FILL_VOLUME = "head -c 30000000 /dev/zero > $HOME/full; sleep 600"
ROOM = {"limits": {"ephemeral-storage": "10Mi"}}
NONE = "127.0.0.1:1/none:1"
Queue = Any


@pytest.fixture
async def runtime_class(admin: Api) -> AsyncIterator[str]:
    """A runtime class that no node can honour."""
    name, path = f"longshore-test-{secrets.token_hex(4)}", "/apis/node.k8s.io/v1/runtimeclasses"
    await admin.request("POST", path, body={"metadata": {"name": name}, "handler": "not-there"})
    yield name
    await admin.request("DELETE", f"{path}/{name}")


@pytest.fixture
async def queue(
    redis_url: str,
    namespace: str,
    admin: Api,
    consumer_kubeconfig: Path,
    runtime_class: str,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Queue]:
    """A producer, and a consumer that allows what these jobs ask for. Its parameter: the `image_pull_grace`."""
    kept = {"metadata": {"name": "kept"}, "stringData": {"there": "value"}}
    await admin.request("POST", path_of(namespace, "secrets"), body=kept)
    settings = {
        "namespace": namespace,
        "kubeconfig": consumer_kubeconfig,
        "requests": {"cpu": "10m", "memory": "16Mi"},
        "image_pull_grace": getattr(request, "param", 1),
        "volume_size": "20Mi",
        "allowed_secrets": ["kept"],
        "allowed_node_selectors": ["*"],
        "allowed_runtime_classes": [runtime_class],
    }
    flags = {"executor": "kubernetes", "concurrency": 30, "kubernetes": settings, "jobs": {"grace": 1}}
    async with consuming(redis_url, **flags), aio.connect(redis_url) as queue:
        yield queue


async def record_of(handle: Any) -> Record:
    found: Record | None = await handle.record()
    assert found is not None
    return found


async def runs(handle: Any) -> Record:
    """The Record once the job runs."""

    async def running() -> Record | None:
        record = await handle.record()
        return record if record is not None and record.status is Status.RUNNING else None

    found: Record = await until(running, 60)
    return found


async def pod_of(admin: Api, namespace: str, condition: Callable[[Any], bool]) -> str:
    """The name of the one pod, once it is so."""

    async def look() -> str | None:
        items = (await admin.request("GET", path_of(namespace, "pods")))["items"]
        return next((item["metadata"]["name"] for item in items if condition(item)), None)

    found: str = await until(look, 60)
    return found


@pytest.mark.row(39, 40, 41, 42, 44, 70)
async def test_how_jobs_end(queue: Queue, image: str, runtime_class: str) -> None:
    """Reason, exit code, and what the message says."""
    missing = [{"name": "A", "secret": "kept", "key": "absent"}]
    table: dict[str, tuple[dict[str, Any], str | None, int | None, str]] = {
        "fine": ({"commands": ["echo a=1 >> $LONGSHORE_OUTCOME"]}, None, 0, ""),
        "code": ({"commands": ["exit 7"]}, "exit_code", 7, "exited with code 7"),
        "signal": ({"commands": ["sh -c 'kill -9 $$'", "true"]}, "signal", 137, "killed by SIGKILL"),
        "storage": ({"commands": [FILL], "resources": ROOM}, "out_of_storage", 137, "ephemeral"),
        "volume": ({"commands": [FILL_VOLUME]}, "out_of_storage", 137, 'volume "home" exceeds the limit "20Mi"'),
        "deadline": ({"commands": ["trap '' TERM; sleep 600"], "timeout": 2}, "deadline", 137, "timeout of 2 s"),
        "image": ({"image": NONE, "commands": ["true"]}, "image_pull", None, "127.0.0.1:1"),
        "room": ({"node_selector": {"no": "where"}, "start_timeout": 10}, "unschedulable", None, "node affinity"),
        "secret": ({"secrets": missing}, "config_error", None, "couldn't find key absent"),
        "sandbox": ({"runtime_class": runtime_class, "start_timeout": 15}, "start_timeout", None, "no runtime for"),
        "command": ({"entrypoint": ["no-such-command"]}, "start_error", 128, "no-such-command"),
        "init": ({"init": {"commands": ["exit 4"]}}, "init_failed", 4, "exit code 4"),
    }
    handles = {
        name: await queue.enqueue(Job(**{"image": image, "timeout": 120} | defaults(fields)))
        for name, (fields, *_) in table.items()
    }
    outcomes: dict[str, Outcome] = {name: await handle.wait(240) for name, handle in handles.items()}
    for name, (_, reason, code, message) in table.items():
        outcome = outcomes[name]
        # A node may tell that it evicts a pod before it tells how the container has ended.
        codes = (code, None) if reason == "out_of_storage" else (code,)
        assert (name, outcome.reason) == (name, reason), outcome
        assert outcome.exit_code in codes, outcome
        assert message in (outcome.message or ""), outcome
        assert (outcome.hint is None) == (reason is None)
        record = await record_of(handles[name])
        assert record.attempts[-1].hint == outcome.hint
    assert outcomes["fine"].variables == {"a": "1"}


@pytest.mark.row(37)
async def test_out_of_memory(queue: Queue, image: str) -> None:
    """A runtime may tell the kill before the reason (containerd does, when busy): then the hint speaks of memory.

    Of several jobs at least one is told with its reason.
    """
    job = Job(image=image, commands=[EAT], resources=SMALL, timeout=120)
    outcomes: list[Outcome] = []
    told: list[Outcome] = []
    while not told:
        assert len(outcomes) < 12, outcomes
        outcomes.append(await (await queue.enqueue(job)).wait(120))
        told = [outcome for outcome in outcomes if outcome.reason == "out_of_memory"]
    assert {outcome.exit_code for outcome in outcomes} == {137}
    assert all("more memory than its limit of " in (outcome.message or "") for outcome in told)
    others = [outcome for outcome in outcomes if outcome not in told]
    assert {outcome.reason for outcome in others} <= {"signal"}
    assert all("resources.limits.memory" in (outcome.hint or "") for outcome in others)


def defaults(fields: dict[str, Any]) -> dict[str, Any]:
    return fields if {"commands", "entrypoint"} & fields.keys() else {"commands": ["true"]} | fields


@pytest.mark.row(35, 36)
async def test_a_pod_that_somebody_else_ends(queue: Queue, image: str, admin: Api, namespace: str) -> None:
    """Evicted (as a drain does), deleted by hand, and tried again as far as the job allows."""

    async def evict(pod: str) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        await admin.request("POST", path_of(namespace, "pods", pod, "eviction"), body=body)

    async def delete(pod: str) -> None:
        await admin.request("DELETE", path_of(namespace, "pods", pod), body={"gracePeriodSeconds": 1})

    async def told(how: Callable[[str], Awaitable[None]], **fields: Any) -> tuple[Outcome, Record]:
        handle = await queue.enqueue(Job(image=image, commands=["sleep 600"], **fields))
        for _ in range(1 + fields.get("infrastructure_retries", 0)):
            pod = (await runs(handle)).where.pod
            assert pod is not None
            await how(pod)

            async def over(pod: str = pod) -> bool:
                record = await record_of(handle)
                return record.status.final or record.where.pod not in (None, pod)

            await until(over, 60)
        return await handle.wait(60), await record_of(handle)

    (evicted, record), (deleted, _), (again, twice) = await asyncio.gather(
        told(evict), told(delete), told(evict, infrastructure_retries=1)
    )
    assert (evicted.reason, evicted.exit_code is not None) == ("evicted", True)
    assert "EvictionByEvictionAPI" in (evicted.message or "")
    assert len(record.attempts) == 1
    assert deleted.reason == "pod_deleted"
    assert again.reason == "evicted"
    assert [(a.attempt, a.reason, bool(a.where.node)) for a in twice.attempts] == [
        (1, "evicted", True),
        (2, "evicted", True),
    ]
    assert twice.attempts[0].where.pod != twice.attempts[1].where.pod


@pytest.mark.parametrize("queue", [60], indirect=True, ids=[""])  # no image's end comes before its job is cancelled
async def test_cancel_in_each_state(queue: Queue, image: str, admin: Api, namespace: str) -> None:
    """Starting without a node, starting on one, in the init step, running, deaf to TERM, ended: what is told is so."""

    async def starting(handle: Any) -> None:
        async def has_pod() -> bool:
            record = await handle.record()
            return record is not None and record.status is Status.STARTING

        await until(has_pod, 60)

    async def cancelled(fields: dict[str, Any], ready: Callable[[Any], Awaitable[Any]]) -> tuple[Outcome, Record]:
        handle = await queue.enqueue(Job(**{"image": image, "timeout": 120} | fields))
        await ready(handle)
        await handle.cancel()
        return await handle.wait(60), await record_of(handle)

    deaf = "trap '' TERM; while :; do sleep 1; done"
    for (outcome, record), message, code in zip(
        await asyncio.gather(
            cancelled({"commands": ["true"], "node_selector": {"no": "where"}}, starting),
            cancelled({"image": NONE, "commands": ["true"]}, starting),
            cancelled({"commands": ["sleep 600"]}, runs),
            cancelled({"commands": [deaf]}, runs),
        ),
        ("cancelled while it was starting", "cancelled", "cancelled while it ran", "cancelled while it ran"),
        (None, None, {137, 143}, {137}),
        strict=True,
    ):
        assert (outcome.status, outcome.reason) == (Status.CANCELLED, "requested")
        assert message in (outcome.message or "")
        assert "ran" not in (outcome.message or "") or code is not None
        assert outcome.exit_code is None if code is None else outcome.exit_code in code
        assert record.attempts[-1].status is Status.CANCELLED

    async def nothing_left() -> bool:
        return not (await admin.request("GET", path_of(namespace, "pods")))["items"]

    await until(nothing_left, 60)


async def test_a_quota_that_is_used_up_can_be_cancelled(queue: Queue, image: str, admin: Api, namespace: str) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await admin.request("POST", path_of(namespace, "resourcequotas"), body=quota)

    async def in_force() -> bool:
        try:
            found = await admin.request("GET", path_of(namespace, "resourcequotas", "none"))
        except ApiError:
            return False
        return bool((found.get("status") or {}).get("hard"))

    await until(in_force, 60)
    waiting = await queue.enqueue(Job(image=image, commands=["true"], start_timeout=120))
    too_long = await queue.enqueue(Job(image=image, commands=["true"], start_timeout=1))
    outcome = await too_long.wait(60)
    assert (outcome.reason, outcome.exit_code) == ("unschedulable", None)
    assert "exceeded quota" in (outcome.message or "")
    assert await waiting.cancel()
    outcome = await waiting.wait(60)
    assert (outcome.status, outcome.message) == (Status.CANCELLED, "cancelled before it started")
