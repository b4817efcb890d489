"""Jobs as processes of this host: no isolation, no images; for trying things out and for trusted jobs."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import structlog

from consumer.errors import ExecutorFault, SetupError
from consumer.executors.directory import PrivateDirectory
from consumer.executors.output import Output
from consumer.executors.reaping import ended, kill_group, reap
from consumer.model import Exit, LogPart, Plan, signal_name
from consumer.settings import Process
from enqueue.pod import POD_FIELDS
from enqueue.record import Reason, Where

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_STARTABLE = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOEXEC,
    errno.ELOOP, errno.ENAMETOOLONG, errno.E2BIG, errno.EINVAL, errno.ETXTBSY,
)  # fmt: skip
_log = structlog.get_logger("longshore.executors.process")


class ProcessExecutor:
    """Runs each Plan in a process group of its own, in a private directory, with an environment made from scratch."""

    name = "process"
    detachable = False
    silent = False
    trouble = None

    def __init__(self, settings: Process, consumer: str) -> None:
        self._settings = settings
        self._where = Where(executor=self.name, node=socket.gethostname(), consumer=consumer)
        self._base: Path | None = None
        self._running: dict[tuple[str, int], ProcessExecution] = {}
        self._image_noted = False

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
        chosen = self._settings.directory
        try:
            if chosen is None:
                self._base = Path(tempfile.mkdtemp(prefix="longshore-"))
            else:
                chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._base = chosen.absolute()
        except OSError as error:
            raise SetupError(f"process.directory: can't make {chosen or tempfile.gettempdir()}: {error}") from error

    async def start(self, plan: Plan) -> ProcessExecution:
        """Start the plan's steps, or find them. Raises Unrunnable, ExecutorFault."""
        found = self._running.get((plan.id, plan.attempt))
        if found is not None:
            return found
        if plan.begun:
            raise ExecutorFault("the process went with its consumer", Reason.CONSUMER_LOST, started=True)
        if self._base is None:
            raise SetupError("the process executor isn't open")
        if plan.job.image and not self._image_noted:
            self._image_noted = True
            _log.warning("the process executor runs jobs on this host: images are ignored", image=plan.job.image)
        directory = await asyncio.to_thread(PrivateDirectory.prepare, self._base, plan)
        try:
            execution = ProcessExecution(plan, directory, self._where, self._running)
        except OSError as error:
            await asyncio.to_thread(directory.remove)
            raise ExecutorFault(f"can't make a pipe for the job's output: {error}") from error
        self._running[plan.id, plan.attempt] = execution
        return execution

    async def close(self) -> None:
        """Kill what still runs and delete the jobs' directories."""
        await asyncio.gather(*(execution.remove() for execution in tuple(self._running.values())))
        if self._base is not None and self._settings.directory is None:
            await asyncio.to_thread(shutil.rmtree, self._base, ignore_errors=True)
        self._base = None


class ProcessExecution:
    """The init step, then the main step; one pipe takes the output of both, stdout and stderr in their order."""

    def __init__(
        self, plan: Plan, directory: PrivateDirectory, where: Where, register: dict[tuple[str, int], ProcessExecution]
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._where = where
        self._register = register
        self._output = Output()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._kill_at: asyncio.TimerHandle | None = None
        self._kill_due = 0.0
        self._started: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"process {plan.id}")

    @property
    def where(self) -> Where:
        """This host."""
        return self._where

    def logs(self, after: str = "") -> AsyncIterator[LogPart]:
        """The output until its end, at most a second longer than the processes' end."""
        return self._output.read()

    def watched(self, seconds: float) -> None:
        """Its log always comes as it is written."""

    async def started(self) -> float:
        """Waits for the main step's start (or the end)."""
        return await asyncio.shield(self._started)

    async def wait(self) -> Exit:
        """Waits for the end of all processes of the group. Raises ExecutorFault."""
        return await asyncio.shield(self._task)

    async def stop(self, grace: float) -> None:
        """TERM to the group; returns at once, KILL follows after `grace` seconds. A later call can only hurry it."""
        if self._task.done():
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + grace
        if self._kill_at is None or due < self._kill_due:
            if self._kill_at is not None:
                self._kill_at.cancel()
            self._kill_due = due
            self._kill_at = loop.call_at(due, self._kill)
        first, self._stopping = not self._stopping, True
        if grace <= 0:
            self._kill()
        elif first and self._process is not None:
            kill_group(self._process.pid, kill=False)

    async def remove(self, *, failed: bool = False) -> None:
        """Delete the private directory; what still runs is killed first."""
        await self.stop(0)
        await asyncio.gather(asyncio.shield(self._task), return_exceptions=True)
        self._output.close()
        self._register.pop((self._plan.id, self._plan.attempt), None)
        await asyncio.to_thread(self._directory.remove)

    async def detach(self) -> None:
        """Nothing: a process doesn't outlive its consumer's care."""

    def _kill(self) -> None:
        if self._process is not None:
            kill_group(self._process.pid, kill=True)

    async def _run(self) -> Exit:
        try:
            failed = await self._init() if self._plan.job.init else None
            return failed or await self._main()
        finally:
            if self._kill_at is not None:
                self._kill_at.cancel()
            self._output.ended()
            if not self._started.done():
                self._started.set_result(time.time())

    async def _init(self) -> Exit | None:
        """None if the init step succeeded."""
        code: int | None = None
        signal: int | None = None
        message = self._spawn("init")
        if message is None:
            code, signal = await self._end()
            if code == 0:
                return None
            message = _killed(signal) if signal else f"exited with code {code}"
        return Exit(
            code=code, signal=signal, reason=Reason.INIT_FAILED, message=f"init step: {message}",
            ended_at=time.time(), started=False,
        )  # fmt: skip

    async def _main(self) -> Exit:
        began = time.time()
        problem = self._spawn("main")
        if problem is not None:
            return Exit(reason=Reason.START_ERROR, message=problem, ended_at=time.time(), started=False)
        self._output.close_writer()
        self._started.set_result(began)
        code, signal = await self._end()
        return Exit(
            code=code, signal=signal, reason=Reason.SIGNAL if signal else None,
            message=_killed(signal) if signal else None, started_at=began, ended_at=time.time(),
        )  # fmt: skip

    def _spawn(self, scope: str) -> str | None:
        """Start a step; a sentence if its command can't be started. Raises ExecutorFault if nothing could be."""
        if self._stopping:
            return "stopped before it started"
        job = self._plan.job
        argv = [*job.entrypoint, *job.args]
        try:
            if scope == "init" or job.commands:  # by a file: a command line shows up in the process list
                script = "init.sh" if scope == "init" else "script.sh"
                argv = [*shlex.split(job.shell), "-e", self._directory.script(script)]
            self._process = subprocess.Popen(
                argv, cwd=self._directory.workdir, env=self._environment(scope), stdin=subprocess.DEVNULL,
                stdout=self._output.writer, stderr=self._output.writer, start_new_session=True,
            )  # fmt: skip
        except ValueError as error:  # shlex
            return f"shell {job.shell}: {error}"
        except OSError as error:
            if error.errno not in _NOT_STARTABLE:
                raise ExecutorFault(f"can't start a process: {error.strerror}") from error
            return f"can't start {error.filename or argv[0]}: {(error.strerror or str(error)).lower()}"
        return None

    async def _end(self) -> tuple[int, int | None]:
        """Wait for the step's end and kill what it left; its exit code and signal."""
        process = self._process
        assert process is not None
        try:
            await ended(process)
        finally:
            kill_group(process.pid, kill=True)  # before it is reaped: until then the group's number is ours
            code = await reap(process)
            self._process = None
        return (code, None) if code >= 0 else (128 - code, -code)

    def _environment(self, scope: str) -> dict[str, str]:
        """From scratch: of the consumer's own environment only PATH."""
        plan = self._plan
        host = os.environ.get("PATH", "")
        missing = [part for part in _PATH.split(":") if part not in host.split(":")]
        environment = {
            "PATH": ":".join([host, *missing] if host else missing),
            "LANG": "C.UTF-8",
            "HOME": str(self._directory.home),
            "TMPDIR": str(self._directory.tmp),
            "LONGSHORE_JOB_ID": plan.id,
            "LONGSHORE_QUEUE": plan.queue,
            "LONGSHORE_ATTEMPT": str(plan.attempt),
        }
        environment |= plan.job.env
        environment |= {v.name: v.value for v in plan.job.variables if v.scope in ("all", scope)}
        return environment


def _killed(signal: int) -> str:
    return f"killed by {signal_name(signal)}"
