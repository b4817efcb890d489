"""Logs of real pods: every byte, over rotations and restarts, or a gap in its place."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator

import pytest

from consumer.executors.kubernetes.execution import PodExecution
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.position import ROTATED
from consumer.logs.pipeline import Pipeline
from consumer.model import Gap, LogPart, Place, Times
from consumer.recording import log_of
from consumer.settings import Kubernetes
from enqueue.record import Tally
from support.cluster import restart, restarts
from support.kubernetes import parts_of, plan_of, read

pytestmark = pytest.mark.cluster


@pytest.fixture
async def executor(kubernetes_settings: Kubernetes) -> AsyncIterator[KubernetesExecutor]:
    executor = KubernetesExecutor(kubernetes_settings, "consumer-1")
    await executor.open()
    yield executor
    await executor.close()


def bytes_of(parts: list[LogPart]) -> bytes:
    return b"".join(part for part in parts if isinstance(part, bytes))


async def some_of(execution: PodExecution, after: str, size: int) -> tuple[bytes, str]:
    """What is new after a place, read until at least `size` bytes of it have come to a further place, or to the end."""
    new, old, reached = b"", bool(after), after
    async with contextlib.aclosing(execution.logs(after)) as parts:
        pending = b""
        async for part in parts:
            assert not isinstance(part, Gap)
            if isinstance(part, Times):
                continue
            if isinstance(part, bytes):
                pending += b"" if old else part
            elif old:
                old = part != Place(after)
            else:
                new, pending, reached = new + pending, b"", part.at
                if len(new) >= size:
                    return new, reached
    return new + pending, reached


async def test_very_short_pods(executor: KubernetesExecutor) -> None:
    async def one(n: int) -> None:
        execution = await executor.start(plan_of(f"short-{n}", commands=[f"echo only {n}"]))
        log, _ = await asyncio.gather(read(execution.logs(), 90), execution.wait())
        await execution.remove()
        assert log == b"only %d\n" % n

    await asyncio.gather(*map(one, range(20)))


async def test_every_byte_as_it_was_written(executor: KubernetesExecutor) -> None:
    """Rows 42, 57 and 58: the init step's log, a line of 1 MB, bytes that are no UTF-8, a last line without newline."""
    commands = [
        "head -c 1000000 /dev/zero | tr '\\0' x; echo",
        "printf 'nul \\000 bad \\377\\376 esc \\033[31m tab\\t\\n\\n'",
        "printf 'crlf\\r\\nno newline \\342\\202'",
        "sleep 1",
    ]
    plan = plan_of(commands=commands, init={"commands": ["printf 'init \\377\\nopen'"]})
    execution = await executor.start(plan)
    log = await read(execution.logs(), 90)
    assert (await execution.wait()).code == 0
    await execution.remove()
    assert log == (
        b"init \xff\nopen" + b"x" * 1_000_000 + b"\n"
        b"nul \x00 bad \xff\xfe esc \x1b[31m tab\t\n\ncrlf\nno newline \xe2\x82"
    )  # a runtime takes the carriage return of a line's end


async def test_readers_that_die_at_random_places(executor: KubernetesExecutor) -> None:
    """Rows 4 and 28: each goes on where the one before it was; nothing is missing, nothing comes twice."""
    commands = ["i=0", "while [ $i -lt 4000 ]; do i=$((i+1)); echo out $i; [ $((i%7)) -gt 0 ] || echo err $i >&2; done"]
    execution = await executor.start(plan_of(commands=[*commands, "sleep 1", "echo end"]))
    await asyncio.wait_for(execution.started(), 60)
    log, place = b"", ""
    for _ in range(12):
        async with asyncio.timeout(60):
            new, place = await some_of(execution, place, random.randrange(1, 8000))
        log += new
    async with asyncio.timeout(60):
        log += (await some_of(execution, place, 10**9))[0]
    await execution.wait()
    whole = await read(execution.logs(), 60)
    await execution.remove()
    assert log == whole
    lines = whole.splitlines()
    assert [line for line in lines if line.startswith(b"out")] == [b"out %d" % i for i in range(1, 4001)]
    assert [line for line in lines if line.startswith(b"err")] == [b"err %d" % i for i in range(7, 4001, 7)]
    assert lines[-1] == b"end"


async def test_rotation(executor: KubernetesExecutor) -> None:
    """Rows 31 to 33: 40 MB, rotated at 10 MiB; one reader stays, one is away for longer than a rotation.

    A kubelet on a busy node may lead the first one past a whole file, without a word.
    """
    write = "awk -v from=%d 'BEGIN { for (i = from; i < from + 70000; i++) printf \"%%07d %%092d\\n\", i, 0 }'; sleep 1"
    commands = [write % first for first in range(0, 420_000, 70_000)]
    plan = plan_of(commands=[*commands, "sleep 12", "echo end"], resources={"limits": {"memory": "64Mi"}})
    execution = await executor.start(plan)
    await asyncio.wait_for(execution.started(), 60)
    head, place = await asyncio.wait_for(some_of(execution, "", 100_000), 60)
    parts, _ = await asyncio.gather(parts_of(execution.logs(), 240), execution.wait())
    numbers = [int(line[:7]) for line in bytes_of(parts).splitlines() if line[:1].isdigit()]
    assert all(b > a for a, b in itertools.pairwise(numbers))  # nothing twice, nothing out of order
    assert len(numbers) == 420_000 or [part for part in parts if isinstance(part, Gap)]
    assert bytes_of(parts).endswith(b"end\n")
    late = await parts_of(execution.logs(place), 60)
    await execution.remove()
    at = late.index(ROTATED)
    tail = [int(line[:7]) for line in bytes_of(late[at:]).splitlines() if line[:1].isdigit()]
    assert tail == list(range(tail[0], 420_000)) if tail else True
    assert not tail or tail[0] > int(head.splitlines()[-1][:7]) + 1
    assert bytes_of(late[at:]).endswith(b"end\n")


@pytest.mark.row(34)
@restarts
async def test_a_kubelet_that_restarts_right_before_its_jobs_end(executor: KubernetesExecutor) -> None:
    """Its connections end as if all were said, and it tells of the ends when it is back."""
    counts = range(20, 80, 6)

    async def one(count: int, running: asyncio.Barrier) -> list[bytes]:
        script = f"i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo line $i; sleep 0.1; done"
        execution = await executor.start(plan_of(f"ends-{count}", commands=[script]))
        parts: list[LogPart] = []
        async for part in execution.logs():
            if isinstance(part, bytes) and not bytes_of(parts):
                await running.wait()
            parts.append(part)
        await execution.wait()
        await execution.remove()
        assert [part for part in parts if isinstance(part, Gap)] == []
        return bytes_of(parts).splitlines()

    running = asyncio.Barrier(len(counts) + 1)
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        reading = [group.create_task(one(count, running)) for count in counts]
        await running.wait()
        await restart("kubelet")
    for count, task in zip(counts, reading, strict=True):
        assert task.result() == [b"line %d" % i for i in range(1, count + 1)]


async def test_a_pod_that_never_started_has_no_log_to_miss(kubernetes_settings: Kubernetes) -> None:
    executor = KubernetesExecutor(kubernetes_settings.model_copy(update={"image_pull_grace": 1.0}), "consumer-1")
    await executor.open()
    try:
        execution = await executor.start(plan_of("no-image", image="127.0.0.1:1/none:1"))
        reading = asyncio.create_task(parts_of(execution.logs()))
        end = await asyncio.wait_for(execution.wait(), 90)
        assert end.reason == "image_pull"
        assert await asyncio.wait_for(reading, 30) == []
        await execution.remove()
    finally:
        await executor.close()


async def test_the_word_on_a_burst_right_before_the_end_is_right(executor: KubernetesExecutor) -> None:
    """A runtime may lose what is written just before a container's end (containerd 1.6 on a busy node does)."""
    burst = "awk 'BEGIN { for (i = 0; i < 30000; i++) printf \"%07d %092d\\n\", i, 0 }'"
    for number in range(2):
        commands = ["sleep 100 &", "printf 'cr\\r\\n'", burst, "exit 4"]  # what it leaves behind isn't waited for
        plan = plan_of(f"burst-{number}", commands=commands, init={"commands": ["echo init"]}, count_output=True)
        execution = await executor.start(plan)
        position, exit = await asyncio.wait_for(
            asyncio.gather(Pipeline([], []).run(execution.logs()), execution.wait()), 120
        )
        await execution.remove()
        assert exit.code == 4
        assert exit.written == Tally(lines=30_002, bytes=30_000 * 101 + 8)
        assert position.read is not None
        log = log_of("", position, written=exit.written)
        missing = 30_002 - position.read.lines
        assert (log.complete, [gap["lines"] for gap in log.gaps if gap["reason"] == "unread"]) == (
            ("gap", [missing]) if missing else ("complete", [])
        )
