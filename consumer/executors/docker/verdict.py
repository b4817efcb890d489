"""What a container's state, and an engine's words, mean: pure.

Source of the words: https://docs.docker.com/reference/api/engine/ (ContainerInspect), and what Docker and Podman say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from consumer.errors import ExecutorFault, Unrunnable
from consumer.executors import names
from consumer.executors.docker.engine import EngineError
from consumer.executors.docker.told import Told
from consumer.executors.resources import limit_of
from consumer.executors.signals import signal_of_code
from consumer.model import Exit, signal_name
from enqueue.errors import LongshoreError
from enqueue.record import Reason
from enqueue.times import epoch

_NOT_STARTABLE = re.compile(
    r"executable file not found|no such file or directory|permission denied|exec format error|not a directory"
    r"|is a directory|argument list too long|chdir to cwd",
    re.IGNORECASE,
)
_CONFIG = re.compile(r"no matching entries in passwd|unable to find (user|group)|no matching entries in group")
_HOPELESS = re.compile(
    r"not found|manifest unknown|denied|unauthorized|authentication required|invalid reference|no basic auth"
    r"|repository does not exist|no matching manifest|requested access|unsupported|no such image",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"no such host|lookup .* on |server misbehaving|timeout|temporar|too ?many ?requests", re.IGNORECASE
)


class Ended(Exception):
    """There is no main step to wait for."""

    def __init__(self, exit: Exit) -> None:
        super().__init__(exit.message)
        self.exit = exit


@dataclass(frozen=True, slots=True)
class State:
    """A container as it was last seen."""

    id: str
    name: str
    status: str
    code: int | None = None
    out_of_memory: bool = False
    memory: str = ""
    """Its limit."""
    error: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def fresh(self) -> bool:
        """It was created and never started."""
        return self.status in ("created", "configured", "initialized") and self.started_at is None

    @property
    def over(self) -> bool:
        """It has run, and nothing of it runs any more."""
        return self.status in ("exited", "dead", "stopped", "removing") and self.started_at is not None

    @property
    def begun(self) -> bool:
        """It runs, or has run."""
        return self.started_at is not None

    @property
    def attempt(self) -> int:
        """Which attempt of its job it runs."""
        text = self.labels.get(names.ATTEMPT, "")
        return int(text) if text.isdecimal() else 0


def state_of(found: Mapping[str, Any]) -> State:
    """From the engine's answer to `inspect`."""
    state = found.get("State") or {}
    status = str(state.get("Status") or "")
    ended = status in ("exited", "dead", "stopped", "removing")
    began, finished = _moment(state.get("StartedAt")), _moment(state.get("FinishedAt"))
    return State(
        id=str(found.get("Id") or ""),
        name=str(found.get("Name") or "").lstrip("/"),
        status=status,
        code=state.get("ExitCode") if ended else None,
        out_of_memory=bool(state.get("OOMKilled")),
        memory=_amount((found.get("HostConfig") or {}).get("Memory")),
        error=str(state.get("Error") or ""),
        started_at=began,
        ended_at=max(finished, began or 0.0) if ended and finished else None,  # Podman notes a start after it
        labels=(found.get("Config") or {}).get("Labels") or {},
    )


def _amount(size: Any) -> str:
    """Bytes as Kubernetes would write them."""
    if not isinstance(size, int) or size <= 0:
        return ""
    return f"{size // 2**20}Mi" if size % 2**20 == 0 else str(size)


def _moment(text: Any) -> float | None:
    if not isinstance(text, str) or not text or text.startswith("0001-"):
        return None
    return epoch(re.sub(r"(\.\d{1,6})\d*", r"\1", text))


def exit_of(main: State, told: Told) -> Exit:
    """The Exit of a main container that has ended."""
    code, number = main.code, signal_of_code(main.code)
    reason, message, note = None, None, told.file.note
    if code == 0:
        number = None
        if main.out_of_memory:
            killed = f"a process of the job was killed because it used more memory than {limit_of(main.memory)}"
            note = "; ".join(part for part in (note, killed) if part)
    elif main.out_of_memory:
        reason = Reason.OUT_OF_MEMORY
        killed = f"the kernel killed a process of the job, which used more memory than {limit_of(main.memory)}"
        message = f"{killed} (exit code {code})"
    elif number is not None:
        message = f"killed by {signal_name(number)} (exit code {code})"
    return Exit(
        code=code,
        signal=number,
        reason=reason,
        message=message,
        started_at=main.started_at,
        ended_at=main.ended_at,
        variables=told.file.variables,
        progress=told.file.progress,
        written=told.written,
        note=note,
    )


def init_exit(init: State, told: Told) -> Exit:
    """The Exit of a job whose init step has failed."""
    number = signal_of_code(init.code)
    killed = f": killed by {signal_name(number)}" if number else ""
    said = f"the init step ended with exit code {init.code}{killed}"
    if init.out_of_memory:
        said = f"the init step used more memory than {limit_of(init.memory)}"
    return Exit(
        code=init.code,
        reason=Reason.INIT_FAILED,
        message=said,
        ended_at=init.ended_at,
        started=False,
        variables=told.file.variables,
        progress=told.file.progress,
        written=told.written,
        note=told.file.note,
    )


def not_started(error: EngineError, step: str) -> Exit | None:
    """What it means that a container couldn't be started; None: it isn't the job's fault."""
    text = str(error)
    if _CONFIG.search(text):
        reason, said = Reason.CONFIG_ERROR, text
    elif _NOT_STARTABLE.search(text):
        reason, said = Reason.START_ERROR, text
    else:
        return None
    if step == "init":
        return Exit(reason=Reason.INIT_FAILED, message=f"the init step couldn't be started: {said}", started=False)
    return Exit(reason=reason, message=said, started=False)


def hopeless(error: EngineError) -> bool:
    """A pull that won't work a minute later either."""
    return not error.passing and bool(_HOPELESS.search(str(error))) and not _PASSING.search(str(error))


def refused(error: EngineError) -> LongshoreError:
    """What a refused create means for the job."""
    if error.status in (400, 406, 413, 422):
        return Unrunnable(f"the engine doesn't accept the container: {error}")
    if error.gone and "image" in str(error):
        return Unrunnable(f"the engine hasn't got the image, and it may not be pulled: {error}", Reason.IMAGE_PULL)
    return ExecutorFault(f"the engine couldn't make the container: {error}", down=error.down)
