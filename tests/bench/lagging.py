"""Runs the command `longshore` and writes down how late its event loop is: python lagging.py FILE longshore run ...

FILE gets one line a sample: the milliseconds by which a sleep of 10 ms was late.
"""

from __future__ import annotations

import asyncio
import runpy
import sys
import time
from typing import Any

import consumer.app

run_consumer = consumer.app.run_consumer
FILE = sys.stderr


async def sampled(*args: Any, **named: Any) -> None:
    """The consumer with a sampler beside it."""
    sampling = asyncio.create_task(sample())
    try:
        await run_consumer(*args, **named)
    finally:
        sampling.cancel()


async def sample() -> None:
    """Until cancelled."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.01)
        print(f"{1000 * (time.perf_counter() - before) - 10:.1f}", file=FILE, flush=True)


if __name__ == "__main__":
    name, *sys.argv = sys.argv[1:]
    consumer.app.run_consumer = sampled
    with open(name, "w") as FILE:
        runpy.run_path(sys.argv[0], run_name="__main__")
