"""The Faktory client from PyPI, and the outcome read from Redis by hand. Needs: pip install faktory redis.

FAKTORY_URL             tcp://localhost:7419 if not given
LONGSHORE_RECORDS_URL   the Redis that the consumer was given as --records-url; redis://localhost:6379/0
LONGSHORE_QUEUE         the queue; default
"""

import json
import os
import sys
import time

import faktory
from redis import Redis

URL = os.environ.get("FAKTORY_URL", "tcp://localhost:7419")
RECORDS = os.environ.get("LONGSHORE_RECORDS_URL", "redis://localhost:6379/0")
QUEUE = os.environ.get("LONGSHORE_QUEUE", "default")

JOB = {
    "image": "alpine:3.20",
    "commands": ["echo hello", "echo ::set-outcome-var answer=42"],
    "timeout": 60,
}


def main() -> int:
    with faktory.connection(faktory=URL) as client:
        jid = client.random_job_id()
        # retry: Faktory's tries after the first; -1 for none (0 would forget a job that fails).
        # reserve_for: seconds until Faktory gives the job to somebody else; longer than the job may take.
        if not client.queue("longshore.job", args=[JOB], queue=QUEUE, jid=jid, retry=-1, reserve_for=600):
            print("Faktory refused the job", file=sys.stderr)
            return 1
    print("enqueued", jid, flush=True)

    records = Redis.from_url(RECORDS)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        stored = records.hget(f"longshore:job:{jid}", "longshore")
        record = json.loads(stored) if stored else {"status": "queued"}
        if record["status"] in ("succeeded", "failed", "cancelled"):
            print(record["status"], record.get("exit_code"), record.get("variables"))
            for _, fields in records.xrange(f"longshore:log:{jid}"):
                sys.stdout.write(fields.get(b"d", b"").decode())
            return 0 if record["status"] == "succeeded" else 1
        time.sleep(0.2)
    print("no consumer has ended the job within a minute", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
