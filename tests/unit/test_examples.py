"""The examples run as their texts say."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import rq

from enqueue.files import load_job

ROOT = Path(__file__).parent.parent.parent
JOBS = sorted((ROOT / "examples" / "jobs").iterdir())
PRODUCERS = ROOT / "examples" / "producers"


def environment(**settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LONGSHORE_", "FAKTORY_"))}
    return inherited | settings


def run(path: Path, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env=environment(**settings),
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def longshore(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enqueue.cli", *arguments],
        env=environment(TMPDIR=str(cwd), PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Consumer:
    """`longshore run` with the process executor, as a process of its own."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._log = directory / "consumer.log"
        command = [sys.executable, "-m", "enqueue.cli", "run", "--executor", "process", *arguments]
        settings = environment(LONGSHORE_PROCESS_DIRECTORY=str(directory / "jobs"), LONGSHORE_SHUTDOWN_GRACE="1")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=directory, env=settings, stdout=log, stderr=log)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        assert code == 0, self._log.read_text()


@pytest.fixture
def rq_consumer(redis_url: str, tmp_path: Path) -> Iterator[str]:
    consumer = Consumer(tmp_path, "--queue-url", redis_url)
    yield redis_url
    consumer.stop()


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_file_is_a_valid_job(path: Path) -> None:
    assert load_job(str(path)).image


def expected(name: str) -> tuple[int, str, str]:
    """Exit code, standard output, and what must stand in standard error."""
    return {
        "hello.yaml": (0, "hello from job ", ""),
        "files-and-variables.yaml": (0, "region = eu-north\nlogging in with ***\n", "eu-north"),
        "init-step.yaml": (0, "preparing\nthe answer is 42\n", ""),
        "kubernetes.yaml": (64, "", "resources: the process executor has no such thing"),
        "python.yaml": (0, "Python 3.", "variable python"),
        "retries.json": (1, "attempt 1\n", "exit_code"),
    }[name]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_file_runs_here_and_now(path: Path, tmp_path: Path) -> None:
    code, output, errors = expected(path.name)
    done = longshore("test", "-f", str(path), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith(output)
    assert " ".join(errors.split()) in " ".join(done.stderr.split())


def test_retries_through_a_queue(rq_consumer: str, tmp_path: Path) -> None:
    path = ROOT / "examples" / "jobs" / "retries.json"
    done = longshore("enqueue", "-f", str(path), "--queue-url", rq_consumer, "--follow", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["attempt 1", "attempt 2"]


def test_job_types(redis_url: str, tmp_path: Path) -> None:
    config = ROOT / "examples" / "job-types.yaml"
    consumer = Consumer(tmp_path, "--queue-url", redis_url, "--queues", "heavy", "--config", str(config))
    with redis.Redis.from_url(redis_url, socket_timeout=90) as client:
        queue = rq.Queue("heavy", connection=client)
        short = queue.enqueue("textwrap.shorten", "many words", width=8)
        image = queue.enqueue("ResizeImage", "a.png", 300, token="not-a-real-token")
        ends = [job.latest_result(timeout=80) for job in (short, image)]
    consumer.stop()
    assert ends[0].return_value == "[...]"
    assert ends[1].return_value["variables"] == {"file": "a.png"}


def test_with_enqueue(rq_consumer: str) -> None:
    output = run(PRODUCERS / "with_enqueue.py", LONGSHORE_QUEUE_URL=rq_consumer)
    assert "deploying 1.4.2 with ***" in output
    assert "succeeded 0 {'url': 'https://example.com/1.4.2'}" in output
    assert output.endswith("cancelled\n")
    assert "not-a-real-token" not in output


def test_with_enqueue_async(rq_consumer: str) -> None:
    assert run(PRODUCERS / "with_enqueue_async.py", LONGSHORE_QUEUE_URL=rq_consumer) == (
        "squares ['1', '4', '9', '16', '25']\n"
    )


def test_with_stock_rq(rq_consumer: str) -> None:
    output = run(PRODUCERS / "with_rq.py", LONGSHORE_QUEUE_URL=rq_consumer)
    for serializer in ("DefaultSerializer", "JSONSerializer"):
        assert f"{serializer} JobStatus.FINISHED {{'status': 'succeeded'" in output
        assert f"{serializer} JobStatus.FAILED 4" in output
    assert output.count("'variables': {'answer': '42'}") == 2
    assert output.count("exit_code: exited with code 4") == 2
    assert output.count("there is no such table") == 2


@pytest.fixture
def faktory_consumer(redis_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    url, queue = os.environ.get("FAKTORY_URL"), f"longshore-test-{secrets.token_hex(6)}"
    if not url:
        pytest.skip("FAKTORY_URL isn't set: no Faktory")
    consumer = Consumer(tmp_path, "--queue-url", url, "--records-url", redis_url, "--queues", queue)
    yield {"FAKTORY_URL": url, "LONGSHORE_RECORDS_URL": redis_url, "LONGSHORE_QUEUE": queue}
    consumer.stop()


@pytest.mark.faktory
def test_with_the_faktory_client(faktory_consumer: dict[str, str]) -> None:
    lines = run(PRODUCERS / "with_faktory.py", **faktory_consumer).splitlines()
    assert lines[0].startswith("enqueued ")
    assert lines[1:] == ["succeeded 0 {'answer': '42'}", "hello"]
