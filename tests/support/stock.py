"""What stock RQ does beside us: its workers' maintenance, its scheduler, `rq info`, and rq-dashboard."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import rq
from rq.group import Group
from rq.registry import clean_registries
from rq.scheduler import RQScheduler


@contextmanager
def dashboard(url: str) -> Iterator[Any]:
    """A client of the real rq-dashboard's application."""
    from rq_dashboard.cli import make_flask_app
    from rq_dashboard.web import setup_rq_connection

    app = make_flask_app(None, None, None, "")
    app.config["RQ_DASHBOARD_REDIS_URL"] = [url]
    setup_rq_connection(app)
    with app.app_context(), app.test_client() as client:
        yield client
        app.redis_conn.close()


async def stock_beside(
    url: str, counts: Counter[str], queues: Sequence[str] = ("q",), *, pause: float = 0, info: int = 0
) -> None:
    """All that stock workers, schedulers and `rq info` do to keys that are ours, over and over, until cancelled.

    `counts["rounds"]` counts them. `pause`: seconds between two; `info`: run the command `rq info` each so many rounds.
    """

    def once() -> None:
        with redis.Redis.from_url(url) as connection:
            for name in queues:
                queue = rq.Queue(name, connection=connection)
                clean_registries(queue)  # a worker's maintenance, without its ten minutes between
                for registry in (queue.started_job_registry, queue.finished_job_registry, queue.failed_job_registry):
                    registry.get_job_ids()  # as `rq info` counts them, which cleans them
                queue.started_job_registry.count  # noqa: B018
            rq.SimpleWorker(["elsewhere"], connection=connection).run_maintenance_tasks()
            Group.clean_registries(connection=connection)
            rq.Worker.all(connection=connection)
            scheduler = RQScheduler(list(queues), connection=connection, logging_level="ERROR")
            if scheduler.acquire_locks():
                scheduler.enqueue_scheduled_jobs()
                scheduler.release_locks()

    command = [str(Path(sys.executable).parent / "rq"), "info", "--raw", "--url", url]
    while True:
        try:
            await asyncio.to_thread(once)
            if info and counts["rounds"] % info == 0:
                done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=False)
                counts["infos"] += done.returncode == 0
            counts["rounds"] += 1
        except redis.RedisError:
            counts["failures"] += 1
        await asyncio.sleep(pause)
