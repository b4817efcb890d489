"""A benchmark that is stopped leaves nothing of it on the cluster."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from consumer.executors.kubernetes.api import Api, path_of
from support.cluster import RIGHTS
from support.consuming import until

pytestmark = pytest.mark.cluster
SCRIPT = Path(__file__).parent.parent / "bench" / "bench_scale.py"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_stopped_benchmark_leaves_nothing(admin: Api, simulated: str, number: signal.Signals) -> None:
    async def marks() -> set[str]:
        """Of this run's pods."""
        pods = (await admin.request("GET", path_of(simulated, "pods"), query={"labelSelector": "bench"}))["items"]
        found = {pod["metadata"]["labels"]["bench"] for pod in pods}
        return {mark for mark in found if mark.startswith(f"bench-{bench.pid}-")}

    bench = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), "inflight", "50")
    try:
        [mark] = await until(marks, 90)
        bench.send_signal(number)
        assert await asyncio.wait_for(bench.wait(), 90) == 130
    finally:
        if bench.returncode is None:
            bench.terminate()
            await bench.wait()
    assert await marks() == set()
    for kind in ("roles", "rolebindings"):
        items = (await admin.request("GET", f"{RIGHTS}/{simulated}/{kind}"))["items"]
        assert mark not in [item["metadata"]["name"] for item in items]
