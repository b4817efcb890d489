"""`longshore run` as a process of its own for benchmarks: started, fed, measured from outside, stopped."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from ending import spawn

from enqueue import Job
from enqueue.wire import rq as wire

TICKS = os.sysconf("SC_CLK_TCK")


def fill(client: redis.Redis, queue: str, job: Job, count: int) -> list[str]:
    """Enqueue so many jobs in one step; their ids."""
    ids = []
    with client.pipeline() as pipe:
        for _ in range(count):
            job_id, fields = wire.new_job(job, queue)
            pipe.hset(wire.job_key(job_id), mapping=fields)
            pipe.rpush(wire.queue_key(queue), job_id)
            ids.append(job_id)
        pipe.execute()
    return ids


def compiling() -> dict[str, str]:
    """Our environment, but Python keeps what it has compiled, as pip does when it installs a package."""
    cache = str(Path(tempfile.gettempdir()) / f"longshore-bench-pycache-{os.getuid()}")
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": cache
    }


class ConsumerProcess:
    """One consumer on RQ. `settings` are those of a longshore.yaml.

    `profile`: a file for cProfile's figures; `lag`: one for the event loop's lag, see lagging.py.
    `ready`: wait until it has started.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        settings: Mapping[str, Any],
        *,
        profile: str | None = None,
        lag: Path | None = None,
        ready: bool = True,
    ) -> None:
        self.url, self.queue = url, queue
        self.redis = redis.Redis.from_url(url)
        self.directory = tempfile.TemporaryDirectory(prefix="longshore-bench-")
        config = Path(self.directory.name) / "longshore.yaml"
        whole = {"queue_url": url, "queues": [queue], "metrics_port": 0, "log_format": "json", **settings}
        config.write_text(json.dumps(whole))
        self.log = Path(self.directory.name) / "log"
        command = [sys.executable, *(("-m", "cProfile", "-o", profile) if profile else ())]
        command += [str(Path(__file__).parent / "lagging.py"), str(lag)] if lag else []
        command += [str(Path(sys.executable).parent / "longshore"), "run", "--config", str(config)]
        with self.log.open("wb") as log:
            self.process = spawn(command, stderr=log, stdout=log, env=compiling())
        self.pid = self.process.pid
        if ready:
            self.event("consumer_started")
            self.metrics()

    @functools.cache  # noqa: B019 - there are few of these objects
    def metrics(self) -> str:
        """The URL of its metrics."""
        return f"http://127.0.0.1:{self.event('metrics')['port']}/metrics"

    def event(self, name: str, seconds: float = 60) -> dict[str, Any]:
        """Waits for an event in its log."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in self.log.read_text().splitlines():
                if f'"{name}"' in line and (event := json.loads(line))["event"] == name:
                    return dict(event)
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError(f"no {name}: {self.log.read_text()[-2000:]}")

    def fill(self, job: Job, count: int) -> list[str]:
        """Enqueue so many jobs in one step; their ids."""
        return fill(self.redis, self.queue, job, count)

    def timed(self, job: Job, count: int) -> dict[str, float]:
        """Seconds and CPU seconds that so many jobs take, until nothing of them is left."""
        before, began = self.cpu, time.perf_counter()
        self.fill(job, count)
        self.drained(count)
        return {"seconds": time.perf_counter() - began, "cpu": self.cpu - before}

    @property
    def succeeded(self) -> int:
        """Jobs that have ended well."""
        return int(self.redis.zcard(f"rq:finished:{self.queue}"))

    @property
    def ended(self) -> int:
        """Jobs that have ended in any way."""
        return self.succeeded + int(self.redis.zcard(f"rq:failed:{self.queue}"))

    @property
    def busy(self) -> int:
        """Jobs with which the consumer isn't done: slots in use, and pods that are being removed."""
        text = urllib.request.urlopen(self.metrics(), timeout=30).read().decode()
        names = ("longshore_slots_used ", "longshore_jobs_leaving ")
        return sum(int(float(row.split()[1])) for row in text.splitlines() if row.startswith(names))

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def resident(self) -> float:
        """Resident memory now, in MB."""
        rows = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(row for row in rows if row.startswith("VmRSS")).split()[1]) / 1024

    def drained(self, count: int, seconds: float = 600) -> None:
        """Waits until so many jobs have ended and nothing of them is left to do."""
        until = time.monotonic() + seconds
        while self.ended < count or self.busy:
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError(f"{self.ended} of {count} ended: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        if self.succeeded < count:
            raise RuntimeError(f"{count - self.succeeded} jobs failed: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """As an operator would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> ConsumerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self.redis.close()
        self.directory.cleanup()
