"""`longshore demo` as a user runs it: all comes out as it should, and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.demo import JOBS, NAMES
from enqueue.files import load_job

SECRETS = load_job(str(JOBS / "secret.yaml")).sensitive_values()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
    environment |= {"LONGSHORE_EXECUTOR": "null", "LONGSHORE_NO_SUCH_SETTING": "x", "COLUMNS": "120"}
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "longshore.yaml").write_text("nonsense: true\n")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "enqueue.cli", "demo"],
        cwd=tmp_path / "here",
        env=environment | {"TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path / "nowhere")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def remains(tmp_path: Path) -> list[str]:
    """Processes and files of a demo that ran in `here`."""
    found = [str(path) for path in (tmp_path / "tmp").iterdir()]
    found += [str(path) for path in (tmp_path / "here").iterdir() if path.name != "longshore.yaml"]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = os.readlink(entry / "cwd")
        except OSError:
            continue
        if str(tmp_path) in command or where.startswith(str(tmp_path)):
            found.append(f"{entry.name} {command}")
    return found


def test_everything_comes_out_as_it_should(start: subprocess.Popen[str], tmp_path: Path) -> None:
    output, _ = start.communicate(timeout=60)
    assert start.returncode == 0, output
    table = output[output.index("exit code") :]
    for name in NAMES:
        assert name in table
    for words in ("version=1.4.2", "parts=4", "exit_code", "login=user:***", "requested", "cancelled while it ran"):
        assert words in table
    assert "Each job came out as it should." in output
    assert "succeeds | part four" in output
    assert "secret | logging in with ***" in output
    assert len(SECRETS) == 1
    assert SECRETS[0] not in output
    assert "never reached" not in output
    assert remains(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing(
    start: subprocess.Popen[str], tmp_path: Path, number: int, code: int
) -> None:
    assert start.stdout is not None
    for line in start.stdout:
        if "part one" in line:
            break
    start.send_signal(number)
    output, _ = start.communicate(timeout=30)
    assert start.returncode == code, output
    assert "Traceback" not in output
    assert remains(tmp_path) == []


def test_a_second_demo_in_the_same_directory_is_refused(start: subprocess.Popen[str], tmp_path: Path) -> None:
    deadline = time.monotonic() + 20
    while not (tmp_path / "here" / ".longshore-demo").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    start.send_signal(signal.SIGSTOP)  # or it may be over before the second one looks
    second = subprocess.run(
        [sys.executable, "-m", "enqueue.cli", "demo"],
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    start.send_signal(signal.SIGCONT)
    assert second.returncode == 64
    assert ".longshore-demo exists already" in second.stderr
    output, _ = start.communicate(timeout=60)
    assert start.returncode == 0, output
