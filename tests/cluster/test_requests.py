"""What a job costs the API server, and that a job that runs costs nothing: by the server's own audit log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enqueue import Job, Status, aio
from enqueue.times import epoch
from support.consuming import consuming, until

pytestmark = pytest.mark.cluster

PLAIN = {("create", "pods"): 1, ("get", "pods/log"): 1, ("delete", "pods"): 1}
SECRET = PLAIN | {("create", "secrets"): 1}
MIDDLE = 5.0
"""Seconds for which the jobs run side by side, at least."""


async def test_a_job_costs_three_or_four_requests_and_none_while_it_runs(
    redis_url: str,
    requests: Callable[[str], list[Any]],
    namespace: str,
    consumer_kubeconfig: Path,
    image: str,
    tmp_path: Path,
) -> None:
    kubernetes = {"namespace": namespace, "kubeconfig": consumer_kubeconfig, "sweep_interval": 2.0}
    kubernetes["requests"] = {"cpu": "10m", "memory": "16Mi"}
    flags = {"executor": "kubernetes", "kubernetes": kubernetes, "state_directory": tmp_path}
    common = {"image": image, "commands": ["echo begin", "sleep 15", "echo end"]}
    jobs = {
        "plain": Job(**common),
        "secrets": Job(**common, variables=[{"name": "S", "value": "x-secret", "sensitive": True}]),
        "files": Job(**common, files=[{"path": "a.txt", "contents": "from a file"}]),
    }
    async with consuming(redis_url, **flags), aio.connect(redis_url) as producer:
        handles = {name: await producer.enqueue(job) for name, job in jobs.items()}
        outcomes = [await handle.wait(90) for handle in handles.values()]
        records = {name: await handle.record() for name, handle in handles.items()}
    assert {outcome.status for outcome in outcomes} == {Status.SUCCEEDED}

    pods = {name: record.where.pod for name, record in records.items()}
    wanted = {pods["plain"]: PLAIN, pods["secrets"]: SECRET, pods["files"]: SECRET}
    log = ("get", "pods/log")

    def costs() -> dict[str, Counter[Any]]:
        rows = requests(namespace)
        # A pod's Secret is called as the pod, with something behind it.
        named = {pod: [row for row in rows if row.name == pod or row.name.startswith(f"{pod}-")] for pod in wanted}
        return {pod: Counter((row.verb, row.what) for row in its) for pod, its in named.items()}

    def complete() -> bool:  # the audit log is written in batches, up to 30 s later
        return all(cost[("delete", "pods")] for cost in costs().values())

    await until(complete, 60)
    found = costs()
    # Where the node tells the end of a container more than 5 s late, its log is asked for again.
    assert min(cost[log] for cost in found.values()) == 1
    assert max(cost[log] for cost in found.values()) <= 3
    assert {pod: cost | {log: 1} for pod, cost in found.items()} == wanted

    rows = [row for row in requests(namespace) if row.what == "pods/log"]
    since = max(min(row.at for row in rows if row.name == pod) for pod in wanted)  # the last one of what a start costs
    to = min(epoch(record.times.ended) for record in records.values())
    assert to - since > MIDDLE, "the jobs didn't run side by side for long enough to tell"
    middle = [row for row in requests(namespace) if since < row.at < to]
    assert [row for row in middle if row.what != "leases"] == []
    assert len(middle) <= 2 + (to - since) / 5, "a Lease is renewed every ten seconds"
