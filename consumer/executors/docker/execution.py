"""One job's containers from the pull to the removal. The engine's word decides; it is told, and asked, by turns."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from consumer.errors import ExecutorFault, Unrunnable
from consumer.executors.docker.container import Containers, Step
from consumer.executors.docker.engine import Engine, EngineError
from consumer.executors.docker.logs import follow
from consumer.executors.docker.news import News
from consumer.executors.docker.outputs import read_outputs
from consumer.executors.docker.told import Told, read_told
from consumer.executors.docker.verdict import Ended, State, exit_of, init_exit, not_started, state_of
from consumer.model import Exit, LogPart, OutputPart, Plan
from consumer.tasks import end
from enqueue.record import Reason, Where

LOOKS_AGAIN = (0.0, 0.1, 0.4, 1.5, 4.0)
"""Seconds before each look at a container of which the engine doesn't know yet that it has begun."""
LOOK_SECONDS = 30.0
"""How often a container is looked at of which nothing is heard."""
SETTLE_FIRST, SETTLE_CAP = 0.02, 1.0
"""Seconds until an engine that has told of an end shows it, doubled each time."""
TAKEN_SECONDS = 5.0
"""So long may whoever created a container take to start it; then it is ours to start."""

Fetch = Callable[[Callable[[str], None]], Awaitable[Containers]]
"""Pulls what is missing, telling what it waits for, and creates the containers."""


class ContainerExecution:
    """The containers of an attempt. Needs `begin` once."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        where: Callable[[], Where],
        containers: Containers,
        *,
        fetch: Fetch | None,
        ours: bool,
        forget: Callable[[], None],
    ) -> None:
        """`fetch`: what creates them, if nobody has. `ours`: nobody else may be about to start them."""
        self._engine, self._plan, self._where, self._containers = engine, plan, where, containers
        self._fetch, self._ours, self._forget = fetch, ours, forget
        self._states: dict[str, State] = {}
        self._missing: set[str] = set()
        self._heard: set[str] = set()
        self._waits = ""
        self._stopped = False
        self._kill_at = math.inf
        self._news = News(plan.id)
        self._task: asyncio.Task[Exit] | None = None
        self._killer: asyncio.Task[None] | None = None

    def begin(self, *known: State) -> None:
        """Go on from what is known."""
        for state in known:
            self._states[state.name] = state
        self._task = asyncio.create_task(self._judge(), name=f"container {self._plan.id}")
        self._task.add_done_callback(self._over)

    @property
    def where(self) -> Where:
        """The engine's machine, and the main container's id once known."""
        state = self._state(self._containers.main)
        where = self._where()
        return where.model_copy(update={"container": state.id[:12]}) if state is not None else where

    @property
    def waiting_for(self) -> str:
        """What keeps it from starting."""
        return "" if self._begun else self._waits

    @property
    def names(self) -> tuple[str, ...]:
        """Of its containers."""
        steps = (self._containers.main, self._containers.init)
        return tuple(step.name for step in steps if step is not None)

    def hear(self, name: str | None = None) -> None:
        """The engine has told something of this container; None: it may have told anything."""
        self._heard.update(self.names if name is None else (name,))
        self._news.tell()

    async def logs(self, after: str = "") -> AsyncGenerator[LogPart, None]:
        """The init step's log, then the main step's."""
        reached = after.partition(" ")[0]
        for kind, step in (("init", self._containers.init), ("main", self._containers.main)):
            if step is None:
                continue
            while not ((state := self._state(step)) is not None and state.begun):
                if self._done or step.name in self._missing:
                    break
                await self._news.changed()
            state = self._state(step)
            if state is None or not state.begun:
                continue
            ended, begin = functools.partial(self._ended, step), after if kind == reached else ""
            parts = follow(self._engine, state.id, kind, ended, self._news.changed, begin)
            async with contextlib.aclosing(parts):
                async for part in parts:
                    yield part

    def outputs(self) -> AsyncIterator[OutputPart]:
        """What the ended main step has left."""
        return read_outputs(self._engine, self._containers.main.name)

    def watched(self, seconds: float) -> None:
        """Its log always comes as it is written."""

    async def started(self) -> float:
        """Waits until the main step runs or has ended. Raises ExecutorFault if it has ended without it."""
        while True:
            state = self._state(self._containers.main)
            if state is not None and state.started_at is not None:
                return state.started_at
            if self._task is not None and self._task.done():
                end = self._task.result()
                if not end.started:
                    raise ExecutorFault(end.message or "it has ended before its start")
                return end.started_at or end.ended_at or time.time()
            await self._news.changed()

    async def wait(self) -> Exit:
        """The Exit. Raises ExecutorFault, ClaimLost."""
        assert self._task is not None
        return await asyncio.shield(self._task)

    async def stop(self, grace: float) -> None:
        """TERM now, KILL after `grace` seconds. Raises EngineError."""
        at = time.monotonic() + grace
        if self._done or (self._stopped and at >= self._kill_at):
            return
        first, self._stopped, self._kill_at = not self._stopped, True, min(self._kill_at, at)
        self._news.tell()
        try:
            if first and grace > 0:
                await self._signal("SIGTERM")
        except BaseException:
            self._stopped, self._kill_at = False, math.inf  # so that it may be asked for again
            raise
        if self._killer is None:
            self._killer = asyncio.create_task(self._kill(), name=f"killer {self._plan.id}")

    async def remove(self, *, failed: bool = False) -> None:
        """Delete the containers and their volumes. Raises EngineError."""
        await self.detach()
        for step in (self._containers.init, self._containers.main):  # the volumes are the main one's
            if step is None:
                continue
            state = self._state(step)
            if state is not None and not state.over:
                await self._engine.kill(state.id, "SIGKILL")  # else some engines wait for its grace
            await self._engine.delete(step.name)

    async def detach(self) -> None:
        """Let go: what runs runs on."""
        self._forget()
        await end(*(task for task in (self._task, self._killer) if task is not None))

    def _state(self, step: Step) -> State | None:
        return self._states.get(step.name)

    @property
    def _begun(self) -> bool:
        state = self._state(self._containers.main)
        return state is not None and state.begun

    @property
    def _done(self) -> bool:
        return self._task is not None and self._task.done()

    @property
    def _init_runs(self) -> bool:
        state = self._state(self._containers.init) if self._containers.init is not None else None
        return state is not None and state.begun and not state.over

    def _ended(self, step: Step) -> bool:
        state = self._state(step)
        return self._done or step.name in self._missing or (state is not None and state.over)

    def _over(self, task: asyncio.Task[Exit]) -> None:
        if not task.cancelled():
            task.exception()  # `wait` tells it to whoever asks
        if self._killer is not None:
            self._killer.cancel()
        self._news.tell()

    async def _judge(self) -> Exit:
        try:
            return await self._verdict()
        except Ended as ended:
            return ended.exit
        except Unrunnable as error:
            return Exit(reason=error.reason, message=str(error), started=False)
        except EngineError as error:
            raise ExecutorFault(str(error), started=self._begun, down=error.down) from None

    async def _verdict(self) -> Exit:
        main = self._containers.main
        if not self._begun:
            await self._start()
        await self._until_over(main)
        state = self._state(main)
        if state is None or main.name in self._missing:
            gone = f"the container {main.name} was removed before its end was seen"
            return Exit(reason=Reason.POD_DELETED, message=gone, started_at=state.started_at if state else None)
        return exit_of(state, await self._told())

    async def _start(self) -> None:
        """Bring the main step up, within the time that a start may take. Raises Ended."""
        starting = asyncio.create_task(self._bring_up())
        until = time.monotonic() + self._plan.start_timeout
        try:
            while not starting.done():
                if self._stopped and not self._init_runs:
                    break
                if (left := until - time.monotonic()) <= 0:
                    break
                news = self._news.next()
                waits: set[asyncio.Future[Any]] = {starting, news}
                await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                await end(news)
            if starting.done():
                return starting.result()
        finally:
            await end(starting)
        await self._news.insist(lambda: self._look(self._containers.main))
        if self._begun:
            return None
        if self._stopped:
            raise Ended(Exit(reason=Reason.POD_DELETED, message="it was stopped before its start", started=False))
        await self._plan.confirm()  # else its new consumer decides
        for name in reversed(self.names):
            await self._engine.delete(name)
        waited = f"not started after {self._plan.start_timeout:g} s: {self._waits or 'the engine starts it'}"
        raise Ended(Exit(reason=Reason.START_TIMEOUT, message=waited, started=False))

    async def _bring_up(self) -> None:
        if self._fetch is not None:
            self._containers = await self._fetch(self._wait_for)
        steps = self._containers
        if steps.init is not None:
            if await self._run(steps.init, "init"):
                self._wait_for("its init step still runs")
            await self._until_over(steps.init)
            state = self._state(steps.init)
            if state is None or steps.init.name in self._missing:
                raise Ended(
                    Exit(reason=Reason.POD_DELETED, message="the init step's container was removed", started=False)
                )
            if state.code != 0:
                raise Ended(init_exit(state, await read_told(self._engine, [steps.init], self._news.insist)))
        if not self._stopped:
            await self._run(steps.main, "main")

    async def _run(self, step: Step, kind: str) -> bool:
        """Start it, once: whoever created it does so; another one only if that one didn't. False: it has run before."""
        await self._news.insist(lambda: self._look(step))
        until = time.monotonic() + TAKEN_SECONDS
        while not self._ours and (state := self._state(step)) is not None and state.fresh:
            if (left := until - time.monotonic()) <= 0:
                break
            self._wait_for("another consumer has created it and is about to start it")
            await self._news.changed(min(left, 0.2))
            await self._news.insist(lambda: self._look(step))
        state, self._ours = self._state(step), True
        if step.name in self._missing or state is None:
            raise ExecutorFault(f"the container {step.name} was removed before its start")
        if not state.fresh:
            return False
        if self._plan.begun:  # only to be found, and stopped: not to be started
            await asyncio.Event().wait()
        for path, archive in step.puts:
            await self._news.insist(functools.partial(self._engine.put, state.id, path, archive))
        await self._plan.confirm()
        try:
            await self._engine.start(state.id)
        except EngineError as error:
            if error.passing or error.ending:  # it may have worked
                return await self._begun_after_all(step, error)
            if (exit := not_started(error, kind)) is not None:
                raise Ended(exit) from None
            raise EngineError(error.status, f"the engine couldn't start the container: {error}") from None
        await self._news.insist(lambda: self._look(step))
        return True

    async def _begun_after_all(self, step: Step, error: EngineError) -> bool:
        """True once the engine knows that it has begun, which may take it a moment; raises the error if it doesn't."""
        for pause in (0.0,) if error.passing else LOOKS_AGAIN:
            await asyncio.sleep(pause)
            await self._news.insist(lambda: self._look(step))
            if (found := self._state(step)) and not found.fresh:
                return True
        if error.passing:
            raise error
        raise ExecutorFault(f"the container {step.name} began and wasn't seen: {error}", started=True) from None

    def _wait_for(self, what: str) -> None:
        if what != self._waits:
            self._waits = what
            self._news.tell()

    async def _until_over(self, step: Step) -> None:
        """Waits until the container has ended or is gone."""
        pause = SETTLE_FIRST
        while not self._ended(step):
            if step.name in self._heard:
                self._heard.discard(step.name)
                pause = SETTLE_FIRST
            await self._news.insist(lambda: self._look(step))
            if self._ended(step):
                return
            await self._news.changed(pause)
            pause = LOOK_SECONDS if pause > SETTLE_CAP else pause * 2

    async def _look(self, step: Step) -> None:
        found = await self._engine.inspect(self._states[step.name].id if step.name in self._states else step.name)
        before = self._state(step)
        if found is None:
            self._missing.add(step.name)
        else:
            self._states[step.name] = state_of(found)
        if found is None or before != self._states[step.name]:
            self._news.tell()

    async def _told(self) -> Told:
        steps = (self._containers.init, self._containers.main)
        there = [step for step in steps if step is not None and step.name not in self._missing]
        return await read_told(self._engine, there, self._news.insist)

    async def _signal(self, signal: str) -> None:
        for step in (self._containers.init, self._containers.main):
            state = self._state(step) if step is not None else None
            if state is not None and state.begun and not state.over:
                await self._engine.kill(state.id, signal)

    async def _kill(self) -> None:
        """KILL when its time has come, again and again until it has ended: `detach` ends this too."""
        while True:
            while (left := self._kill_at - time.monotonic()) > 0:
                await self._news.changed(left)
            with contextlib.suppress(EngineError):
                await self._signal("SIGKILL")
                self.hear()
            await self._news.changed(1.0)
