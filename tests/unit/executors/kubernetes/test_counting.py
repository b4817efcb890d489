"""The shell that counts a step's output, run by this machine's /bin/sh; real pods are in tests/cluster/test_logs.py."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from consumer.executors.counting import counted
from consumer.executors.kubernetes.manifest import build
from consumer.outcome_file import output_in, parse
from consumer.settings import Kubernetes
from enqueue.errors import InvalidJob
from enqueue.job import Job
from enqueue.record import Tally
from support.kubernetes import plan_of


def start(tmp_path: Path, script: str, path: str = "/usr/bin:/bin") -> subprocess.Popen[bytes]:
    (tmp_path / "scratch").mkdir()
    env = {"PATH": path, "TMPDIR": str(tmp_path / "scratch"), "LONGSHORE_OUTCOME": str(tmp_path / "outcome")}
    (tmp_path / "outcome").touch()
    command = counted(["/bin/sh", "-c", script])
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_output_order_and_exit_code_stay_and_the_counts_come_last(tmp_path: Path) -> None:
    process = start(tmp_path, "echo A=1 >$LONGSHORE_OUTCOME; echo one; echo two >&2; printf 'x\\r\\n\\0end'; exit 7")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (7, b"one\ntwo\nx\r\n\0end", b"")
    rest, tally = output_in((tmp_path / "outcome").read_text())
    assert tally == Tally(lines=3, bytes=len(out) - 1)
    assert parse(rest).variables == (("A", "1"),)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_signal_is_passed_on(tmp_path: Path) -> None:
    process = start(tmp_path, "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (5, b"told\n")
    assert output_in((tmp_path / "outcome").read_text())[1] == Tally(lines=2, bytes=8)


def test_death_by_a_signal_is_the_shells_128_and_more_and_leaves_no_word_in_the_log(tmp_path: Path) -> None:
    process = start(tmp_path, "echo hi; kill -9 $$")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (137, b"hi\n", b"")
    assert output_in((tmp_path / "outcome").read_text())[1] == Tally(lines=1, bytes=3)


def test_without_its_tools_the_command_runs_uncounted(tmp_path: Path) -> None:
    process = start(tmp_path, "echo hi; exit 3", path=str(tmp_path))
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, b"hi\n")
    assert (tmp_path / "outcome").read_text() == ""


def test_only_the_last_line_counts() -> None:
    assert output_in("::longshore-output 1 2\nA=1\n") == ("::longshore-output 1 2\nA=1\n", None)
    assert output_in("::longshore-output 1 2\n") == ("", Tally(lines=1, bytes=2))
    assert output_in("x<<E\n\n::longshore-output 12 345\n") == ("x<<E\n", Tally(lines=12, bytes=345))
    assert output_in("a\n::longshore-output 12 x\n")[1] is None


def test_both_steps_of_the_pod_are_wrapped_and_arguments_stay() -> None:
    plan = plan_of(commands=["echo $A"], init={"commands": ["true"]}, count_output=True)
    spec = build(plan, Kubernetes()).pod["spec"]
    for container in (spec["containers"][0], spec["initContainers"][0]):
        assert container["command"][:2] == ["/bin/sh", "-c"]
        assert container["command"][3:5] == ["longshore", "/bin/sh"]
    plan = plan_of(entrypoint=["/report"], args=["$$x"], count_output=True)
    main = build(plan, Kubernetes()).pod["spec"]["containers"][0]
    assert (main["command"][3:], main["args"]) == (["longshore", "/report"], ["$$$$x"])
    with pytest.raises(InvalidJob, match="count_output: needs commands or an entrypoint"):
        Job.load({"image": "a", "args": ["x"], "count_output": True})
