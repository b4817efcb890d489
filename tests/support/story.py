"""One job's story on doubles: what happened to it, in order, and what shall happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from consumer.errors import ClaimLost
from consumer.model import Claim, Exit, Plan, Settlement
from consumer.queues.none import NoRecords
from enqueue.job import Job
from enqueue.record import Outcome, Reason, Record, Where

CLAIM = Claim("j", "q", 1, "t", Job(commands=["true"]), claimed_at=1.0)


@dataclass
class Story:
    """What happened, in order; and what shall happen."""

    steps: list[str] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    lose_writes: bool = False
    refuse_settle: bool = False
    written: list[Record] = field(default_factory=list)
    wrote: asyncio.Event = field(default_factory=asyncio.Event)

    async def writes(self, **wanted: Any) -> Record:
        """Waits until the Record says this."""
        async with asyncio.timeout(30):
            while not self.written or any(getattr(self.written[-1], n) != value for n, value in wanted.items()):
                self.wrote.clear()
                await self.wrote.wait()
        return self.written[-1]


class Double:
    """An executor and its only execution."""

    name = "double"
    silent = False
    trouble: str | None = None
    waiting_for = ""

    def __init__(self, story: Story, *, detachable: bool = False) -> None:
        self.story, self.detachable, self.portable = story, detachable, detachable
        self.where = Where(pod="p")
        self.starts: list[Exception | None] = [None]
        self.problems: list[tuple[Reason, str]] = []
        self.ending: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.output = [b"::set-outcome-var a=1\n", b"hello\n"]
        self.begun = asyncio.Event()
        self.plans: list[Plan] = []

    def end(self, exit: Exit | Exception) -> None:
        if isinstance(exit, Exception):
            self.ending.set_exception(exit)
        else:
            self.ending.set_result(exit)

    def refuse(self, plan: Plan) -> Iterable[tuple[Reason, str]]:
        return self.problems

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def start(self, plan: Plan) -> Double:
        self.story.steps.append("start")
        self.plans.append(plan)
        problem = self.starts.pop(0)
        if problem is not None:
            raise problem
        self.begun.set()
        return self

    async def logs(self, after: str = "") -> AsyncIterator[bytes]:
        for chunk in self.output:
            yield chunk

    def watched(self, seconds: float) -> None:
        pass

    async def started(self) -> float:
        return time.time()

    async def wait(self) -> Exit:
        return await asyncio.shield(self.ending)

    async def stop(self, grace: float) -> None:
        self.story.steps.append("stop")
        if not self.ending.done():
            self.end(Exit(code=143, signal=15, ended_at=2.0))

    async def remove(self, *, failed: bool = False) -> None:
        self.story.steps.append("remove")

    async def detach(self) -> None:
        self.story.steps.append("detach")


class Store(NoRecords):
    def __init__(self, story: Story) -> None:
        self.story = story

    async def write(self, claim: Claim, record: Record) -> None:
        if self.story.lose_writes:
            raise ClaimLost("not ours")
        self.story.steps.append(f"write {record.status.value}")
        self.story.written.append(record)
        self.story.wrote.set()


Run = Callable[..., "asyncio.Task[Outcome | None]"]


class Slow(Double):
    """Its log goes on when it is told to."""

    def __init__(self, story: Story) -> None:
        super().__init__(story, detachable=True)
        self.more: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def logs(self, after: str = "") -> AsyncIterator[bytes]:
        while (chunk := await self.more.get()) is not None:
            yield chunk
