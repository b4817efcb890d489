"""An event loop on virtual time: when nothing is ready, its clock jumps to the next timer. No I/O, no threads.

The same seed gives the same run, whatever the machine does meanwhile: time, `random` and `uuid4` come from here, and
tasks and futures are hashed by their numbers, so that sets of them have an order.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

EPOCH = 1_800_000_000.0
"""Seconds since the epoch at a simulation's start."""
STEPS = 2_000_000
"""Callbacks of one simulation at most: more is a hot loop."""


class Process:
    """What stands for an operating system process: all that runs in its context can be paused, and ended."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = self.dead = False
        self.held: list[asyncio.Handle] = []
        """What became due while it was paused."""
        self.tasks: list[asyncio.Task[Any]] = []

    def kill(self, loop: VirtualLoop) -> None:
        """Nothing of it gets out any more (see Wire); then what is left of it is unwound."""
        self.dead = True
        self.resume(loop)
        for task in self.tasks:
            task.cancel()

    def resume(self, loop: VirtualLoop) -> None:
        """It goes on where it was, with all that came meanwhile."""
        self.paused = False
        held, self.held = self.held, []
        loop._ready.extend(held)  # type: ignore[attr-defined]


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
"""Whose code runs; None: that of servers, and of the simulation itself."""


class Stuck(Exception):
    """Nothing will ever happen again, or things happen without end."""


class _Numbered:
    """Hashed by a number: the address of an object isn't the same in two runs."""

    _count = itertools.count()

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        made = super().__new__(cls)
        made._number = next(_Numbered._count)
        return made

    def __hash__(self) -> int:
        return self._number  # type: ignore[attr-defined, no-any-return]


class _Task(_Numbered, asyncio.Task):  # type: ignore[type-arg]
    pass


class _Future(_Numbered, asyncio.Future):  # type: ignore[type-arg]
    pass


def _task(loop: Any, coro: Any, **named: Any) -> Any:
    made = _Task(coro, loop=loop, **named)
    context = named.get("context")
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        if len(process.tasks) > 200:
            process.tasks = [task for task in process.tasks if not task.done()]
        process.tasks.append(made)
        if process.dead:
            made.cancel()
    return made


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs handles in order of their times, and of their making within one moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self.ended: BaseException | None = None
        """Set: the run is over, and why."""
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self.set_task_factory(_task)

    def time(self) -> float:
        return self.now

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Of two at one moment the one that was asked for first comes first."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (max(when, self.now), next(self._order), timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def later(self, seconds: float, call: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        """Call it as the world does: no pause of a process holds it up."""
        return self.call_later(seconds, call, *arguments, context=WORLD)

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """Signals are the simulation's own affair."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        raise AssertionError(f"{func} wants a thread: it would run on real time")

    def _process_events(self, event_list: Any) -> None: ...

    def _write_to_self(self) -> None: ...

    def _run_once(self) -> None:
        if self.ended is not None:
            raise self.ended
        timers, ready = self._timers, self._ready  # type: ignore[attr-defined]
        while timers and not ready:
            self.now, _, timer = heapq.heappop(timers)
            if not timer._cancelled:
                ready.append(timer)
        while timers and timers[0][0] <= self.now:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                ready.append(timer)
        if not ready:
            raise Stuck("nothing is left to happen")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None and process.paused:
                process.held.append(handle)
                continue
            self.steps += 1
            handle._run()
        if self.steps > STEPS:
            raise Stuck(f"more than {STEPS} steps")


WORLD = contextvars.Context()


@contextlib.contextmanager
def virtual(seed: int) -> Iterator[VirtualLoop]:
    """A loop whose time, chance and names are all that the code under it gets to see."""
    _Numbered._count = itertools.count()
    loop, chance = VirtualLoop(), random.Random(seed)
    before = {name: getattr(time, name) for name in ("time", "time_ns", "monotonic", "perf_counter", "clock_gettime")}
    uuid4, state = uuid.uuid4, random.getstate()
    random.seed(seed)
    time.time = lambda: EPOCH + loop.now
    time.time_ns = lambda: int((EPOCH + loop.now) * 10**9)
    time.monotonic = time.perf_counter = lambda: loop.now
    time.clock_gettime = lambda clock: loop.now
    uuid.uuid4 = lambda: uuid.UUID(int=chance.getrandbits(128), version=4)
    try:
        yield loop
    finally:
        for name, real in before.items():
            setattr(time, name, real)
        uuid.uuid4 = uuid4
        random.setstate(state)
        loop._ready.clear()  # type: ignore[attr-defined]
        loop._timers.clear()
        loop.close()
