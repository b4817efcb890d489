"""Whose death is certain: only of those whose lock the kernel has freed, on this kernel, in this very file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consumer import lifeline as module
from consumer.lifeline import Lifeline

HOLD = """
import pathlib, subprocess, sys
from consumer.lifeline import Lifeline
line = Lifeline(pathlib.Path(sys.argv[1]), sys.argv[2])
line.hold(sys.argv[3])
if sys.argv[4:]:
    subprocess.Popen(["cat"], stdin=sys.stdin, start_new_session=True)
print("held", flush=True)
sys.stdin.read()
"""

Other = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    """Starts another process that holds a lifeline: the process, its instance."""
    started = []

    def start(place: str = "redis-1", child: bool = False) -> tuple[subprocess.Popen[str], str]:
        instance = uuid.uuid4().hex
        command = [sys.executable, "-c", HOLD, str(tmp_path / "state"), place, instance, *["child"] * child]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process, instance

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Lifeline]:
    found = Lifeline(tmp_path / "state", "redis-1")
    found.hold(uuid.uuid4().hex)
    yield found
    found.release()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_the_dead_are_known_at_once_and_once(line: Lifeline, other: Other) -> None:
    process, instance = other()
    assert line.dead() == []
    kill(process)
    assert line.dead() == line.dead() == [instance]
    line.forget([instance])
    assert line.dead() == []


def test_who_is_stopped_isnt_dead(line: Lifeline, other: Other) -> None:
    process, _ = other()
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert line.dead() == []


def test_who_isnt_reaped_yet_is_dead(line: Lifeline, other: Other) -> None:
    process, instance = other()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert line.dead() == [instance]


def test_another_store_isnt_ours(line: Lifeline, other: Other, tmp_path: Path) -> None:
    process, instance = other("redis-2")
    kill(process)
    assert line.dead() == []
    theirs = Lifeline(tmp_path / "state", "redis-2")
    theirs.hold(uuid.uuid4().hex)
    assert theirs.dead() == [instance]  # and nobody has removed it meanwhile
    theirs.release()


def test_a_copy_proves_nothing(line: Lifeline, other: Other, tmp_path: Path) -> None:
    """Such as an image that was made of a running container."""
    _, instance = other()
    original = tmp_path / "state" / f"{instance}.alive"
    shutil.copy(original, tmp_path / "state" / "copy.alive")
    assert line.dead() == []


def test_another_kernels_file_proves_nothing(line: Lifeline, other: Other, tmp_path: Path) -> None:
    process, instance = other()
    kill(process)
    path = tmp_path / "state" / f"{instance}.alive"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"boot": "another"}))  # the same inode
    assert line.dead() == []
    assert path.exists()
    os.utime(path, (0, time.time() - 2 * 86_400))
    assert line.dead() == []
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"instance": 1}', "x" * 10_000])
def test_odd_files_harm_nobody(line: Lifeline, tmp_path: Path, text: str) -> None:
    (tmp_path / "state" / "odd.alive").write_text(text)
    (tmp_path / "state" / "folder.alive").mkdir()
    (tmp_path / "state" / "link.alive").symlink_to(tmp_path / "state" / "odd.alive")
    assert line.dead() == []


def test_a_child_doesnt_keep_its_parent_alive(line: Lifeline, other: Other) -> None:
    process, instance = other(child=True)
    kill(process)
    assert line.dead() == [instance]


@pytest.mark.parametrize("trouble", ["open to all", "a file", "no boot id"])
def test_without_a_directory_of_our_own_nothing_is_known_and_nothing_fails(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "state"
    if trouble == "open to all":
        directory.mkdir()
        directory.chmod(0o777)
    elif trouble == "a file":
        directory.write_text("")
    else:
        monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "none")
    line = Lifeline(directory, "redis-1")
    line.hold(uuid.uuid4().hex)
    assert line.dead() == []
    line.release()


def test_nothing_is_left_of_who_goes_in_peace(tmp_path: Path) -> None:
    line = Lifeline(tmp_path / "state", "redis-1")
    line.hold(uuid.uuid4().hex)
    assert list((tmp_path / "state").iterdir())
    line.release()
    assert not (tmp_path / "state").exists()


def test_who_goes_and_leaves_what_only_this_machine_can_go_on_with_is_found_by_its_next_consumer(
    tmp_path: Path, line: Lifeline
) -> None:
    bound, instance = Lifeline(tmp_path / "state", "redis-1"), uuid.uuid4().hex
    bound.hold(instance)
    assert line.dead() == []
    bound.release(stay=True)
    assert line.dead() == [instance]
