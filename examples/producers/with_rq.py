"""Stock RQ, nothing of longshore installed here. Needs: pip install rq.

The function is the string "longshore.job", which nobody imports; its one argument is the job. Give such jobs queues
of their own: a stock RQ worker would take them and fail them.

    LONGSHORE_QUEUE_URL     redis://localhost:6379/0 if not given
"""

import os
import sys

from redis import Redis
from rq import Queue
from rq.serializers import DefaultSerializer, JSONSerializer

URL = os.environ.get("LONGSHORE_QUEUE_URL", "redis://localhost:6379/0")

GOOD = {
    "image": "alpine:3.20",
    "commands": ["echo hello", "echo ::set-outcome-var answer=42"],
}
BAD = {
    "image": "alpine:3.20",
    "commands": ["echo 'there is no such table' >&2", "exit 4"],
}


def main() -> int:
    connection = Redis.from_url(URL, socket_timeout=None)  # redis-py 8 gives up after 5 seconds else: we wait longer
    for serializer in (DefaultSerializer, JSONSerializer):
        queue = Queue("default", connection=connection, serializer=serializer)

        # The description is for dashboards; RQ's own would show all arguments, secrets too.
        job = queue.enqueue("longshore.job", GOOD, description="say hello", job_timeout=60)
        job.latest_result(timeout=60)  # waits
        print(serializer.__name__, job.get_status(), job.return_value())
        print("  meta", job.get_meta()["longshore"]["where"])

        job = queue.enqueue("longshore.job", BAD, description="fail", job_timeout=60)
        result = job.latest_result(timeout=60)
        print(serializer.__name__, job.get_status(), job.get_meta()["longshore"]["exit_code"])
        print(result.exc_string)  # also job.exc_info, and what rq-dashboard shows
    return 0


if __name__ == "__main__":
    sys.exit(main())
