from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "kubernetes",
    "aiohttp",
    "opentelemetry",
    "docker",
    "structlog",
    "prometheus_client",
    "consumer",
    "rq",
    "faktory",
)


def test_a_producer_loads_nothing_that_only_consumers_need() -> None:
    code = f"""
import sys, enqueue, enqueue.aio
enqueue.connect("redis://localhost:1/0"); enqueue.connect("tcp://localhost:1", records="redis://localhost:1/0")
print([m for m in sys.modules if m.split(".")[0] in {HEAVY!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
