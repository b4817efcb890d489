"""What only containers do, on the engine that DOCKER_HOST names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import ExecutorFault, SetupError, Unrunnable
from consumer.executors.docker.check import check_engine
from consumer.executors.docker.executor import OURS, DockerExecutor
from consumer.executors.docker.sweep import Sweeper
from consumer.findings import Level
from consumer.kinds import is_collecting
from consumer.model import AttemptKey, Found, Standing, Times
from consumer.queues.none import NoRecords
from consumer.settings import Docker
from enqueue.record import Reason
from support.executors import FOREVER, Harness, opened, read

pytestmark = pytest.mark.docker

NOWHERE = "127.0.0.1:1/none:1"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Harness]:
    async with opened("docker", tmp_path) as harness:
        yield harness


@contextlib.asynccontextmanager
async def other(harness: Harness, **settings: Any) -> AsyncIterator[Harness]:
    """The same engine with other settings."""
    same = harness.executor._settings.model_dump()  # type: ignore[attr-defined]
    executor = DockerExecutor(Docker(**(same | settings)), "other")
    await executor.open()
    made = replace(harness, executor=executor, executions=[])
    try:
        yield made
        for execution in made.executions:
            await execution.remove()
    finally:
        await executor.close()


async def inspected(harness: Harness, name: str) -> dict[str, Any]:
    found = await harness.executor.engine.inspect(name)  # type: ignore[attr-defined]
    assert found is not None
    return dict(found)


async def test_variables_of_both_steps_come_back_and_the_output_is_counted(running: Harness) -> None:
    exit, log = await running.run(
        "echo main=2 >> $LONGSHORE_OUTCOME",
        "echo said",
        init={"commands": ["echo init=1 >> $LONGSHORE_OUTCOME", "echo main=1 >> $LONGSHORE_OUTCOME"]},
        count_output=True,
    )
    assert (exit.code, log) == (0, b"said\n")
    assert dict(exit.variables) == {"init": "1", "main": "2"}
    assert exit.written is not None
    assert (exit.written.lines, exit.written.bytes) == (1, 5)


async def test_lines_come_with_the_times_of_the_engine(running: Harness) -> None:
    before = int(time.time()) * 1000  # some engines tell whole seconds
    execution = await running.start("echo one; echo two", init={"commands": ["echo before"]})
    parts = [part async for part in execution.logs()]
    after = time.time() * 1000
    assert b"".join(part for part in parts if isinstance(part, bytes)) == b"before\none\ntwo\n"
    times = [part for part in parts if isinstance(part, Times)]
    assert sum(part.lines for part in times) == 3
    assert {part.step for part in times} == {"init", "main"}
    assert all(before <= at <= after for part in times for _, at in part.marks)


async def test_the_engine_knows_no_secret(running: Harness) -> None:
    execution = await running.start(
        "echo $TOKEN",
        ": hunter22",
        variables=[{"name": "TOKEN", "value": "hunter22", "sensitive": True}],
        files=[{"path": "key", "contents": "of-a-file"}],
    )
    assert await read(execution) == b"hunter22\n"
    shown = json.dumps(await inspected(running, execution.where.container or ""))
    assert "hunter22" not in shown
    assert "of-a-file" not in shown
    assert (shown.count('"Privileged": false'), shown.count('"User": "65532:65532"')) == (1, 1)


async def test_jobs_cannot_become_more_than_they_are(running: Harness) -> None:
    _, log = await running.run("id -u", "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status", "touch /x 2>&1 || true")
    lines = log.decode().split("\n")
    assert lines[0] == "65532"
    facts = dict(line.split(":\t") for line in lines[1:4])
    assert (int(facts["CapEff"], 16), int(facts["CapBnd"], 16), facts["NoNewPrivs"]) == (0, 0, "1")
    assert "Permission denied" in lines[4]


async def test_read_only_jobs_write_where_they_may(running: Harness) -> None:
    async with other(running, read_only=True, profile="baseline") as strict:
        exit, log = await strict.run(
            "echo x > here; echo x > $HOME/y; echo x > /tmp/z; cat f here; echo a=1 >> $LONGSHORE_OUTCOME; touch /x",
            files=[{"path": "f", "contents": "file\n"}],
            init={"commands": ["echo of init"]},
        )
    assert log.startswith(b"of init\nfile\nx\n")
    assert b"Read-only" in log
    assert (exit.code, exit.variables) == (1, (("a", "1"),))


async def test_a_job_that_uses_up_its_memory_or_processes_is_held(running: Harness) -> None:
    exit, _ = await running.run("x=a; while :; do x=$x$x; done", resources={"limits": {"memory": "24Mi"}})
    assert exit.code == 137
    assert exit.reason in (Reason.OUT_OF_MEMORY, None)  # not every engine tells why
    async with other(running, pids_limit=8) as strict:
        exit, log = await strict.run("for i in 1 2 3 4 5 6 7 8 9; do sleep 30 & done; sleep 30")
    assert exit.code
    assert b"fork" in log


async def test_an_image_that_cannot_be_pulled(running: Harness) -> None:
    async with other(running, image_pull_grace=0) as strict:
        execution = await strict.executor.start(strict.plan(commands=["true"], image=NOWHERE))
        exit = await execution.wait()
        assert (exit.reason, exit.started) == (Reason.IMAGE_PULL, False)
        assert NOWHERE in (exit.message or "")
        with pytest.raises(ExecutorFault):
            await execution.started()
        await execution.remove()
    async with other(running, image_pull_policy="Never") as strict:
        with pytest.raises(Unrunnable, match="no image is pulled here"):
            await strict.executor.start(strict.plan(commands=["true"], image=NOWHERE))
    assert await running.leftovers() == []


async def test_a_pull_that_takes_too_long_can_be_stopped_or_ends_by_itself(running: Harness) -> None:
    execution = await running.executor.start(running.plan(commands=["true"], image=NOWHERE))
    await execution.stop(1)
    assert not (await asyncio.wait_for(execution.wait(), 60)).started
    late = await running.executor.start(replace(running.plan(commands=["true"], image=NOWHERE), start_timeout=0.5))
    exit = await asyncio.wait_for(late.wait(), 60)
    assert (exit.reason, exit.started) == (Reason.START_TIMEOUT, False)
    assert NOWHERE in (exit.message or "")
    await late.remove()


async def test_a_container_that_somebody_removes(running: Harness) -> None:
    execution = await running.executor.start(replace(running.plan(commands=["echo ready", FOREVER]), grace=1))
    running.executions.append(execution)
    reading = asyncio.create_task(read(execution))
    await execution.started()
    await running.executor.engine.delete(execution.where.container)  # type: ignore[attr-defined]
    exit = await asyncio.wait_for(execution.wait(), 60)
    assert exit.started
    assert exit.reason in (Reason.POD_DELETED, None)  # the engine may tell of the kill before it forgets
    await reading


async def test_a_container_that_was_created_and_never_started_is_gone_on_with(
    running: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.executors.docker.execution.TAKEN_SECONDS", 0.3)
    plan = running.plan(
        commands=["cat made"], init={"commands": ["echo 1 >> made"]}, files=[{"path": "f", "contents": ""}]
    )
    executor = running.executor
    _, ours = await executor._create(executor.engine, plan, executor._settings)  # type: ignore[attr-defined]
    assert ours
    execution = await executor.start(plan)
    running.executions.append(execution)
    exit, log = await asyncio.wait_for(asyncio.gather(execution.wait(), read(execution)), 60)
    assert (exit.code, log) == (0, b"1\n")


async def test_what_is_only_looked_for_is_not_started(running: Harness) -> None:
    plan = running.plan(commands=["echo started"])
    executor = running.executor
    await executor._create(executor.engine, plan, executor._settings)  # type: ignore[attr-defined]
    execution = await executor.start(replace(plan, begun=True))
    running.executions.append(execution)
    await execution.stop(0)
    exit = await asyncio.wait_for(execution.wait(), 60)
    assert not exit.started


async def test_stopping_in_the_init_step_ends_it(running: Harness) -> None:
    execution = await running.start("echo main", init={"commands": ["echo init", FOREVER]})
    async for part in execution.logs():
        if part == b"init\n":
            await execution.stop(0)
    exit = await asyncio.wait_for(execution.wait(), 60)
    assert (exit.code, exit.started) in ((137, False), (None, False))


class Standings(NoRecords):
    """A store that says what it is told to."""

    def __init__(self, source: str, say: Callable[[AttemptKey], Standing]) -> None:
        self.source = source
        self._say = say

    async def standing(self, attempts: Sequence[AttemptKey]) -> Sequence[Standing]:
        return [self._say(key) for key in attempts]


async def test_leftovers_are_swept_and_nothing_else(running: Harness) -> None:
    plans = [replace(running.plan(commands=["true"], init={"commands": ["true"]}), source="swept") for _ in range(3)]
    for plan in plans:
        execution = await running.executor.start(plan)
        await execution.wait()
        await execution.detach()
    kept, _, _ = (plan.id for plan in plans)
    held = await running.executor.start(replace(running.plan(commands=[FOREVER]), source="swept"))
    running.executions.append(held)
    await held.started()
    records = Standings("swept", lambda key: Standing.HELD if key.id == kept else Standing.GONE)
    executor = running.executor
    sweeper = Sweeper(executor.engine, OURS, 60, executor._held)  # type: ignore[attr-defined]
    await sweeper.sweep(records)
    assert len(await running.leftovers()) == 7
    await sweeper.sweep(records)
    assert len(await running.leftovers()) == 3
    volumes = await executor.engine._client.volumes.list()  # type: ignore[attr-defined]
    assert len(volumes["Volumes"] or []) >= 3


async def test_an_overdue_container_that_nobody_watches_is_ended(running: Harness) -> None:
    plan = replace(running.plan(commands=[FOREVER]), source="overdue", timeout=-1000)
    execution = await running.executor.start(plan)
    running.executions.append(execution)
    await execution.started()
    records = Standings("overdue", lambda key: Standing.HELD)
    await Sweeper(running.executor.engine, OURS, 60, lambda name: False).sweep(records)  # type: ignore[attr-defined]
    assert (await asyncio.wait_for(execution.wait(), 60)).code == 137


async def test_check_says_what_is_there_and_what_is_missing(running: Harness, tmp_path: Path) -> None:
    good = await check_engine(Docker())
    assert all(finding.level is Level.GOOD for finding in good), good
    config = tmp_path / "config.json"
    config.write_text('{"auths": {"ghcr.io": {}}}')
    bad = await check_engine(
        Docker(network="no-such-net", runtime="none", image=NOWHERE, image_pull_policy="Never", registry_config=config)
    )
    texts = " ".join(finding.text for finding in bad if finding.level is Level.PROBLEM)
    for said in ("no-such-net", "docker.runtime", NOWHERE):
        assert said in texts
    (gone,) = await check_engine(Docker(host=f"unix://{tmp_path}/none.sock"))
    assert gone.level is Level.PROBLEM
    with pytest.raises(ExecutorFault):
        await DockerExecutor(Docker(host=f"unix://{tmp_path}/none.sock"), "x").open()
    with pytest.raises(SetupError, match="registry_config"):
        await DockerExecutor(Docker(registry_config=tmp_path / "none"), "x").open()


async def test_what_the_main_step_leaves_is_handed_over(running: Harness) -> None:
    execution = await running.start(
        'cd "$LONGSHORE_OUTPUTS" && mkdir a && printf one > a/one && ln -s /etc/passwd link && exit 3', outputs={}
    )
    await read(execution)
    assert (await execution.wait()).code == 3
    assert is_collecting(execution)
    found: dict[bytes, bytes] = {}
    name = b""
    async for part in execution.outputs():
        if isinstance(part, Found):
            name = part.name
            found[name] = (part.problem or "").encode()
        else:
            found[name] += part
    assert found == {b"a/one": b"one", b"link": b"not kept: a symbolic link, which isn't followed"}
