"""What is the process executor's own: what it refuses, the host's folders, stragglers, its end."""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from consumer.errors import ExecutorFault, SetupError, Unrunnable
from consumer.executors.process.directory import AttemptDirectory
from consumer.executors.process.execution import exit_of
from consumer.executors.process.executor import ProcessExecutor
from consumer.kinds import is_collecting
from consumer.model import Found, Plan
from consumer.settings import Process
from enqueue.job import Job
from enqueue.record import Reason
from support.executors import Harness, process, read


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with process(tmp_path) as made:
        yield made


def gone(pid: int) -> bool:
    """The process has ended, or does so within seconds: KILL takes the kernel a moment."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 5)[0])
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    ("fields", "begins"),
    [
        ({"secrets": [{"name": "A", "secret": "s", "key": "k"}]}, "secrets:"),
        ({"resources": {"limits": {"cpu": "1"}}}, "resources:"),
        ({"labels": {"a": "b"}}, "labels:"),
        ({"annotations": {"a": "b"}}, "annotations:"),
        ({"service_account": "me"}, "service_account:"),
        ({"files": [{"path": "ok", "contents": ""}, {"path": "/etc/x", "contents": ""}]}, "files[1].path:"),
        ({"commands": [], "args": ["x"], "image": "alpine"}, "args:"),
    ],
)
async def test_refused(harness: Harness, fields: dict[str, object], begins: str) -> None:
    ((_, sentence),) = harness.executor.refuse(harness.plan(**{"commands": ["true"], **fields}))
    assert sentence.startswith(begins)


async def test_images_are_ignored_and_that_is_said_once(harness: Harness) -> None:
    with capture_logs() as logged:
        for _ in range(3):
            assert (await harness.run("true", image="alpine:3"))[0].code == 0
    assert [entry["image"] for entry in logged] == ["alpine:3"]


async def test_a_job_that_has_begun_is_never_started_again(harness: Harness) -> None:
    with pytest.raises(ExecutorFault, match="another host") as caught:
        await harness.executor.start(replace(harness.plan(commands=["true"]), begun=True))
    assert (caught.value.reason, caught.value.started) == (Reason.CONSUMER_LOST, True)


async def test_the_private_directory_is_private(harness: Harness, tmp_path: Path) -> None:
    _, log = await harness.run("pwd", "echo $HOME", "echo $TMPDIR", "touch $HOME/x $TMPDIR/y")
    job = tmp_path / "jobs" / (await harness.leftovers())[0]
    assert log.decode().split() == [str(job / name) for name in ("work", "home", "tmp")]
    assert job.stat().st_mode & 0o777 == 0o700


async def test_a_folder_of_the_host(harness: Harness, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "theirs").write_text("theirs\n")
    file = {"path": "in/ours", "contents": "ours\n"}
    execution = await harness.start("cat theirs in/ours", "touch left", workdir=str(host), files=[file])
    assert await read(execution) == b"theirs\nours\n"
    await execution.remove()
    assert sorted(path.name for path in host.iterdir()) == ["left", "theirs"]
    for fields, problem in (
        ({"workdir": str(host / "missing")}, "workdir:"),
        ({"workdir": str(host / "theirs")}, "workdir:"),
        ({"workdir": str(host), "files": [{"path": "theirs", "contents": ""}]}, "files: theirs exists already"),
        ({"files": [{"path": "a", "contents": ""}, {"path": "a/b", "contents": ""}]}, "files: a/b"),
    ):
        with pytest.raises(Unrunnable, match=problem) as caught:
            await harness.start("true", **fields)
        assert caught.value.reason is Reason.CONFIG_ERROR
    assert (host / "theirs").read_text() == "theirs\n"
    assert await harness.leftovers() == []


async def test_a_signal_is_named(harness: Harness) -> None:
    exit, _ = await harness.run("kill -SEGV $$")
    assert (exit.code, exit.signal, exit.reason, exit.message) == (139, 11, Reason.SIGNAL, "killed by SIGSEGV")


async def test_what_the_job_leaves_behind_is_killed(harness: Harness) -> None:
    exit, log = await harness.run("(trap '' TERM HUP; sleep 1000) & echo $!", "exit 5")
    assert exit.code == 5
    assert gone(int(log))


async def test_what_left_the_session_is_killed_too(harness: Harness) -> None:
    daemon = "setsid sh -c '(sleep 1000 & echo $!; echo $$; touch up; exec sleep 1000)' &"
    exit, log = await harness.run(daemon, "until test -e up; do sleep 0.01; done", "exit 6")
    assert exit.code == 6
    assert [gone(int(pid)) for pid in log.split()] == [True, True]


async def test_stopped_in_the_init_step(harness: Harness) -> None:
    execution = await harness.start("echo main", init={"commands": ["echo init", "sleep 1000"]})
    log = b""
    async for chunk in execution.logs():
        log += chunk if isinstance(chunk, bytes) else b""
        await execution.stop(10)
    exit = await execution.wait()
    assert (exit.reason, exit.signal, exit.started) == (Reason.INIT_FAILED, 15, False)
    assert log == b"init\n"


async def test_stopped_before_it_started(harness: Harness) -> None:
    init = ["trap 'exit 0' TERM", "echo init", "while :; do sleep 0.05; done"]
    execution = await harness.start("echo main", init={"commands": init})
    log = b""
    async for chunk in execution.logs():
        log += chunk if isinstance(chunk, bytes) else b""
        await execution.stop(10)
    exit = await execution.wait()
    assert (exit.reason, exit.message, exit.started) == (Reason.START_ERROR, "stopped before it started", False)
    assert b"main" not in log


async def test_a_second_stop_may_hurry(harness: Harness) -> None:
    execution = await harness.start("trap '' TERM", "echo ready", "while :; do sleep 0.1; done")
    async for _ in execution.logs():
        await execution.stop(100)
        await execution.stop(0)
    assert (await execution.wait()).signal == 9


async def test_no_process_to_be_had_is_no_fault_of_the_job(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(ExecutorFault, match="can't start a process") as caught:
        await harness.start("true")
    assert not caught.value.started
    assert await harness.leftovers() == []
    ending = {"end": "main", "errno": errno.EAGAIN, "error": "Resource temporarily unavailable", "at": 1.0}
    with pytest.raises(ExecutorFault, match="temporarily") as caught:
        exit_of(ending, None, harness.plan(commands=["true"]))
    assert not caught.value.started


async def test_too_much_environment_names_the_command(harness: Harness) -> None:
    exit, _ = await harness.run("true", env={"A": "x" * 900_000})
    assert exit.reason is Reason.START_ERROR
    assert exit.message == "can't start /bin/sh: argument list too long"


async def test_close_ends_what_runs_and_removes_its_directory() -> None:
    executor = ProcessExecutor(Process(detach=False), "tester")
    assert not executor.detachable
    await executor.open()
    job = Job.load({"commands": ["echo $HOME", "sleep 1000"]})
    execution = await executor.start(Plan("a/../b", "q", 1, "tester", job, None, 60, 10))
    home = Path((await anext(aiter(execution.logs()))).decode().strip())
    assert home.is_dir()  # noqa: ASYNC240
    await executor.close()
    assert (await execution.wait()).signal == 9
    assert not home.parent.parent.exists()
    with pytest.raises(SetupError):
        await executor.start(Plan("b", "q", 1, "tester", job, None, 60, 10))


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"process\.directory"):
        await ProcessExecutor(Process(directory=tmp_path / "file" / "x"), "tester").open()


async def test_no_descriptors_are_left(harness: Harness) -> None:
    await harness.run("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await harness.run("true")
        unread = await harness.start("yes | head -n 1000")
        await unread.wait()
    await asyncio.gather(*(execution.remove() for execution in harness.executions))
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_deep_trees_are_removed(harness: Harness) -> None:
    execution = await harness.start(f"mkdir -p {'d/' * 1500}")
    assert (await execution.wait()).code == 0
    await execution.remove()
    assert await harness.leftovers() == []


async def test_a_job_is_seen_to_its_end_when_files_run_out(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_more)
    plan = harness.plan(commands=["echo one; sleep 0.05; echo two; exit 3"])
    await (await harness.executor.start(plan)).detach()
    adopted = await harness.executor.start(plan)
    exit, log = await asyncio.gather(adopted.wait(), read(adopted))
    assert (exit.code, log) == (3, b"one\ntwo\n")


def test_only_a_regular_file_is_an_outcome(tmp_path: Path) -> None:
    """A named pipe in its place would hold up the consumer itself, with all its jobs."""
    directory, place = AttemptDirectory(tmp_path, {"workdir": ""}), tmp_path / "outcome"
    assert directory.outcome(4) == b""
    (tmp_path / "other").write_text("name=value")
    place.symlink_to(tmp_path / "other")
    assert directory.outcome(4) == b""
    (tmp_path / "other").rename(place)
    assert directory.outcome(4) == b"value"
    place.unlink()
    os.mkfifo(place)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(directory.outcome, 4)
        try:
            assert asked.result(5) == b""
        finally:  # whoever still waits there goes on
            os.close(os.open(place, os.O_RDWR | os.O_NONBLOCK))


async def test_outputs_are_a_folder_and_nothing_that_the_job_put_in_its_place(harness: Harness) -> None:
    for command in ("ln -s /etc", "touch", "true"):
        execution = await harness.start(f'rm -r "$LONGSHORE_OUTPUTS"; {command} "$LONGSHORE_OUTPUTS"', outputs=True)
        assert (await execution.wait()).code == 0
        assert is_collecting(execution)
        [found] = [part async for part in execution.outputs()]
        assert isinstance(found, Found)
        assert (found.name, found.problem) == (b"", "not kept: the folder was removed, or replaced by something else")
