"""Plan -> what a shim is asked to run: pure but for the host's PATH."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Any

from consumer.errors import Unrunnable
from consumer.executors.process.directory import AttemptDirectory
from consumer.model import Plan
from enqueue.record import Reason

DEADLINE_MARGIN = 60.0
"""Seconds by which the shim's own deadline lies behind the consumer's: it is for jobs that nobody watches."""

NOT_STARTABLE = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOEXEC,
    errno.ELOOP, errno.ENAMETOOLONG, errno.E2BIG, errno.EINVAL, errno.ETXTBSY,
)  # fmt: skip
"""What says that the command can't be started, rather than that the host can't start any."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def request_of(plan: Plan, directory: AttemptDirectory, *, tied: bool, output_bytes: int) -> dict[str, Any]:
    """What the shim gets. `tied`: it ends the job when the consumer goes. Raises Unrunnable."""
    job = plan.job
    steps = []
    try:
        if job.init:
            steps.append(
                _step("init", [*shlex.split(job.shell), "-e", str(directory.path / "init.sh")], plan, directory)
            )
        argv = [*job.entrypoint, *job.args]
        if job.commands:  # by a file: a command line shows up in the process list
            argv = [*shlex.split(job.shell), "-e", str(directory.path / "script.sh")]
        steps.append(_step("main", argv, plan, directory))
    except ValueError as error:
        raise Unrunnable(f"shell: {job.shell}: {error}", Reason.START_ERROR) from error
    return {
        "directory": str(directory.path),
        "cwd": str(directory.workdir),
        "steps": steps,
        "limit": None if plan.timeout is None else plan.timeout + DEADLINE_MARGIN,
        "grace": plan.grace,
        "tied": tied,
        "output_bytes": output_bytes,
        "count": job.count_output,
    }


def _step(name: str, argv: list[str], plan: Plan, directory: AttemptDirectory) -> dict[str, Any]:
    return {"name": name, "argv": argv, "env": _environment(name, plan, directory.path)}


def _environment(scope: str, plan: Plan, directory: Path) -> dict[str, str]:
    """From scratch: of the consumer's own environment only PATH."""
    host = os.environ.get("PATH", "")
    missing = [part for part in _PATH.split(":") if part not in host.split(":")]
    environment = {
        "PATH": ":".join([host, *missing] if host else missing),
        "LANG": "C.UTF-8",
        "HOME": str(directory / "home"),
        "TMPDIR": str(directory / "tmp"),
        "LONGSHORE_JOB_ID": plan.id,
        "LONGSHORE_QUEUE": plan.queue,
        "LONGSHORE_ATTEMPT": str(plan.attempt),
    }
    environment |= plan.job.env
    environment |= {v.name: v.value for v in plan.job.variables if v.scope in ("all", scope)}
    environment |= {handed.variable: str(directory / "handed" / handed.name) for handed in plan.handed}
    if plan.job.outputs is not None:
        environment["LONGSHORE_OUTPUTS"] = str(directory / "outputs")
    environment["LONGSHORE_OUTCOME"] = str(directory / "outcome")  # last: stray processes are known by it
    return environment
