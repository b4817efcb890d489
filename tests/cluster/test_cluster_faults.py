"""Faults of a real cluster under running jobs: none is lost, none runs twice, each log is whole.

`LONGSHORE_TEST_RESTART` is a command that restarts a part of the cluster, `{}` standing for its name: kube-apiserver,
etcd, kubelet, containerd. Without it, what needs a restart is skipped. `LONGSHORE_TEST_KILL` is one that kills the
main process of a container, `{}` standing for its id; without it the process is looked for on this machine.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import re
import secrets
import shlex
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.settings import Kubernetes
from consumer.tasks import end
from enqueue import Job, Status, aio
from enqueue.record import Outcome
from support.cluster import RIGHTS, fill_namespace, pods_in, restart, restarts, role_and_binding, user_of
from support.consuming import consuming, until
from support.history import History, What, violations
from support.witnesses import keep_all, monitored, watch_pods

pytestmark = pytest.mark.cluster

CONCURRENCY = 12
SECONDS = 12
SCRIPT = ["i=0", f"while [ $i -lt {SECONDS} ]; do i=$((i+1)); echo line $i; sleep 1; done", "sleep 2", "echo end"]
LOG = b"".join(b"line %d\n" % i for i in range(1, SECONDS + 1)) + b"end\n"

Events = list[Any]


@pytest.fixture
async def history(redis_url: str, namespace: str, admin: Api) -> AsyncIterator[History]:
    """What API server and Redis saw; at the end every invariant must hold over it."""
    history = History(slots=CONCURRENCY)
    watching = asyncio.create_task(watch_pods(admin, namespace, history))
    try:
        async with monitored(redis_url, history):
            yield history
            await until(lambda: all_seen_to_go(history) or watching.done())
        assert not watching.done(), watching.exception()
    finally:
        await end(watching)
    keep_all(redis_url, history)
    history.accepted = {key.removeprefix("rq:job:") for key in history.kept if key.startswith("rq:job:")}
    async with aio.connect(redis_url) as queue:
        for job in history.accepted:
            if history.last(job).get("status") == Status.SUCCEEDED:
                history.stored[job] = b"".join([part async for part in queue.handle(job).logs()])
                history.written[job] = LOG.splitlines(keepends=True)
    assert history.accepted
    assert len({event.uid for event in history.of(What.CREATED)}) == len(history.accepted)
    assert violations(history) == []


def all_seen_to_go(history: History) -> bool:
    """Each pod that came has gone, which says too that the watch is up to date."""
    gone = {event.uid for event in history.of(What.DELETED)}
    return {event.uid for event in history.of(What.CREATED)} <= gone


@pytest.fixture
async def consumer(
    redis_url: str, namespace: str, consumer_kubeconfig: Path, history: History
) -> AsyncIterator[Events]:
    """A consumer in the test's namespace; what it logs. It is a `history` that the test makes."""
    kubernetes = {
        "namespace": namespace,
        "kubeconfig": str(consumer_kubeconfig),
        "requests": {"cpu": "10m", "memory": "16Mi"},
    }
    with structlog.testing.capture_logs() as events:
        async with consuming(redis_url, executor="kubernetes", concurrency=CONCURRENCY, kubernetes=kubernetes):
            await until(lambda: said(events, "consumer_started"))
            yield events


def said(events: Events, event: str) -> bool:
    return any(found["event"] == event for found in events)


async def enqueue(queue: aio.AsyncProducer, image: str, count: int) -> list[aio.AsyncHandle]:
    job = Job(image=image, commands=SCRIPT, timeout=300)
    return [await queue.enqueue(job) for _ in range(count)]


async def running(handles: Sequence[aio.AsyncHandle], count: int) -> bool:
    return [await handle.status() for handle in handles].count(Status.RUNNING) >= count


async def ended_well(handles: Sequence[aio.AsyncHandle], admin: Api, namespace: str, seconds: float = 120) -> None:
    """All succeed at their first attempt, with one pod and the whole log, and no pod is left."""
    async with asyncio.timeout(seconds):
        outcomes = [await handle.wait() for handle in handles]
    told = collections.Counter((outcome.status, outcome.reason) for outcome in outcomes)
    assert told == {(Status.SUCCEEDED, None): len(handles)}
    for handle in handles:
        record = await handle.record()
        assert (record.attempt, len(record.attempts), record.log.gaps) == (1, 1, ())
        assert b"".join([part async for part in handle.logs()]) == LOG
    await until(lambda: nothing_left(admin, namespace))


async def nothing_left(admin: Api, namespace: str) -> bool:
    return not await pods_in(admin, namespace)


@pytest.mark.row(15, 34)
@restarts
@pytest.mark.parametrize("part", ["kube-apiserver", "kubelet", "etcd", "containerd"])
async def test_a_part_of_the_cluster_restarts_under_running_jobs(
    part: str, consumer: Events, redis_url: str, admin: Api, namespace: str, image: str
) -> None:
    count = {"kube-apiserver": 3 * CONCURRENCY, "etcd": 2 * CONCURRENCY}.get(part, 6)  # these take longest to be back
    async with aio.connect(redis_url) as queue:
        handles = await enqueue(queue, image, count)
        await until(lambda: running(handles, 4), 60)
        await restart(part)
        assert not all([(await handle.status()).final for handle in handles])  # some had a log to be asked for again
        await ended_well(handles, admin, namespace)


@pytest.mark.row(20)
async def test_rights_taken_away_and_given_back(
    consumer: Events, redis_url: str, admin: Api, namespace: str, image: str, consumer_kubeconfig: Path
) -> None:
    user = user_of(consumer_kubeconfig)
    if user is None:
        pytest.skip("LAB_CONSUMER_KUBECONFIG isn't set: the consumer has all rights")
    (binding,) = [item for item in role_and_binding(namespace, user) if item["kind"] == "RoleBinding"]
    path = f"{RIGHTS}/{namespace}/rolebindings"
    async with aio.connect(redis_url) as queue:
        handles = await enqueue(queue, image, 4)
        await until(lambda: running(handles, 4), 60)
        await admin.request("DELETE", f"{path}/{binding['metadata']['name']}")
        handles += await enqueue(queue, image, 4)
        await until(lambda: said(consumer, "executor_unavailable"), 60)
        await admin.request("POST", path, body=binding)
        await ended_well(handles, admin, namespace, 180)
    why = next(event["error"] for event in consumer if event["event"] == "executor_unavailable")
    assert "the user 'consumer' may not " in why


@pytest.mark.row(41, 72)
async def test_a_full_quota_makes_jobs_wait(
    consumer: Events, redis_url: str, admin: Api, namespace: str, image: str
) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "2"}}}
    await admin.request("POST", path_of(namespace, "resourcequotas"), body=quota)
    await until(lambda: counted(admin, namespace))
    async with aio.connect(redis_url) as queue:
        handles = await enqueue(queue, image, 5)
        await ended_well(handles, admin, namespace, 180)


async def counted(admin: Api, namespace: str) -> bool:
    found = await admin.request("GET", path_of(namespace, "resourcequotas", "few"))
    return "pods" in (found.get("status", {}).get("used") or {})


FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"


@pytest.fixture
async def narrow(admin: Api, namespace: str, consumer_kubeconfig: Path) -> AsyncIterator[str]:
    """The name of a priority level for the consumer's requests: one at a time, the others are refused with 429."""
    user = user_of(consumer_kubeconfig)
    if user is None:
        pytest.skip("LAB_CONSUMER_KUBECONFIG isn't set: an admin's requests are never refused")
    name = f"longshore-test-{secrets.token_hex(4)}"
    limited = {"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0}
    level = {"type": "Limited", "limited": limited | {"limitResponse": {"type": "Reject"}}}
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": [namespace]}
    rule = {"subjects": [{"kind": "User", "user": {"name": user}}], "resourceRules": [everything]}
    schema = {"priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 50, "rules": [rule]}
    made = {"prioritylevelconfigurations": level, "flowschemas": schema}
    for kind, spec in made.items():
        await admin.request("POST", f"{FLOW}/{kind}", body={"metadata": {"name": name}, "spec": spec})
    yield name
    for kind in made:
        await admin.request("DELETE", f"{FLOW}/{kind}/{name}")


@contextlib.asynccontextmanager
async def the_only_seat(kubeconfig: Path, namespace: str) -> AsyncIterator[None]:
    """A request of the consumer's user that goes on while the block does, and takes the one place that there is."""
    access = await Access.load(Kubernetes(kubeconfig=kubeconfig))
    begun, over = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        begun.set()
        yield b"{"
        await over.wait()
        yield b"}"

    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/json"} | {"Authorization": await access.authorization() or ""}
        url = access.host + path_of(namespace, "pods") + "?dryRun=All"
        while True:  # until it isn't one of the consumer's requests that has the place
            # The server asks for the body once it serves the request, and only then.
            posting = session.post(url, data=body(), ssl=access.tls or True, headers=headers, expect100=True)
            call, asked = asyncio.create_task(posting), asyncio.create_task(begun.wait())
            await asyncio.wait({call, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            if begun.is_set():
                break
            async with await call as refused:
                assert refused.status == 429
        try:
            yield
        finally:
            over.set()
            assert (await call).status == 422  # it is no pod


async def rejected(admin: Api, level: str) -> int:
    async with admin.stream("/metrics", {}) as response:
        text = (await response.read()).decode()
    found = re.findall(rf"apiserver_flowcontrol_rejected_requests_total{{.*{level}.*}} (\S+)", text)
    return int(sum(map(float, found)))


async def is_refused(api: Api, namespace: str) -> bool:
    try:
        await api.request("GET", path_of(namespace, "pods"), query={"limit": "1"}, patience=0)
    except ApiError as error:
        return error.status == 429
    return False


@pytest.mark.row(17)
async def test_a_server_that_has_no_room_for_us_is_not_pressed(
    consumer: Events, redis_url: str, admin: Api, namespace: str, image: str, consumer_kubeconfig: Path, narrow: str
) -> None:
    ours = Api(await Access.load(Kubernetes(kubeconfig=consumer_kubeconfig)), rate=1000)
    async with aio.connect(redis_url) as queue:
        handles = await enqueue(queue, image, 8)
        await until(lambda: running(handles, 4), 60)
        async with the_only_seat(consumer_kubeconfig, namespace):
            await until(lambda: is_refused(ours, namespace))
            before, began = await rejected(admin, narrow), time.monotonic()
            handles += await enqueue(queue, image, 12)

            async def many() -> int:
                count = await rejected(admin, narrow) - before
                return count if count >= 15 else 0

            refused = await until(many, 60)
            seconds = time.monotonic() - began
        await ended_well(handles, admin, namespace, 180)
    await ours.close()
    print(f"{refused} requests refused in {seconds:.1f} s")
    assert refused <= 12 * (seconds + 2)


def main_process(container: str) -> int | None:
    """Of a container on this machine: the first in its own count."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            first = re.search(r"^NSpid:\t\d+\t1$", (process / "status").read_text(), re.M)
            if first and container in (process / "cgroup").read_text():
                return int(process.name)
    return None


async def kill(container: str) -> None:
    """Its main process, as root of its node would."""
    if template := os.environ.get("LONGSHORE_TEST_KILL"):
        process = await asyncio.create_subprocess_exec(*shlex.split(template.format(container)))
        assert await asyncio.wait_for(process.wait(), 60) == 0
        return
    pid = main_process(container)
    if pid is None:
        pytest.skip("LONGSHORE_TEST_KILL isn't set, and the container isn't on this machine")
    os.kill(pid, signal.SIGKILL)


@pytest.mark.row(37)
async def test_a_container_that_is_killed_on_its_node(
    consumer: Events, redis_url: str, admin: Api, namespace: str, image: str
) -> None:
    """It ends as the job's own failure, with the signal and the log so far; the others notice nothing."""
    async with aio.connect(redis_url) as queue:
        handles = await enqueue(queue, image, 3)
        victim = await queue.enqueue(Job(image=image, commands=["echo alive", "sleep 600"], timeout=900))
        async with asyncio.timeout(60):
            async for _ in victim.logs(follow=True):
                break
        name = (await victim.record()).where.pod
        status = (await admin.request("GET", path_of(namespace, "pods", name)))["status"]["containerStatuses"][0]
        await kill(status["containerID"].rpartition("/")[2])
        async with asyncio.timeout(60):
            outcome = await victim.wait()
        record = await victim.record()
        assert (outcome.status, outcome.reason, outcome.exit_code) == (Status.FAILED, "signal", 137)
        assert "SIGKILL" in (outcome.message or "")
        assert len(record.attempts) == 1
        assert b"".join([part async for part in victim.logs()]) == b"alive\n"
        await ended_well(handles, admin, namespace)


@pytest.mark.row(72)
async def test_a_namespace_deleted_under_running_jobs(
    consumer: Events, redis_url: str, admin: Api, namespace: str, image: str, consumer_kubeconfig: Path
) -> None:
    """What ran is told as deleted, what didn't waits; in the namespace that comes back the work goes on."""
    async with aio.connect(redis_url) as queue:
        job = Job(image=image, commands=["trap 'exit 3' TERM", "while :; do sleep 0.2; done"], timeout=900)
        lost = [await queue.enqueue(job) for _ in range(3)]
        await until(lambda: running(lost, 3), 60)
        await admin.request("DELETE", f"/api/v1/namespaces/{namespace}")
        handles = await enqueue(queue, image, 2)
        async with asyncio.timeout(120):
            outcomes: list[Outcome] = [await handle.wait() for handle in lost]
        assert {(outcome.status, outcome.reason) for outcome in outcomes} == {(Status.FAILED, "pod_deleted")}
        assert [len((await handle.record()).attempts) for handle in lost] == [1, 1, 1]
        await until(lambda: said(consumer, "executor_unavailable"), 60)
        await until(lambda: is_gone(admin, namespace), 120)
        assert not any([(await handle.status()).final for handle in handles])
        await fill_namespace(admin, namespace, user_of(consumer_kubeconfig))
        await ended_well(handles, admin, namespace, 180)
    why = [event["error"] for event in consumer if event["event"] == "executor_unavailable"]
    assert any(namespace in error for error in why), why


async def is_gone(admin: Api, namespace: str) -> bool:
    try:
        await admin.request("GET", f"/api/v1/namespaces/{namespace}")
    except ApiError as error:
        return error.status == 404
    return False
