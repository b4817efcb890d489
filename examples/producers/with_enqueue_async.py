"""The same verbs with asyncio: several jobs at once, and what each of them handed back. Needs: longshore.

LONGSHORE_QUEUE_URL and LONGSHORE_RECORDS_URL as for with_enqueue.py.
"""

import asyncio
import os
import sys

from enqueue import Job
from enqueue.aio import connect

URL = os.environ.get("LONGSHORE_QUEUE_URL", "redis://localhost:6379/0")
RECORDS = os.environ.get("LONGSHORE_RECORDS_URL")


async def main() -> int:
    async with connect(URL, records=RECORDS) as queue:
        jobs = [
            Job(image="alpine:3.20", commands=(f"sleep 0.{n}", f"echo ::set-outcome-var square=$(({n} * {n}))"))
            for n in range(1, 6)
        ]
        handles = await asyncio.gather(*(queue.enqueue(job) for job in jobs))
        outcomes = await asyncio.gather(*(handle.wait(timeout=60) for handle in handles))
    print("squares", [outcome.variables.get("square") for outcome in outcomes])
    return 0 if all(outcome.succeeded for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
