"""A pod prints its secrets in many forms: they stand nowhere but in the pod's own Secret."""

from __future__ import annotations

import json
import os
import secrets
import urllib.parse
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis

from consumer.executors.kubernetes.api import Api, path_of
from enqueue import Job, Variable, aio
from enqueue.seal import new_key
from support.consuming import consuming, until
from support.secrecy import SECRET, found_in, stored

pytestmark = [pytest.mark.cluster, pytest.mark.faktory]

KINDS = ("pods", "configmaps")
PRINTING = r"""
echo "$TOKEN"; echo "user:$TOKEN" >&2
printf %s "$TOKEN" | base64; printf x%s "$TOKEN" | base64; printf xx%s "$TOKEN" | base64
printf %s "$TOKEN" | od -An -v -tx1 | tr -d ' \n'; echo
export -p; env; set -x; : "$TOKEN"; set +x
echo "::set-outcome-var leak=$TOKEN"; echo "::error::$TOKEN"; echo "::progress 50 $TOKEN"
minted=minted-by; minted=$minted-the-job
echo "::add-mask $minted"; echo "it is $minted"
echo "file=$TOKEN $minted" >> "$LONGSHORE_OUTCOME"
sleep 2
exit 3
"""


@pytest.fixture
def faktory_url() -> str:
    url = os.environ.get("FAKTORY_URL")
    if not url:
        pytest.skip("FAKTORY_URL isn't set: no Faktory")
    return url


async def test_pod_specs_events_records_and_faktorys_pages(
    redis_url: str,
    redis_client: redis.Redis,
    faktory_url: str,
    namespace: str,
    consumer_kubeconfig: Path,
    admin: Api,
    image: str,
    tmp_path: Path,
) -> None:
    private, public = new_key()
    (tmp_path / "keys").write_text(private)
    flags: dict[str, Any] = {
        "executor": "kubernetes",
        "kubernetes": {
            "namespace": namespace,
            "kubeconfig": consumer_kubeconfig,
            "requests": {"cpu": "10m", "memory": "16Mi"},
        },
        "jobs": {"seal_keys": tmp_path / "keys"},
    }
    name, found = f"longshore-test-{secrets.token_hex(6)}", []
    job = Job(image=image, commands=[PRINTING], variables=[Variable(name="TOKEN", value=SECRET, sensitive=True)])
    async with (
        consuming(faktory_url, records_url=redis_url, queues=name, **flags),
        aio.connect(faktory_url, records=redis_url, queue=name) as queue,
    ):
        handle = await queue.enqueue(job.seal(public))
        seen = set[str]()

        async def looked() -> bool:
            """At all that there is, again and again until the job has ended.

            What the job itself has put into its outcome file is the message of its container's end.
            """
            ended = (await handle.record()).status.final
            pods, maps = [(await admin.request("GET", path_of(namespace, kind)))["items"] for kind in KINDS]
            for pod in pods:
                seen.add(pod["metadata"]["name"])
                for container in pod["status"].get("containerStatuses") or ():
                    container["state"].get("terminated", {}).pop("message", None)
            for kind, items in zip(KINDS, (pods, maps), strict=True):
                found.extend(found_in(kind, json.dumps(items, ensure_ascii=False).encode()))
            return ended

        await until(looked, 120)
        assert seen == {(await handle.record()).where.pod}
        outcome = await handle.wait(1)
        log = b"".join([part async for part in handle.logs()])
        base = os.environ.get("FAKTORY_WEB_URL", f"http://{urllib.parse.urlsplit(faktory_url).hostname}:7420")
        for page in ("busy", "morgue", "retries", f"queues/{name}"):
            async with aiohttp.request("GET", f"{base}/{page}") as answer:
                found += found_in(page, await answer.read())
    found += found_in("events", json.dumps(await admin.request("GET", path_of(namespace, "events"))).encode())
    found += found_in("log", log)
    for where, value in stored(redis_client, payload=()):
        found += found_in(where, value)
    assert found == []
    assert (outcome.reason, outcome.variables) == ("exit_code", {"leak": "***", "file": "*** ***"})
    assert b"it is ***\n" in log
    assert log.count(b"***") >= 9
