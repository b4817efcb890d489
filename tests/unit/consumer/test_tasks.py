"""Work beside a job: what waits for something that thousands of jobs rarely have holds no task meanwhile."""

from __future__ import annotations

import asyncio
import gc
import weakref

from consumer.model import Exit
from consumer.tasks import Beside, OnCall
from enqueue.record import Status
from support.consuming import until
from support.story import Run, Slow, Story


class Work:
    """Counts how often it is done; goes on when it may."""

    def __init__(self) -> None:
        self.begun = self.done = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.begun += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        self.done += 1


def tasks_of(*names: str) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") in names]


async def test_work_that_was_called_for_before_it_began_is_done() -> None:
    work, on_call = Work(), OnCall()
    work.may_end.set()
    on_call.call()
    on_call.begin(work)
    await until(lambda: work.done == 1 and not tasks_of("OnCall._go"))
    on_call.call()
    await until(lambda: work.done == 2 and not tasks_of("OnCall._go"))


async def test_calls_while_the_work_is_done_are_one_more() -> None:
    work, on_call = Work(), OnCall()
    on_call.begin(work)
    assert not tasks_of("OnCall._go")
    on_call.call()
    await until(lambda: work.begun == 1)
    for _ in range(5):
        on_call.call()
    work.may_end.set()
    await until(lambda: not tasks_of("OnCall._go"))
    assert work.done == 2


async def test_work_ends_with_its_first_error_and_when_it_is_ended() -> None:
    work, on_call = Work(), OnCall()
    work.error = ValueError("no more")
    on_call.begin(work)
    on_call.call()
    work.may_end.set()
    await until(lambda: work.begun == 1 and not tasks_of("OnCall._go"))
    on_call.call()
    assert not tasks_of("OnCall._go")
    await on_call.end()
    other, on_call = Work(), OnCall()
    on_call.begin(other)
    on_call.call()
    await until(lambda: other.begun == 1)
    await on_call.end()
    on_call.call()
    assert (other.done, tasks_of("OnCall._go")) == (0, [])


async def test_a_task_beside_a_wait_is_not_held_beyond_its_end() -> None:
    work = Work()
    beside = Beside(work)
    await until(lambda: work.begun == 1)
    task = weakref.ref(tasks_of("Work.__call__")[0])
    work.may_end.set()
    await until(lambda: (gc.collect(), task())[1] is None)
    await beside.end()


async def test_a_job_that_just_runs_holds_no_task_for_what_it_may_say(story: Story, run: Run) -> None:
    executor = Slow(story)
    job = run(executor)
    ours = ("watch", "_tell_changes", "OnCall._go")
    await story.writes(status=Status.RUNNING)
    await until(lambda: not tasks_of(*ours))
    for value in ("1", "2"):
        executor.more.put_nowait(f"::set-outcome-var a={value}\n".encode())
        await story.writes(variables={"a": value})
        await until(lambda: not tasks_of(*ours))
    executor.more.put_nowait(None)
    executor.end(Exit(code=0, ended_at=2.0))
    outcome = await job
    assert outcome is not None
    assert outcome.variables == {"a": "2"}
