"""One job on this host as its consumer sees it: what its shim writes down, and the log."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from consumer.errors import ExecutorFault
from consumer.executors.process.directory import AttemptDirectory
from consumer.executors.process.journal import Journal, kill_leftovers
from consumer.executors.process.leavings import read_files
from consumer.executors.process.notify import Notifier
from consumer.executors.process.output import Output
from consumer.executors.process.request import NOT_STARTABLE
from consumer.model import Exit, LogPart, OutputPart, Plan, signal_name
from consumer.outcome_file import CAP, parse
from consumer.tasks import end
from enqueue.record import Reason, Tally, Where

LOOK_SECONDS = 0.2
"""How often a shim is looked for where the kernel can't tell of its end."""


class ProcessExecution:
    """A job that a shim keeps, started or found. `link`: the shim's socket, if we started it."""

    def __init__(
        self,
        plan: Plan,
        directory: AttemptDirectory,
        journal: Journal,
        where: Where,
        notifier: Notifier,
        forget: Callable[[], None],
        link: socket.socket | None = None,
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._journal = journal
        self._where = where
        self._forget = forget
        self._output = Output(directory.path / "log", journal)
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[float] = loop.create_future()
        self._ended: asyncio.Future[Exit] = loop.create_future()
        self._unwatch = notifier.watch(directory.path, self._changed)
        self._task: asyncio.Task[None] | None = None
        self._handle = link.detach() if link is not None else journal.gone_handle()
        self._read()
        if self._handle is not None:
            loop.add_reader(self._handle, self._gone)
        elif not self._ended.done():
            self._task = asyncio.create_task(self._look(), name=f"process {plan.id}")

    @property
    def where(self) -> Where:
        """This host."""
        return self._where

    waiting_for = ""
    """A process starts at once."""

    log_lasts = True
    """It is a file; of what exceeds `process.output_bytes` the shim keeps count."""

    def logs(self, after: str = "") -> AsyncIterator[LogPart]:
        """The output until its end."""
        return self._output.read(after)

    def outputs(self) -> AsyncIterator[OutputPart]:
        """What the job left in its directory for them."""
        return read_files(self._directory.path / "outputs")

    def watched(self, seconds: float) -> None:
        """Its log always comes as it is written."""

    async def started(self) -> float:
        """Waits for the main step's start (or the end)."""
        return await asyncio.shield(self._started)

    async def wait(self) -> Exit:
        """Waits until the job and all that it started have ended. Raises ExecutorFault."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> None:
        """TERM to the step's group; returns at once, KILL follows after `grace` seconds. A later call may hurry it."""
        if not self._ended.done():
            self._directory.tell(f"stop {grace:g}\n")

    async def remove(self, *, failed: bool = False) -> None:
        """Delete the private directory; what still runs is killed first."""
        await self.stop(0)
        await asyncio.gather(asyncio.shield(self._ended), return_exceptions=True)
        await self.detach()
        await asyncio.to_thread(self._directory.remove)

    async def detach(self) -> None:
        """Let go: shim and job go on."""
        self._unwatch()
        self._forget()
        self._unlink()
        if self._task is not None:
            await end(self._task)
        self._journal.close()

    def _changed(self, name: str) -> None:
        if name in ("journal", ""):
            self._read()
        if name in ("log", ""):
            self._output.changed()

    def _read(self) -> None:
        """What the journal tells."""
        self._journal.read()
        began, ending = self._journal.started_at, self._journal.end
        if began is not None and not self._started.done():
            self._started.set_result(began)
        if ending is not None and not self._ended.done():
            self._finish(ending, began)

    def _finish(self, ending: dict[str, Any], began: float | None) -> None:
        try:
            exit = exit_of(ending, began, self._plan)
            said = self._directory.outcome(CAP)
            told = parse(said[-CAP:], cut=len(said) > CAP)
            written = Tally(lines=ending["output"][0], bytes=ending["output"][1]) if "output" in ending else None
            told_exit = replace(exit, variables=told.variables, progress=told.progress, note=told.note, written=written)
            self._end(told_exit)
        except ExecutorFault as fault:
            self._ended.set_exception(fault)
            self._ended.exception()  # `wait` tells it to whoever asks
            self._over()

    def _end(self, exit: Exit) -> None:
        self._ended.set_result(exit)
        self._over()

    def _over(self) -> None:
        self._output.ended()
        if not self._started.done():
            self._started.set_result(time.time())

    def _unlink(self) -> None:
        if self._handle is not None:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._handle = None

    def _gone(self) -> None:
        """The shim has ended. Should it not have told the job's end, it was killed."""
        self._unlink()
        self._read()
        if not self._ended.done():
            self._task = asyncio.create_task(self._lost(), name=f"process {self._plan.id} lost")

    async def _look(self) -> None:
        """The same where the kernel can't tell of its end."""
        while not self._ended.done() and self._journal.kept:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        self._read()
        if not self._ended.done():
            await self._lost()

    async def _lost(self) -> None:
        if self._journal.rebooted:
            reason, message = Reason.NODE_LOST, "the host was restarted while the job ran"
        else:
            await asyncio.to_thread(kill_leftovers, self._directory.path)
            reason, message = Reason.EXECUTOR_ERROR, "the process that kept the job was killed, and the job with it"
        self._end(Exit(reason=reason, message=message, started_at=self._journal.started_at, ended_at=time.time()))


def exit_of(ending: dict[str, Any], began: float | None, plan: Plan) -> Exit:
    """The journal's last line as an Exit. Raises ExecutorFault if the host couldn't start a process."""
    step, at = ending["end"], float(ending["at"])
    code, signal = ending.get("code"), ending.get("signal")
    if "error" in ending:
        number, what = ending.get("errno"), ending.get("what")
        problem = ending["error"]
        if number is not None and number not in NOT_STARTABLE:
            raise ExecutorFault(f"can't start a process: {problem}")
        message = f"can't start {what}: {str(problem).lower()}" if number is not None else problem
    else:
        message = f"killed by {signal_name(signal)}" if signal else f"exited with code {code}"
    if ending.get("why") == "deadline":
        return Exit(
            code=code, signal=signal, reason=Reason.DEADLINE, started_at=began, ended_at=at,
            message=f"ran longer than its timeout of {plan.timeout:g} s, while no consumer was there",
        )  # fmt: skip
    if ending.get("why") == "term":
        return Exit(
            code=code, signal=signal, reason=Reason.CONSUMER_STOPPED, started_at=began, ended_at=at,
            message="the process that keeps the job was told to end it", started=began is not None,
        )  # fmt: skip
    if step == "init" and "error" not in ending:
        return Exit(
            code=code, signal=signal, reason=Reason.INIT_FAILED, message=f"init step: {message}", ended_at=at,
            started=False,
        )  # fmt: skip
    if "error" in ending:
        reason = Reason.INIT_FAILED if step == "init" and ending.get("errno") is not None else Reason.START_ERROR
        message = f"init step: {message}" if reason is Reason.INIT_FAILED else message
        return Exit(reason=reason, message=message, ended_at=at, started=False)
    return Exit(
        code=code, signal=signal, reason=Reason.SIGNAL if signal else None, message=message if signal else None,
        started_at=began, ended_at=at,
    )  # fmt: skip
