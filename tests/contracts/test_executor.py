"""What every executor does, whatever it runs jobs with. Only ports, and commands that busybox knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enqueue.record import Reason
from support.executors import FOREVER, Harness, named, opened, read


@pytest.fixture(params=named())
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    """Every executor."""
    async with opened(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=named("null"))
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    """Every executor that runs commands."""
    async with opened(request.param, tmp_path) as made:
        yield made


async def test_success(harness: Harness) -> None:
    before = time.time()
    exit, log = await harness.run("echo hello")
    assert (exit.code, exit.signal, exit.reason) == (0, None, None)
    assert exit.started
    assert exit.started_at is not None
    assert exit.ended_at is not None
    assert before - 2 <= exit.started_at <= exit.ended_at <= time.time() + 2
    assert log == (b"hello\n" if harness.runs else b"")


async def test_where(harness: Harness) -> None:
    execution = await harness.start("true")
    await execution.wait()
    assert execution.where.executor == harness.executor.name


async def test_nothing_is_refused_without_need(harness: Harness) -> None:
    assert not list(harness.executor.refuse(harness.plan(commands=["true"], env={"A": "1"})))


async def test_wait_and_stop_and_remove_twice(harness: Harness) -> None:
    execution = await harness.start("true")
    assert await execution.started() > 0
    await read(execution)
    assert await execution.wait() == await execution.wait()
    await execution.stop(1)
    await execution.stop(1)
    assert (await execution.wait()).code == 0
    await execution.remove()
    await execution.remove()
    assert await harness.leftovers() == []


async def test_exit_code_and_stop_at_the_first_failure(running: Harness) -> None:
    exit, log = await running.run("echo one", "(exit 42)", "echo two")
    assert (exit.code, exit.signal, exit.started) == (42, None, True)
    assert log == b"one\n"


async def test_commands_are_one_script(running: Harness) -> None:
    exit, log = await running.run(
        "cd /",
        "X=1",
        "cat <<EOT\nheredoc\nEOT",
        "pwd # a comment",
        "sleep 1000 &",
        "for i in a b; do",
        "echo $i$X",
        "done",
    )
    assert exit.code == 0
    assert log == b"heredoc\n/\na1\nb1\n"


async def test_stdout_and_stderr_keep_their_order(running: Harness) -> None:
    lines = [f"echo {i}{' >&2' if i % 2 else ''}" for i in range(50)]
    _, log = await running.run(*lines)
    numbers = [int(number) for number in log.split()]
    for stream in [range(50)] if running.one_stream else [range(0, 50, 2), range(1, 50, 2)]:
        assert [number for number in numbers if number in stream] == list(stream)
    assert len(numbers) == 50


async def test_entrypoint_and_args_run_without_a_shell(running: Harness) -> None:
    exit, log = await running.run(entrypoint=["echo", "$HOME"], args=["a b", "*"])
    assert exit.code == 0
    assert log == b"$HOME a b *\n"


async def test_shell_with_options(running: Harness) -> None:
    _, log = await running.run("echo $-", shell="/bin/sh -u")
    assert b"u" in log
    assert b"e" in log


async def test_started_comes_before_the_end(running: Harness) -> None:
    execution = await running.start("echo ready", FOREVER)
    reading = asyncio.create_task(read(execution))
    started = await asyncio.wait_for(execution.started(), 60)
    assert abs(time.time() - started) < 60
    await execution.stop(0)
    exit = await asyncio.wait_for(execution.wait(), 60)
    assert exit.started_at == pytest.approx(started, abs=2)
    await reading


async def test_stop_lets_a_job_end_by_itself(running: Harness) -> None:
    execution = await running.start("trap 'echo bye; exit 3' TERM", "echo ready", FOREVER)
    log = b""
    async for chunk in execution.logs():
        log += chunk if isinstance(chunk, bytes) else b""
        if log == b"ready\n":
            await execution.stop(30)
            await execution.stop(30)
    assert log.startswith(b"ready\n")
    assert log.endswith(b"bye\n")  # some shells say "Terminated" of their own children between
    assert (await execution.wait()).code == 3


async def test_stop_kills_what_ignores_it(running: Harness) -> None:
    execution = await running.start("trap '' TERM", "echo ready", FOREVER)
    stopped_at = 0.0
    async for _ in execution.logs():
        if not stopped_at:
            stopped_at = time.monotonic()
            await execution.stop(1)
    exit = await asyncio.wait_for(execution.wait(), 60)
    assert exit.code == 137
    assert time.monotonic() - stopped_at >= 0.9


async def test_files_and_their_modes(running: Harness) -> None:
    files = [
        {"path": "run.sh", "contents": "#!/bin/sh\necho ran $1\n", "mode": "0755"},
        {"path": "deep/er/data.txt", "contents": "čaj\nno newline", "mode": "0640"},
        {"path": "empty", "contents": ""},
    ]
    exit, log = await running.run("./run.sh x", "cat deep/er/data.txt", "echo", "wc -c < empty", files=files)
    assert exit.code == 0, log
    assert log.decode().replace(" ", "") == "ranx\nčaj\nnonewline\n0\n"
    exit, log = await running.run("stat -L -c %a run.sh", files=files)
    assert log.strip() in (b"755", b"775")


async def test_the_folders_of_files_can_be_written_to(running: Harness) -> None:
    exit, log = await running.run(
        "touch a/new a/b/new; mkdir a/more; mv a/new a/more/; find a | sort",
        files=[{"path": "a/b/c", "contents": "c"}],
        init={"commands": ["echo x > a/b/from-init"]},
    )
    assert exit.code == 0, log
    assert log.decode().split() == ["a", "a/b", "a/b/c", "a/b/from-init", "a/b/new", "a/more", "a/more/new"]


async def test_environment_and_variables(running: Harness) -> None:
    exit, log = await running.run(
        'printf \'%s|\' "$PLAIN" "$SECRET" "$MAIN" "${INIT-<none>}" "$LONGSHORE_ATTEMPT" "$LONGSHORE_QUEUE"',
        'test -d "$HOME" && test -w "$HOME" && test -n "$PATH" && echo $LONGSHORE_JOB_ID',
        env={"PLAIN": "a 'b' \"c\" $d\nsecond"},
        variables=[
            {"name": "SECRET", "value": "p w\n", "sensitive": True},
            {"name": "MAIN", "value": "m", "scope": "main"},
            {"name": "INIT", "value": "i", "scope": "init"},
        ],
    )
    assert exit.code == 0, log
    head, _, last = log.decode().rpartition("|")
    assert head == "a 'b' \"c\" $d\nsecond|p w\n|m|<none>|1|contract"
    assert last.startswith(f"{running.name}-job-")


async def test_nothing_of_the_consumer_is_inherited(running: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSHORE_QUEUE_URL", "redis://user:password@host")
    monkeypatch.setenv("SOME_SECRET", "password")
    _, log = await running.run("env", "ls /proc/self/fd | wc -l")
    assert b"password" not in log
    assert b"QUEUE_URL" not in log
    assert int(log.split()[-1]) <= 4  # 0, 1, 2 and what `ls` reads


async def test_secrets_are_not_in_the_process_list(running: Harness) -> None:
    _, log = await running.run(
        "tr '\\0' ' ' < /proc/$$/cmdline",
        ": $TOKEN",
        variables=[{"name": "TOKEN", "value": "hunter22", "sensitive": True}],
    )
    assert log
    assert b"hunter22" not in log


async def test_relative_workdir(running: Harness) -> None:
    _, log = await running.run("pwd", "cat f", workdir="some/where", files=[{"path": "f", "contents": "here\n"}])
    where, here = log.decode().splitlines()
    assert where.endswith("/some/where")
    assert here == "here"


async def test_init_runs_first_in_the_same_place_and_log(running: Harness) -> None:
    variables = [{"name": "INIT", "value": "i", "scope": "init"}, {"name": "MAIN", "value": "m", "scope": "main"}]
    exit, log = await running.run(
        "cat made given",
        "echo ${INIT-<none>}",
        init={"commands": ["echo from init $INIT ${MAIN-<none>}", "echo made > made"]},
        variables=variables,
        files=[{"path": "given", "contents": "given\n"}],
    )
    assert exit.code == 0, log
    assert log == b"from init i <none>\nmade\ngiven\n<none>\n"


async def test_init_that_fails(running: Harness) -> None:
    exit, log = await running.run("echo main", init={"commands": ["echo init", "exit 7"]})
    assert exit.reason is Reason.INIT_FAILED
    assert "7" in (exit.message or "")
    assert not exit.started
    assert log == b"init\n"


async def test_large_output(running: Harness) -> None:
    """Less than what a node rotates away: what a rotation may take is tested with the logs of pods."""
    line = "0123456789" * 9 + "012345678"
    exit, log = await running.run(f"yes {line} | head -n 60000", running.last)
    assert exit.code == 0
    other = [(n, found[:200]) for n, found in enumerate(log.split(b"\n")) if found != line.encode()]
    assert (len(log), other) == (6_000_000, [(60_000, b"")])


async def test_no_newline_at_the_end(running: Harness) -> None:
    _, log = await running.run("printf 'a\\nb'")
    assert log == b"a\nb"


async def test_bytes_that_are_no_text(running: Harness) -> None:
    _, log = await running.run("printf '\\377\\000\\r\\033[1mx\\n'")
    assert log == b"\xff\x00\r\x1b[1mx\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"entrypoint": ["/nowhere/program"]},
        {"entrypoint": ["no-such-program"]},
        {"commands": ["true"], "shell": "/nowhere/program"},
    ],
    ids=["path", "name", "shell"],
)
async def test_what_cannot_be_started(running: Harness, fields: dict[str, object]) -> None:
    exit, log = await running.run(**fields)
    assert exit.reason is Reason.START_ERROR
    assert not exit.started
    assert "program" in (exit.message or "")
    assert log == b""


async def test_remove_leaves_nothing(running: Harness) -> None:
    execution = await running.start("mkdir -p a/b", "echo x > a/b/c", "chmod 500 a/b a", "ln -s / root")
    await read(execution)
    assert (await execution.wait()).code == 0
    assert await running.leftovers() != []
    await execution.remove()
    assert await running.leftovers() == []


async def test_start_twice_is_one_execution(running: Harness) -> None:
    plan = running.plan(commands=["echo once"])
    first, second = await running.executor.start(plan), await running.executor.start(plan)
    running.executions += [first, second]
    assert await read(first) == b"once\n"
    assert (await second.wait()).code == 0


async def test_a_reader_that_goes_away_does_not_hold_up_the_job(running: Harness) -> None:
    execution = await running.start("echo ready", "yes 0123456789 | head -n 300000")
    ready = asyncio.Event()

    async def reader() -> None:
        async for _ in execution.logs():
            ready.set()

    task = asyncio.create_task(reader())
    await asyncio.wait_for(ready.wait(), 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await asyncio.wait_for(execution.wait(), 60)).code == 0


async def test_a_cancelled_wait_changes_nothing(running: Harness) -> None:
    execution = await running.start("echo ready", FOREVER)
    waiting = asyncio.create_task(execution.wait())
    async for _ in execution.logs():
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await execution.stop(0)
    assert (await asyncio.wait_for(execution.wait(), 60)).code == 137


async def test_many_at_a_time(harness: Harness) -> None:
    results = await asyncio.gather(*(harness.run(f"echo {i}") for i in range(20)))
    assert [exit.code for exit, _ in results] == [0] * 20
    if harness.runs:
        assert [int(log) for _, log in results] == list(range(20))
