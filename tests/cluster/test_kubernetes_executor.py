"""The kubernetes executor with real pods, under Pod Security `restricted` and with the Role of k8s/base only."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from consumer.errors import SetupError, Unrunnable
from consumer.executors.kubernetes.api import Api, path_of
from consumer.executors.kubernetes.execution import PodExecution
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.manifest import build
from consumer.model import Exit, Plan
from consumer.settings import Kubernetes
from enqueue.record import Reason
from support.consuming import until
from support.kubernetes import plan_of, read

pytestmark = pytest.mark.cluster


@pytest.fixture
async def executor(kubernetes_settings: Kubernetes) -> AsyncIterator[KubernetesExecutor]:
    executor = KubernetesExecutor(kubernetes_settings, "consumer-1")
    await executor.open()
    yield executor
    await executor.close()


async def run(executor: KubernetesExecutor, plan: Plan, seconds: float = 120) -> tuple[Exit, bytes]:
    execution = await executor.start(plan)
    try:
        async with asyncio.timeout(seconds):
            log = await read(execution.logs(), seconds)
            return await execution.wait(), log
    finally:
        await execution.remove()


async def nothing_left(admin: Api, namespace: str, seconds: float = 60) -> None:
    """No pod and no Secret; the collector of owned objects takes a moment, so this looks again until it is so."""
    limit = time.monotonic() + seconds
    while True:
        pods = (await admin.request("GET", path_of(namespace, "pods")))["items"]
        secrets = (await admin.request("GET", path_of(namespace, "secrets")))["items"]
        left = [item["metadata"]["name"] for item in (*pods, *secrets)]
        if not left:
            return
        assert time.monotonic() < limit, left
        await asyncio.sleep(0.2)


async def test_files_variables_init_and_writable_places(
    executor: KubernetesExecutor, admin: Api, namespace: str
) -> None:
    plan = plan_of(
        commands=[
            "set -u",
            "cat made config/app.txt; /opt/tool; echo $PLAIN $SECRET $TEXT; pwd; id -u",
            'touch here "$HOME/there" "$TMPDIR/elsewhere"; case "$HOME" in "$PWD"*) exit 9;; esac',
            "cat <<'END'\nheredoc $HOME\nEND",
            "echo background & ",
            "wait # a comment",
            'echo "$$" $(echo sub)',
        ],
        env={"PLAIN": "a$(HOME)$$b"},
        variables=[{"name": "SECRET", "value": "s3cr$(HOME)et", "sensitive": True}, {"name": "TEXT", "value": "text"}],
        files=[
            {"path": "config/app.txt", "contents": "file\n"},
            {"path": "/opt/tool", "contents": "#!/bin/sh\necho tool\n", "mode": "0700"},
        ],
        init={"commands": ["echo from-init > made; echo init says $SECRET"]},
    )
    end, log = await run(executor, plan)
    assert (end.code, end.reason) == (0, None), log
    assert log.decode().splitlines() == [
        "init says s3cr$(HOME)et", "from-init", "file", "tool", "a$(HOME)$$b s3cr$(HOME)et text", "/workspace", "65532",
        "heredoc $HOME", "background", "1 sub",
    ]  # fmt: skip
    await nothing_left(admin, namespace)


async def test_a_script_too_long_for_an_argument(executor: KubernetesExecutor) -> None:
    end, log = await run(executor, plan_of(commands=["# " + "x" * 200_000, "echo done"]))
    assert (end.code, log) == (0, b"done\n")


async def test_ends_of_many_kinds(executor: KubernetesExecutor, admin: Api, namespace: str) -> None:
    async def code() -> None:
        end, log = await run(executor, plan_of("code", commands=["echo before", "sh -c 'exit 3'", "echo after"]))
        assert (end.code, end.reason, log) == (3, None, b"before\n")
        assert end.ended_at is not None

    async def stopped() -> None:
        commands = ["trap 'echo bye; exit 5' TERM", "echo ready", "sleep 60 & wait"]
        execution = await executor.start(plan_of("stop", commands=commands))
        log = b""
        async with asyncio.timeout(120):
            async for part in execution.logs():
                if isinstance(part, bytes):
                    log += part
                    if log == b"ready\n":
                        await execution.stop(30)
            end = await execution.wait()
        await execution.remove()
        assert end.code == 5
        assert log in (b"ready\n", b"ready\nbye\n")  # a pod that is deleted may take its last words with it

    async def killed() -> None:
        execution = await executor.start(plan_of("kill", commands=["trap '' TERM", "sleep 60"]))
        await asyncio.wait_for(execution.started(), 60)
        await execution.stop(1)
        end = await asyncio.wait_for(execution.wait(), 60)
        await execution.remove()
        assert (end.code, end.signal, end.reason) == (137, 9, None)

    async def no_image() -> None:
        plan = plan_of("image", image="127.0.0.1:1/none:1")
        end, _ = await run(executor, plan, 120)
        assert (end.reason, end.started) == (Reason.IMAGE_PULL, False)
        assert "127.0.0.1:1/none:1" in (end.message or "")

    async def no_room() -> None:
        plan = plan_of("room", start_timeout=10, resources={"requests": {"cpu": "9000"}})
        end, _ = await run(executor, plan)
        assert (end.reason, end.started) == (Reason.UNSCHEDULABLE, False)
        assert "nsufficient cpu" in (end.message or "")

    async def no_command() -> None:
        end, _ = await run(executor, plan_of("command", entrypoint=["/no/such/thing"]))
        assert (end.reason, end.started) == (Reason.START_ERROR, False)
        assert "/no/such/thing" in (end.message or "")

    async def bad_init() -> None:
        end, log = await run(executor, plan_of("init", init={"commands": ["echo no; exit 4"]}))
        assert (end.reason, end.code, end.started, log) == (Reason.INIT_FAILED, 4, False, b"no\n")

    async def deleted() -> None:
        execution = await executor.start(plan_of("deleted", commands=["sleep 60"]))
        await asyncio.wait_for(execution.started(), 60)
        path = path_of(namespace, "pods", execution.where.pod or "")
        await admin.request("DELETE", path, body={"gracePeriodSeconds": 1})
        end = await asyncio.wait_for(execution.wait(), 60)
        await execution.remove()
        assert (end.reason, end.started) == (Reason.POD_DELETED, True)

    async def evicted() -> None:
        execution = await executor.start(plan_of("evicted", commands=["sleep 60"]))
        await asyncio.wait_for(execution.started(), 60)
        meta = {"name": execution.where.pod, "namespace": namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        await admin.request("POST", path_of(namespace, "pods", execution.where.pod or "", "eviction"), body=body)
        end = await asyncio.wait_for(execution.wait(), 60)
        await execution.remove()
        assert (end.reason, end.started) == (Reason.EVICTED, True)

    kinds = (code, stopped, killed, no_image, no_room, no_command, bad_init, deleted, evicted)
    results = await asyncio.gather(*(kind() for kind in kinds), return_exceptions=True)
    assert {k.__name__: r for k, r in zip(kinds, results, strict=True) if r is not None} == {}
    await nothing_left(admin, namespace)


async def test_twenty_thousand_lines_exactly(executor: KubernetesExecutor) -> None:
    # The pause: containerd 1.6 on a busy node may lose what a container wrote just before its end, for every reader.
    commands = ["i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; printf 'the end'; sleep 2"]
    end, log = await run(executor, plan_of(commands=commands), 120)
    assert end.code == 0
    assert log == b"".join(b"line %d\n" % i for i in range(1, 20001)) + b"the end"


async def test_a_second_executor_adopts_a_running_pod_with_its_whole_log(
    executor: KubernetesExecutor, kubernetes_settings: Kubernetes, admin: Api, namespace: str
) -> None:
    plan = plan_of(commands=["echo one", "while [ ! -e go ]; do sleep 0.1; done & sleep 3; touch go; wait", "echo two"])
    first = await executor.start(plan)
    await asyncio.wait_for(first.started(), 60)
    await first.detach()
    second = KubernetesExecutor(kubernetes_settings, "consumer-2")
    await second.open()
    async with contextlib.aclosing(_Closing(second)) as other:
        execution: PodExecution = await other.start(plan)
        assert execution.where.pod == first.where.pod
        assert await read(execution.logs(), 60) == b"one\ntwo\n"
        assert (await asyncio.wait_for(execution.wait(), 30)).code == 0
        await execution.remove()
    await nothing_left(admin, namespace)


class _Closing:
    def __init__(self, executor: KubernetesExecutor) -> None:
        self.start, self.aclose = executor.start, executor.close


@pytest.mark.row(13)
async def test_a_pod_made_by_hand_under_our_name_is_left_alone(
    executor: KubernetesExecutor, admin: Api, namespace: str, kubernetes_settings: Kubernetes
) -> None:
    body = build(plan_of(), kubernetes_settings).pod
    body["metadata"] = {"name": body["metadata"]["name"]}
    theirs = (await admin.request("POST", path_of(namespace, "pods"), body=body))["metadata"]
    with pytest.raises(Unrunnable, match="another job under the same id"):
        await executor.start(plan_of())
    now = (await admin.request("GET", path_of(namespace, "pods", theirs["name"])))["metadata"]
    assert (now["uid"], "deletionTimestamp" in now) == (theirs["uid"], False)


@pytest.mark.row(14)
async def test_a_name_held_by_a_pod_that_goes_is_waited_for(
    executor: KubernetesExecutor, admin: Api, namespace: str, kubernetes_settings: Kubernetes
) -> None:
    body = build(plan_of(), kubernetes_settings).pod
    body["metadata"]["finalizers"] = ["longshore.test/held"]
    body["spec"]["nodeSelector"] = {"no": "where"}
    path = path_of(namespace, "pods", body["metadata"]["name"])
    first = (await admin.request("POST", path_of(namespace, "pods"), body=body))["metadata"]["uid"]
    await admin.request("DELETE", path)
    starting = asyncio.create_task(executor.start(plan_of()))
    done, _ = await asyncio.wait({starting}, timeout=1)
    assert not done
    held = await admin.request("GET", path)
    held["metadata"]["finalizers"] = []
    await admin.request("PUT", path, body=held)
    execution = await asyncio.wait_for(starting, 60)
    assert (await asyncio.wait_for(execution.wait(), 60)).code == 0
    assert (await admin.request("GET", path))["metadata"]["uid"] != first
    await execution.remove()


async def test_a_plain_job_costs_three_requests(
    executor: KubernetesExecutor, audited: Callable[[], list[Any]], namespace: str
) -> None:
    before = time.monotonic()
    end, log = await run(executor, plan_of(commands=["echo hi"]))
    print(f"echo hi took {time.monotonic() - before:.2f} s from start to removal")
    assert (end.code, log) == (0, b"hi\n")
    secret = [{"name": "S", "value": "x", "sensitive": True}]
    assert (await run(executor, plan_of("with-secret", commands=["echo hi"], variables=secret)))[0].code == 0
    wanted = Counter([("create", "pods"), ("delete", "pods")] * 2 + [("create", "secrets")])

    def costs() -> Counter[Any]:
        ours = re.compile(r"ls-[a-z0-9]+-1(-[0-9a-f]+)?")  # pods, and their Secrets with something behind that
        return Counter(row[:2] for row in audited() if ours.fullmatch(row[2]))

    with contextlib.suppress(TimeoutError):  # the audit log is written in batches, up to 30 s later
        await until(lambda: costs()[("delete", "pods")] >= 2, 60)
    found = costs()
    # One look at each log; where the node tells the end of a container more than 5 s late, one more.
    assert found.pop(("get", "pods/log")) in (2, 3)
    assert found == wanted


async def test_without_rights_it_says_which(admin: Api, kubernetes_settings: Kubernetes, image: str) -> None:
    lacking = kubernetes_settings.model_copy(update={"namespace": "longshore-test-nowhere"})
    with pytest.raises(SetupError, match="longshore-test-nowhere"):
        await KubernetesExecutor(lacking, "consumer-1").open()
