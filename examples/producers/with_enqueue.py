"""longshore's own producer: enqueue, follow the log, wait for the outcome. Needs: longshore.

LONGSHORE_QUEUE_URL     redis://... or faktory://...; redis://localhost:6379/0 if not given
LONGSHORE_RECORDS_URL   with Faktory: the Redis that its consumer was given as --records-url
"""

import os
import sys

from enqueue import Job, Variable, connect

URL = os.environ.get("LONGSHORE_QUEUE_URL", "redis://localhost:6379/0")
RECORDS = os.environ.get("LONGSHORE_RECORDS_URL")

JOB = Job(
    image="alpine:3.20",
    commands=(
        'echo "deploying $VERSION with $TOKEN"',
        "sleep 1",
        'echo "::set-outcome-var url=https://example.com/$VERSION"',
    ),
    env={"VERSION": "1.4.2"},
    variables=(Variable(name="TOKEN", value="not-a-real-token", sensitive=True),),
    timeout=60,
)


def main() -> int:
    with connect(URL, records=RECORDS) as queue:
        handle = queue.enqueue(JOB)
        print("enqueued", handle.id, flush=True)

        for part in handle.logs(follow=True):  # bytes, in pieces of whole lines; ends with the job
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()

        outcome = handle.wait(timeout=60)
        print(outcome.status, outcome.exit_code, outcome.variables)

        # A job that takes too long for us: cancel it. A queued one never starts, a running one gets TERM.
        slow = queue.enqueue(Job(image="alpine:3.20", commands=("sleep 60",)))
        slow.cancel()
        print(slow.wait(timeout=60).status)
    return 0 if outcome.succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
