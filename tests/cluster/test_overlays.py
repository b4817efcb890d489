"""The overlays of k8s/ as they are: applied, and used by a consumer with nothing but its ServiceAccount's token.

Not tried here, since the cluster may lack it: an image of ours in the pod, network policies (they need a plugin), the
Prometheus operator and KEDA.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enqueue import Job, Status, aio
from support.consuming import until
from support.overlays import Installed, install, remove

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")]


@pytest.fixture(params=["single", "high-availability", "keda"])
async def installed(request: pytest.FixtureRequest, admin_kubeconfig: Path) -> AsyncIterator[Installed]:
    found = await install(admin_kubeconfig, request.param)
    yield found
    await remove(found)


async def test_it_stays_as_it_was_applied_its_pods_are_restricted_and_it_may_nothing_else(installed: Installed) -> None:
    everything = {"kind": "List", "apiVersion": "v1", "items": installed.objects}
    await installed.kubectl("diff", "-f", "-", given=json.dumps(everything))  # fails if there is any
    template = installed.find("Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = template["metadata"] | {"name": "try", "namespace": installed.own}
    await installed.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod))
    pod["spec"] = pod["spec"] | {"hostNetwork": True}
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        await installed.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod))
    account = f"system:serviceaccount:{installed.own}:longshore"
    listed = await installed.kubectl("auth", "can-i", "--list", "-n", installed.jobs, "--as", account)
    rows = [line for line in listed.splitlines()[1:] if "[" in line and not line.startswith(("selfsubject", " "))]
    mine = {row.split()[0]: row[row.rindex("[") :] for row in rows}
    assert mine.pop("leases.coordination.k8s.io") in ("[create]", "[get update]")  # a line for each rule
    assert mine == {
        "pods": "[create get list watch delete]",
        "pods/log": "[get]",
        "secrets": "[create]",
        "events": "[list]",
    }


@pytest.mark.parametrize("installed", ["single"], indirect=True)
async def test_a_consumer_with_the_service_accounts_token(
    installed: Installed, redis_url: str, image: str, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    kubeconfig = await installed.token_kubeconfig(tmp_path)
    env = installed.env(LONGSHORE_QUEUE_URL=redis_url, LONGSHORE_NAME="longshore-0")
    env |= {"LONGSHORE_METRICS_PORT": port, "LONGSHORE_METRICS_ADDRESS": "127.0.0.1", "KUBECONFIG": str(kubeconfig)}
    own = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LONGSHORE_STATE_DIRECTORY": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        consumer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "enqueue.cli", "run", env=env | own, stdout=log, stderr=log, cwd=tmp_path
        )
    try:
        ready = await until(lambda: _page(port, "/readyz"), 60)
        assert ready == (200, "ready\n")
        async with aio.connect(redis_url) as queue:
            greedy = Job(image=image, commands=["true"], resources={"limits": {"memory": "65Gi"}})
            refused = await queue.enqueue(greedy)
            handle = await queue.enqueue(Job(image=image, commands=["id -u; echo ::set-outcome-var a=b"]))
            outcome = await handle.wait(60)
            assert (outcome.status, outcome.variables) == (Status.SUCCEEDED, {"a": "b"}), outcome
            assert b"65532" in b"".join([part async for part in handle.logs(follow=True)])
            over = await refused.wait(60)  # the namespace's LimitRange
        assert over.reason == "refused"
        assert "64Gi" in (over.message or "")
        assert await _page(port, "/healthz") == (200, "alive\n")
        metrics = (await _page(port, "/metrics") or (0, ""))[1]
        assert 'longshore_jobs_ended_total{queue="default",reason="",status="succeeded"} 1.0' in metrics
        assert 'longshore_api_requests_total{code="201",resource="pods",verb="create"}' in metrics
        assert "longshore_watch_up 1.0" in metrics
        usage = json.loads(await installed.kubectl("-n", installed.jobs, "get", "resourcequota", "jobs", "-o", "json"))
        assert usage["spec"]["hard"]["pods"] == "500"
        consumer.terminate()
        assert await asyncio.wait_for(consumer.wait(), 30) == 0, (tmp_path / "log").read_text()
    except BaseException:
        print((tmp_path / "log").read_text())
        raise
    finally:
        if consumer.returncode is None:
            consumer.kill()
            await consumer.wait()


async def _page(port: str, path: str) -> tuple[int, str] | None:
    """Status and text; None while nobody listens, or while it isn't ready."""

    def get() -> tuple[int, str] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except (urllib.error.URLError, OSError):
            return None

    return await asyncio.to_thread(get)
