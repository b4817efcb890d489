"""What a pod's status means: pure functions of a slim copy of it.

Source of the words: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/ and statuses of real pods.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from consumer.executors.kubernetes import names
from consumer.model import AttemptKey, Exit
from consumer.outcome_file import CAP, parse
from enqueue.record import Reason, epoch

MAIN, INIT = "main", "init"

_FATAL = {
    number: number.name
    for number in (
        signals.SIGHUP, signals.SIGINT, signals.SIGQUIT, signals.SIGILL, signals.SIGTRAP, signals.SIGABRT,
        signals.SIGBUS, signals.SIGFPE, signals.SIGKILL, signals.SIGSEGV, signals.SIGPIPE, signals.SIGALRM,
        signals.SIGTERM, signals.SIGXCPU, signals.SIGXFSZ,
    )
}  # fmt: skip
_NOT_STARTED = ("StartError", "ContainerCannotRun", "RunContainerError", "CreateContainerError")
_PULLING = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError", "SignatureValidationFailed")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError")
_ADMISSION = (
    "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage", "NodeAffinity",
    "NodePorts", "NodeName", "Preempting", "PodFeatureUnsupported", "PodOSNotSupported", "TopologyAffinityError",
)  # fmt: skip
_NO_STATUS = "ContainerStatusUnknown"
_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Container:
    """One container's state: `state` is waiting, running or terminated; times in seconds since the epoch."""

    state: str = "waiting"
    reason: str = ""
    message: str = ""
    code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def started(self) -> bool:
        """Its command has begun, as far as the kubelet says."""
        if self.state != "terminated":
            return self.state == "running"
        return self.reason not in _NOT_STARTED and not self.unknown

    @property
    def failed(self) -> bool:
        """Its end was seen, and it was no good one."""
        return self.state == "terminated" and self.code != 0 and self.reason != _NO_STATUS

    @property
    def unknown(self) -> bool:
        """Made up by the kubelet for a container that was never there (it says so if it "used to be Running")."""
        return self.reason == _NO_STATUS and self.started_at is None and "used to be" not in self.message


@dataclass(frozen=True, slots=True)
class Pod:
    """The few fields of a pod that decide anything; the rest isn't kept."""

    name: str
    uid: str
    version: str = ""
    job: str = ""
    digest: str = ""
    node: str | None = None
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    deleting: bool = False
    grace: float = 0.0
    scheduling: str = ""
    disruption: str = ""
    main: Container | None = None
    init: Container | None = None
    others_run: bool = False
    source: str = ""
    attempt: AttemptKey | None = None
    """Whose pod it is by its annotations; None if they don't fit its name."""

    @property
    def over(self) -> bool:
        """No container of it will run again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def started(self) -> bool:
        """The main container has begun."""
        return self.main is not None and self.main.started


class Trouble(Enum):
    """Why a pod doesn't start: how long it may last is the executor's to say."""

    NOW = "now"
    PULL = "pull"
    CONFIG = "config"
    WAITS = "waits"


def slim(pod: Mapping[str, Any]) -> Pod:
    """Copy the needed fields out of the API's object."""
    meta, spec, status = pod.get("metadata") or {}, pod.get("spec") or {}, pod.get("status") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    scheduling = disruption = ""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            scheduling = condition.get("message") or condition.get("reason") or ""
        elif condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            disruption = f"{condition.get('reason') or 'disrupted'}: {condition.get('message') or ''}".rstrip(": ")
    main, others = None, False
    for found in status.get("containerStatuses") or ():
        if found.get("name") == MAIN:
            main = _container(found)
        elif "terminated" not in (found.get("state") or {}):
            others = True
    init = next((_container(c) for c in status.get("initContainerStatuses") or () if c.get("name") == INIT), None)
    return Pod(
        name=meta.get("name") or "",
        uid=meta.get("uid") or "",
        version=meta.get("resourceVersion") or "",
        job=labels.get(names.JOB, ""),
        digest=annotations.get(names.DIGEST, ""),
        node=spec.get("nodeName"),
        phase=status.get("phase") or "Pending",
        reason=status.get("reason") or "",
        message=(status.get("message") or "")[:_MESSAGE],
        deleting="deletionTimestamp" in meta,
        grace=float(meta.get("deletionGracePeriodSeconds") or 0),
        scheduling=scheduling[:_MESSAGE],
        disruption=disruption[:_MESSAGE],
        main=main,
        init=init,
        others_run=others,
        source=labels.get(names.SOURCE, ""),
        attempt=_attempt_of(meta.get("name") or "", labels, annotations),
    )


def _attempt_of(name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> AttemptKey | None:
    job, queue, number = annotations.get(names.JOB_ID), annotations.get(names.QUEUE), labels.get(names.ATTEMPT, "")
    if job is None or queue is None or not number.isascii() or not number.isdigit():
        return None
    return AttemptKey(job, queue, int(number)) if names.pod_name(queue, job, int(number)) == name else None


def _container(found: Mapping[str, Any]) -> Container:
    state = found.get("state") or {}
    for name in ("terminated", "running", "waiting"):
        if name in state:
            said = state[name] or {}
            return Container(
                state=name,
                reason=said.get("reason") or "",
                message=(said.get("message") or "")[: _MESSAGE if name != "terminated" else CAP],
                code=said.get("exitCode"),
                signal=said.get("signal") or None,
                started_at=epoch(said.get("startedAt")),
                ended_at=epoch(said.get("finishedAt")),
            )
    return Container()


def exit_of(pod: Pod, *, gone: bool = False, stopped: bool = False) -> Exit | None:
    """The Exit of a pod that has ended, or None if it goes on.

    `gone`: the API says that the pod no longer exists, and this is the last that was seen of it. `stopped`: we
    deleted it ourselves, so its deletion is no reason. The pod's own words (evicted, deadline, node lost) win over
    the container's; an exit code of 0 wins over a disruption that came too late.
    """
    main = pod.main
    ended = main is not None and main.state == "terminated"
    if not (gone or pod.over or pod.phase == "Unknown" or (ended and pod.others_run)):
        return None
    code = main.code if main is not None and ended and main.reason != _NO_STATUS else None

    variables, note = _variables(pod)

    def verdict(reason: Reason | None, message: str = "", signal: int | None = None) -> Exit:
        return Exit(
            variables=variables,
            note=note,
            code=code,
            signal=signal,
            reason=reason,
            message=message[:_MESSAGE] or None,
            started_at=main.started_at if main else None,
            ended_at=main.ended_at if main else None,
            started=pod.started,
        )

    if pod.reason == "Evicted":
        return verdict(Reason.EVICTED, pod.message or "the node evicted the pod")
    if pod.reason == "DeadlineExceeded":
        return verdict(Reason.DEADLINE, pod.message or "the pod's activeDeadlineSeconds have passed")
    if pod.reason == "NodeLost" or pod.phase == "Unknown":
        return verdict(Reason.NODE_LOST, pod.message or f"the node {pod.node or ''} no longer answers")
    if pod.reason in _ADMISSION and not pod.started:
        return verdict(Reason.UNSCHEDULABLE, f"the node refused the pod: {pod.reason}: {pod.message}".rstrip(": "))
    if pod.init is not None and pod.init.failed and not pod.started:
        code = pod.init.code
        if not pod.disruption and (not pod.deleting or stopped):
            return verdict(Reason.INIT_FAILED, _init_message(pod.init))
    if main is not None and ended and code == 0:
        return verdict(None)
    if pod.disruption:
        return verdict(Reason.EVICTED, pod.disruption)
    if main is not None and ended:
        return _of_container(pod, main, verdict, stopped)
    if gone or pod.deleting:
        where = f" on node {pod.node}" if pod.node else ""
        return verdict(Reason.POD_DELETED, f"the pod {pod.name}{where} was deleted before its end was seen")
    if pod.init is not None and pod.init.reason == _NO_STATUS:
        return verdict(Reason.NODE_LOST, pod.init.message or "the init step's end wasn't seen")
    if pod.phase == "Succeeded":
        code = 0
        return verdict(None)
    return verdict(Reason.EXECUTOR_ERROR, f"the pod failed: {pod.reason}: {pod.message}".rstrip(": "))


def _variables(pod: Pod) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """The outcome variables of the termination messages, the main step's over the init step's, and a note on them."""
    found: dict[str, str] = {}
    notes = []
    for step in (pod.init, pod.main):
        if step is None or step.state != "terminated" or not step.started or step.reason == _NO_STATUS:
            continue
        told = parse(step.message, cut=len(step.message.encode()) >= CAP)
        found |= dict(told.variables)
        notes += [told.note] if told.note else []
    return tuple(found.items()), "; ".join(notes) or None


def _of_container(pod: Pod, main: Container, verdict: Any, stopped: bool) -> Exit:
    if main.reason == "OOMKilled":
        result = verdict(Reason.OUT_OF_MEMORY, "the kernel killed the job: it used more memory than its limit", 9)
    elif main.reason in _NOT_STARTED:
        result = verdict(Reason.START_ERROR, main.message or main.reason)
    elif main.reason == _NO_STATUS and (pod.deleting or not main.started):
        result = verdict(Reason.POD_DELETED, f"the pod {pod.name} was deleted before its end was seen")
    elif main.reason == _NO_STATUS:
        result = verdict(Reason.NODE_LOST, main.message or "the container's end wasn't seen")
    else:
        number = signal_of(main)
        message = f"killed by {_FATAL.get(signals.Signals(number), number)}" if number in list(_FATAL) else ""
        if pod.deleting and not stopped:
            result = verdict(Reason.POD_DELETED, f"the pod {pod.name} was deleted while it ran", number)
        else:
            result = verdict(None, message, number)
    assert isinstance(result, Exit)
    return result


def signal_of(container: Container) -> int | None:
    """The signal that ended a container.

    The status names it seldom; an exit code of 128 + n stands for it if n is a signal that ends a process (a shell
    reports its child's death the same way). The exit code stays as it is.
    """
    if container.signal:
        return container.signal
    number = (container.code or 0) - 128
    return number if number in list(_FATAL) else None


def _init_message(init: Container) -> str:
    if init.reason in _NOT_STARTED:
        return f"the init step couldn't be started: {init.message or init.reason}"
    if init.reason == "OOMKilled":
        return "the init step used more memory than its limit"
    return f"the init step ended with exit code {init.code}"


def trouble_of(pod: Pod) -> tuple[Trouble, Reason, str] | None:
    """Why a pod whose main container hasn't started is waiting; None if nothing is wrong with it."""
    if pod.started:
        return None
    for container in (pod.init, pod.main):
        if container is None or container.state != "waiting":
            continue
        said = f"{container.reason}: {container.message}".rstrip(": ")
        if container.reason in ("InvalidImageName", "ErrImageNeverPull"):
            return Trouble.NOW, Reason.IMAGE_PULL, said
        if container.reason in _PULLING:
            return Trouble.PULL, Reason.IMAGE_PULL, said
        if container.reason in _CONFIG:
            return Trouble.CONFIG, Reason.CONFIG_ERROR, said
    if pod.node is None and pod.scheduling:
        return Trouble.WAITS, Reason.UNSCHEDULABLE, pod.scheduling
    return None


def waiting_for(pod: Pod) -> str:
    """What a pod that hasn't started is waiting for, for people."""
    trouble = trouble_of(pod)
    if trouble is not None:
        return trouble[2]
    if pod.node is None:
        return "it has no node yet"
    if pod.init is not None and pod.init.state == "running":
        return "its init step still runs"
    reasons = {c.reason for c in (pod.init, pod.main) if c is not None and c.state == "waiting" and c.reason}
    return f"node {pod.node} is setting it up ({', '.join(sorted(reasons)) or 'no word from its kubelet'})"
