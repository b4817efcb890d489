from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from enqueue.cli_options import producer_at

BASE = [sys.executable, "-m", "enqueue.cli"]


def longshore(*args: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BASE, *args], input=stdin, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ('{"commands": ["exit 0"]}', 0),
        ('{"commands": ["exit 7"]}', 7),
        ("commands:\n- sleep 60\ntimeout: 0.2\n", 124),
        ("commands: [kill -9 $$]", 137),
        ("commands: [x]\nresources: {limits: {cpu: '1'}}", 64),
        ("comands: [x]", 64),
        ("not: [yaml", 64),
        ("a: &a [x]\nb: *a", 64),
        ("commands: [a]\ncommands: [b]", 64),
    ],
)
def test_test_exits_as_the_job_did(job: str, code: int, tmp_path: Path) -> None:
    done = longshore("test", "-f", "-", stdin=job, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_test_prints_the_log_and_the_record_apart(tmp_path: Path) -> None:
    job = {
        "commands": ["echo out", "echo ::set-outcome-var a=$S"],
        "variables": [{"name": "S", "value": "s3cret", "sensitive": True}],
    }
    done = longshore("test", "-f", "-", "--json", stdin=json.dumps(job), cwd=tmp_path)
    record = json.loads(done.stdout)
    assert done.stderr == "out\n"
    assert record["status"] == "succeeded"
    assert record["variables"] == {"a": "***"}


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["nonsense"], 64, "No such command"),
        (["test", "-f", "/no/such/file"], 64, "No such file"),
        (["test", "-f", "-", "--executor", "dokcer"], 64, "commands"),
        (["show", "x", "--queue-url", "redis://user:hunter2@127.0.0.1:1/0"], 69, "127.0.0.1:1"),
        (["show", "x", "--queue-url", "http://h"], 64, "scheme 'http' is unknown"),
        (["run", "--concurrency", "0"], 64, "concurrency"),
        (["run", "--executor", "dokcer"], 64, "there is no executor 'dokcer'"),
        (["run", "--queue-url", "faktory://localhost:1"], 64, "--records-url"),
        (["run", "--config", "/no/such"], 64, "there is no file"),
    ],
)
def test_mistakes_get_a_sentence_and_a_code(args: list[str], code: int, says: str, tmp_path: Path) -> None:
    done = longshore(*args, stdin="{}", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_settings_name_the_wrong_key(tmp_path: Path) -> None:
    (tmp_path / "longshore.yaml").write_text("kubernetes: {namespce: x}\n")
    done = longshore("run", cwd=tmp_path)
    assert done.returncode == 64
    assert "kubernetes: unknown field 'namespce': did you mean 'namespace'?" in done.stderr


def test_the_way_of_a_job_by_commands_alone(redis_url: str, tmp_path: Path) -> None:
    url = ["--queue-url", redis_url]
    job_id = longshore("enqueue", "-f", "-", *url, stdin='{"commands": ["echo hello", "exit 4"]}').stdout.strip()
    assert json.loads(longshore("show", job_id, "--json", *url).stdout)["status"] == "queued"
    assert longshore("wait", job_id, "--timeout", "0.05", *url).returncode == 124
    consumer = subprocess.Popen([*BASE, "run", *url, "--executor", "process"], stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        assert longshore("wait", job_id, "--timeout", "30", *url).returncode == 4
        assert longshore("logs", job_id, "-f", *url).stdout == "hello\n"
        shown = longshore("show", job_id, *url).stdout
        assert "exit_code" in shown
        assert longshore("cancel", job_id, *url).returncode == 1
        assert longshore("show", "no-such-job", *url).returncode == 1
    finally:
        consumer.terminate()
        assert consumer.wait(30) == 0


@pytest.mark.parametrize(
    ("environment", "faktory"),
    [
        ({}, None),
        ({"FAKTORY_URL": "tcp://faktory.example:7419"}, "faktory.example"),
        (
            {"FAKTORY_PROVIDER": "MINE", "MINE": "tcp://mine.example:7419", "FAKTORY_URL": "tcp://not.example"},
            "mine.example",
        ),
    ],
)
def test_the_producer_finds_faktory_as_its_own_clients_do(
    environment: dict[str, str], faktory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FAKTORY_URL", "FAKTORY_PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = producer_at(None, None)._faktory
    assert (found.address.host if found else None) == faktory
    assert producer_at("redis://redis.example", None)._faktory is None
