"""Jobs as processes of this host: no isolation, no images; for trying things out and for trusted jobs."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

import structlog

from consumer.errors import ExecutorFault, SetupError, Unrunnable
from consumer.executors.process.base import open_base
from consumer.executors.process.directory import AttemptDirectory, ended, name_of
from consumer.executors.process.execution import ProcessExecution
from consumer.executors.process.journal import Journal
from consumer.executors.process.notify import Notifier
from consumer.executors.process.request import request_of
from consumer.executors.process.shim import HELD, KEPT
from consumer.executors.process.spawner import Spawner
from consumer.model import Plan, Standing
from consumer.ports import Records
from consumer.settings import Process, Settings
from enqueue.errors import QueueUnavailable
from enqueue.pod import POD_FIELDS
from enqueue.record import Reason, Where

HELD_SECONDS = 10.0
"""How long another shim that holds an attempt may take to say so in the journal."""
SWEEP_SECONDS = 300.0
"""Between two looks for what dead consumers left behind."""
_log = structlog.get_logger("longshore.executors.process")


class ProcessExecutor:
    """Runs each Plan under a shim that outlives us, in a private directory, with an environment made from scratch."""

    name = "process"
    portable = False
    silent = False
    collects = True
    trouble = None

    def __init__(self, settings: Process, consumer: str) -> None:
        self.detachable = settings.detach and os.getpid() != 1  # as a container's first process we take all with us
        self._settings = settings
        self._where = Where(executor=self.name, node=socket.gethostname(), consumer=consumer)
        self._base: Path | None = None
        self._ours = False
        self._spawner = Spawner()
        self._notifier: Notifier | None = None
        self._running: dict[str, ProcessExecution] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._image_noted = False

    def reload(self, settings: Settings) -> None:
        """How much of a job's output is kept."""
        self._settings = settings.process

    def refuse(self, plan: Plan) -> Iterable[tuple[Reason, str]]:
        """Fields that mean something only in a cluster, and paths that would leave the private directory."""
        job, texts = plan.job, []
        for field in POD_FIELDS:
            if getattr(job, field):
                texts.append(f"{field}: the process executor has no such thing; use the kubernetes executor")
        for index, file in enumerate(job.files):
            if file.path.startswith("/"):
                path = f"files[{index}].path"
                texts.append(f"{path}: must be relative to the working directory with the process executor")
        if job.args and not job.entrypoint:
            texts.append("args: needs an entrypoint with the process executor, as there is no image that has one")
        return [(Reason.REFUSED, text) for text in texts]

    async def open(self) -> None:
        """Make the directory that holds the jobs' ones. Raises SetupError."""
        self._ours = self._settings.directory is None and not self.detachable
        try:
            self._base = Path(tempfile.mkdtemp(prefix="longshore-")) if self._ours else None
        except OSError as error:
            raise SetupError(f"process.directory: can't make {tempfile.gettempdir()}: {error}") from error
        if self._base is None:
            self._base = open_base(self._settings.directory)
        self._notifier = Notifier()

    async def start(self, plan: Plan) -> ProcessExecution:
        """Start the plan's steps, or find them if they were started before. Raises Unrunnable, ExecutorFault."""
        if self._base is None or self._notifier is None:
            raise SetupError("the process executor isn't open")
        name = name_of(plan)
        lock = self._starting.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                if name not in self._running:
                    self._running[name] = await self._start(plan, name, self._base, self._notifier)
                return self._running[name]
        finally:
            if not lock.locked():
                self._starting.pop(name, None)

    async def sweep(self, records: Records) -> None:
        """Remove what dead consumers left of jobs that have ended, until cancelled; never what runs."""
        suspects: set[Path] = set()
        while True:
            try:
                suspects = await self._sweep(records, suspects)
            except QueueUnavailable as error:
                _log.info("nothing_is_swept_now", error=str(error))
            except Exception:
                _log.exception("sweeping_failed")
            await asyncio.sleep(SWEEP_SECONDS)

    async def _sweep(self, records: Records, suspects: set[Path]) -> set[Path]:
        """One round: what was settled or unknown in the former one as well, a while after its end, goes."""
        if self._base is None:
            return set()
        found = [
            directory
            for directory in await asyncio.to_thread(ended, self._base)
            if directory.path.name not in self._running and records.source and directory.source == records.source
        ]
        standings = await records.standing([directory.key for directory in found]) if found else ()
        done = [
            directory for directory, standing in zip(found, standings, strict=True) if standing is not Standing.HELD
        ]
        for directory in done:
            if directory.path in suspects and directory.age > SWEEP_SECONDS:
                await asyncio.to_thread(directory.clear)
        return {directory.path for directory in done}

    async def close(self) -> None:
        """Let go of what still runs, or end it if it can't outlive us."""
        running = tuple(self._running.values())
        await asyncio.gather(*(e.detach() if self.detachable else e.remove() for e in running))
        await self._spawner.close()
        if self._notifier is not None:
            self._notifier.close()
        if self._base is not None and self._ours:
            await asyncio.to_thread(shutil.rmtree, self._base, ignore_errors=True)
        self._base = self._notifier = None

    async def _start(self, plan: Plan, name: str, base: Path, notifier: Notifier) -> ProcessExecution:
        directory = await asyncio.to_thread(AttemptDirectory.find, base, name)
        if directory is not None and directory.former(plan):
            if directory.kept:
                raise ExecutorFault("a former job of the same id still runs here: wait for its end")
            await asyncio.to_thread(directory.clear)
            directory = None
        if directory is not None and directory.digest != plan.job.digest():
            problem = "another job runs here under the same id; give each job an id of its own"
            raise Unrunnable(f"id: {problem}", Reason.REFUSED)
        journal = directory.journal() if directory is not None else None
        link: socket.socket | None = None
        if journal is None or not journal.begun:
            if journal is not None:
                journal.close()
            if plan.begun:
                raise ExecutorFault(_lost(plan), Reason.CONSUMER_LOST, started=True)
            self._note_image(plan)
            if directory is None:
                directory = await asyncio.to_thread(AttemptDirectory.prepare, base, name, plan)
            journal, link = await self._spawn(plan, directory)
        assert directory is not None
        return ProcessExecution(
            plan, directory, journal, self._where, notifier, lambda: self._forget(name), link,
        )  # fmt: skip

    async def _spawn(self, plan: Plan, directory: AttemptDirectory) -> tuple[Journal, socket.socket | None]:
        """Have a shim made. If it isn't clear whether there is one, look; leave nothing if there is none."""
        link, answer = None, b""
        try:
            directory.complete(plan)
            request = request_of(plan, directory, tied=not self.detachable, output_bytes=self._settings.output_bytes)
            link, answer = await self._spawner.keep(request)
            if answer == KEPT and (journal := directory.journal()) is not None and journal.begun:
                return journal, link
        except (Unrunnable, ExecutorFault):
            await asyncio.to_thread(directory.discard)
            raise
        if link is not None:
            link.close()
        if answer != HELD and await asyncio.to_thread(directory.discard):
            text = answer.decode("utf-8", "replace") or "the process that was to keep the job went away"
            raise ExecutorFault(text)
        return await self._theirs(directory), None

    async def _theirs(self, directory: AttemptDirectory) -> Journal:
        """The journal of a shim that somebody else has started just now."""
        until = asyncio.get_running_loop().time() + HELD_SECONDS
        while asyncio.get_running_loop().time() < until:
            journal = directory.journal()
            if journal is not None and journal.begun:
                return journal
            if journal is not None:
                journal.close()
            await asyncio.sleep(0.05)
        raise ExecutorFault(f"another process holds {directory.path} and doesn't start the job")

    def _forget(self, name: str) -> None:
        self._running.pop(name, None)

    def _note_image(self, plan: Plan) -> None:
        if plan.job.image and not self._image_noted:
            self._image_noted = True
            _log.warning("the process executor runs jobs on this host: images are ignored", image=plan.job.image)


def _lost(plan: Plan) -> str:
    return (
        f"the job had begun, but nothing is known of it on {socket.gethostname()}: "
        "its consumer ran it on another host, or with another process.directory"
    )
