"""What a pod's status means: pure functions of a slim copy of it.

Source of the words: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions and the
statuses of real pods in tests/data/pod-statuses.
"""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from consumer.executors.kubernetes.status import MESSAGE, NO_STATUS, NOT_STARTED, Container, Pod
from consumer.executors.resources import limit_of
from consumer.executors.signals import signal_of_code
from consumer.model import Exit, signal_name
from consumer.outcome_file import CAP, output_in, parse
from consumer.values import frozen
from enqueue.record import Reason, Tally

_PULLING = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError", "SignatureValidationFailed")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CreatePodSandboxError")
_NODES_TROUBLE = re.compile(
    r"context (deadline exceeded|canceled)|code = (DeadlineExceeded|Unavailable|ResourceExhausted)"
    r"|timed out|i/o timeout|name (\S+ )?is reserved|failed to reserve|connection (refused|reset)|error while dialing"
    r"|transport is closing|no space left on device|input/output error|too many open files|failed to start shim"
    r"|resource temporarily unavailable",
    re.IGNORECASE,
)
"""What is said where a slow or broken node can't set up a container: nothing that the job asked for is wrong."""
_ADMISSION = (
    "UnexpectedAdmissionError", "NodeAffinity", "NodePorts", "NodeName", "NodeShutdown", "PodFeatureUnsupported",
    "PodOSNotSupported", "TopologyAffinityError", "TaintToleration", "AppArmor", "SysctlForbidden",
)  # fmt: skip
"""Why a kubelet doesn't admit a pod, beside OutOf with the resource. Newer kubelets begin their message alike, too."""
_DISRUPTIONS = {
    "EvictionByEvictionAPI": (Reason.EVICTED, "the pod was evicted through the API, as when its node is drained"),
    "PreemptionByScheduler": (Reason.PREEMPTED, "a pod of a higher priority took the place of this one"),
    "DeletionByTaintManager": (Reason.EVICTED, "the pod's node was drained by a taint, or is no longer ready"),
    "DeletionByPodGC": (Reason.NODE_LOST, "the pod's node is gone"),
    "TerminationByKubelet": (Reason.EVICTED, "the node ended the pod: it ran short of something or shuts down"),
}
_MESSAGES = 12288
"""Bytes of termination messages in a pod's status: each container may have its part, and the kubelet cuts the rest."""
_FIT = _MESSAGES // CAP
"""So many containers have room for all that is kept of a file."""
_OWN_STORAGE = re.compile(r"exceed(s|ed) (the (total )?limit|its local ephemeral storage limit)")
"""What a kubelet says when the pod broke its own limit, other than when its node ran short."""


class Trouble(Enum):
    """Why a pod doesn't start: how long it may last is the executor's to say."""

    NOW = "now"
    PULL = "pull"
    CONFIG = "config"
    WAITS = "waits"


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
    code = main.code if main is not None and ended and main.reason != NO_STATUS else None

    told = _told(pod)

    def verdict(reason: Reason | None, message: str = "", signal: int | None = None) -> Exit:
        return Exit(
            variables=told.variables,
            progress=told.progress,
            note=told.note,
            written=told.written,
            code=code,
            signal=signal,
            reason=reason,
            message=message[:MESSAGE] or None,
            started_at=main.started_at if main else None,
            ended_at=main.ended_at if main else None,
            started=pod.started,
        )

    if pod.reason == "DeadlineExceeded":
        return verdict(Reason.DEADLINE, pod.message or "the pod's activeDeadlineSeconds have passed")
    if pod.reason == "NodeLost" or pod.phase == "Unknown":
        return verdict(Reason.NODE_LOST, pod.message or f"the node {pod.node or ''} no longer answers")
    if _not_admitted(pod):
        return verdict(Reason.UNSCHEDULABLE, f"the node refused the pod: {pod.reason}: {pod.message}".rstrip(": "))
    if pod.reason in ("Evicted", "Preempting"):
        return verdict(*_by_the_node(pod))
    undisturbed = not pod.disruption and (not pod.deleting or stopped)
    if pod.init is not None and pod.init.failed and not pod.started:
        code = pod.init.code
        if undisturbed:
            return verdict(Reason.INIT_FAILED, _init_message("the init step", pod.init))
    if pod.broken is not None and pod.phase == "Failed" and not pod.started and undisturbed:
        name, broken = pod.broken
        code = broken.code
        return verdict(Reason.SETUP_FAILED, _setup_message(name, broken))
    if main is not None and ended and code == 0:
        return _succeeded(pod, main, verdict(None), stopped)
    if pod.disruption:
        reason, sentence = _DISRUPTIONS.get(pod.disruption, (Reason.EVICTED, "the cluster disrupted the pod"))
        return verdict(reason, f"{sentence} ({pod.disruption}: {pod.disrupted or pod.message})")
    if pod.reason in ("Terminated", "NodeShutdown"):
        return verdict(Reason.EVICTED, pod.message or "the node shuts down")
    if main is not None and ended:
        return _of_container(pod, main, verdict, stopped)
    if gone or pod.deleting:
        where = f" on node {pod.node}" if pod.node else ""
        return verdict(Reason.POD_DELETED, f"the pod {pod.name}{where} was deleted before its end was seen")
    if pod.init is not None and pod.init.reason == NO_STATUS:
        return verdict(Reason.NODE_LOST, pod.init.message or "the init step's end wasn't seen")
    if pod.phase == "Succeeded":
        code = 0
        return verdict(None)
    return verdict(Reason.EXECUTOR_ERROR, f"the pod failed: {pod.reason}: {pod.message}".rstrip(": "))


def _not_admitted(pod: Pod) -> bool:
    """The kubelet didn't take the pod."""
    if pod.started or pod.phase != "Failed" or pod.reason in ("Evicted", "Preempting"):
        return False
    return pod.reason in _ADMISSION or pod.reason.startswith("OutOf") or pod.message.startswith("Pod was rejected")


def _by_the_node(pod: Pod) -> tuple[Reason, str]:
    """Whose doing it is that the kubelet ended a pod."""
    message = pod.message.strip() or "the node evicted the pod"
    if pod.reason == "Preempting":
        return Reason.PREEMPTED, message
    own = not pod.disruption and _OWN_STORAGE.search(message)
    return (Reason.OUT_OF_STORAGE if own else Reason.EVICTED), message


def _succeeded(pod: Pod, main: Container, exit: Exit, stopped: bool) -> Exit:
    """An exit code of 0 counts, but what happened besides is told."""
    note = None
    if main.reason == "OOMKilled":
        note = f"a process of the job was killed because it used more memory than {limit_of(main.memory)}"
    elif pod.disruption or (pod.deleting and not stopped and not _ended_before(pod, main, None)):
        note = f"the job ended with exit code 0 while its pod was being removed ({pod.disruption or 'deleted'})"
    return replace(exit, note="; ".join(part for part in (exit.note, note) if part) or None)


@frozen
class _Told:
    variables: tuple[tuple[str, str], ...]
    progress: tuple[float, str] | None
    note: str | None
    written: Tally | None


def _told(pod: Pod) -> _Told:
    """What the termination messages say, the main step's over the init step's."""
    found: dict[str, str] = {}
    notes, progress = [], None
    written: Tally | None = Tally()
    for step in (pod.init, pod.main):
        if step is None or step.state != "terminated" or not step.started or step.reason == NO_STATUS:
            continue
        text, counted = output_in(step.message)
        if counted is None or written is None:  # of two steps both must tell
            written = None
        else:
            written = Tally(lines=written.lines + counted.lines, bytes=written.bytes + counted.bytes)
        size, room = len(step.message.encode()), _MESSAGES // max(pod.containers, _FIT)
        kept = room if room <= size and room < CAP and counted is None else None  # the counts are its last line
        told = parse(text, cut=size >= CAP, kept=kept)
        found |= dict(told.variables)
        progress = told.progress or progress
        notes += [told.note] if told.note else []
    ended = pod.main is not None and pod.main.state == "terminated" and pod.main.reason != NO_STATUS
    return _Told(tuple(found.items()), progress, "; ".join(notes) or None, written if ended else None)


def _of_container(pod: Pod, main: Container, verdict: Callable[..., Exit], stopped: bool) -> Exit:
    """What the main container's own end means."""
    number = signal_of(main)
    if main.reason == "OOMKilled":
        killed = f"the kernel killed a process of the job, which used more memory than {limit_of(main.memory)}"
        return verdict(Reason.OUT_OF_MEMORY, f"{killed} (exit code {main.code})", number)
    if main.reason in NOT_STARTED:
        return verdict(Reason.START_ERROR, main.message or main.reason)
    if main.reason == NO_STATUS and (pod.deleting or not main.started):
        return verdict(Reason.POD_DELETED, f"the pod {pod.name} was deleted before its end was seen")
    if main.reason == NO_STATUS:
        return verdict(Reason.NODE_LOST, main.message or "the container's end wasn't seen")
    if pod.deleting and not stopped and not _ended_before(pod, main, number):
        return verdict(Reason.POD_DELETED, f"the pod {pod.name} was deleted while it ran", number)
    if number is None:
        return verdict(None)
    return verdict(None, f"killed by {signal_name(number)} (exit code {main.code})", number)


def _ended_before(pod: Pod, main: Container, number: int | None) -> bool:
    """It had ended by itself when its deletion was asked for, or nothing speaks against it.

    The two clocks are the node's and the API server's, so a signal that a deletion sends is taken for the deletion's.
    """
    if number in (signals.SIGTERM, signals.SIGKILL):
        return False
    return pod.deleted_at is None or (main.ended_at is not None and main.ended_at < pod.deleted_at)


def signal_of(container: Container) -> int | None:
    """The signal that ended a container: its status names it seldom, its exit code may stand for it."""
    return container.signal or signal_of_code(container.code)


def _setup_message(name: str, broken: Container) -> str:
    return _init_message(f"the pod template's init container {name}", broken)


def _init_message(what: str, init: Container) -> str:
    if init.reason in NOT_STARTED:
        return f"{what} couldn't be started: {init.message or init.reason}"
    if init.reason == "OOMKilled":
        return f"{what} used more memory than {limit_of(init.memory)}"
    number = signal_of(init)
    killed = f": killed by {signal_name(number)}" if number else ""
    return f"{what} ended with exit code {init.code}{killed}"


def trouble_of(pod: Pod) -> tuple[Trouble, Reason, str] | None:
    """Why a pod whose main container hasn't started is waiting; None if nothing is wrong with it."""
    if pod.started:
        return None
    for name, container in (*pod.before, ("", pod.init), ("", pod.main)):
        if container is not None and (trouble := _trouble_of(name, container)) is not None:
            return trouble
    if pod.broken is not None:  # a sidecar, which its node begins again
        return Trouble.WAITS, Reason.SETUP_FAILED, _setup_message(*pod.broken)
    for name, container in pod.beside:  # the main one may start all the same
        if (trouble := _trouble_of(name, container)) is not None:
            return Trouble.WAITS, *trouble[1:]
    if pod.node is None and pod.scheduling:
        return Trouble.WAITS, Reason.UNSCHEDULABLE, pod.scheduling
    return None


def _trouble_of(name: str, container: Container) -> tuple[Trouble, Reason, str] | None:
    """`name`: of a container that is the template's own."""
    if container.state != "waiting":
        return None
    said = f"container {name}: " * bool(name) + f"{container.reason}: {container.message}".rstrip(": ")
    if container.reason in ("InvalidImageName", "ErrImageNeverPull"):
        return Trouble.NOW, Reason.IMAGE_PULL, said
    if container.reason in _PULLING:
        return Trouble.PULL, Reason.IMAGE_PULL, said
    if container.reason in _CONFIG and _NODES_TROUBLE.search(container.message):
        return Trouble.WAITS, Reason.START_TIMEOUT, said
    if container.reason in _CONFIG:
        return Trouble.CONFIG, Reason.CONFIG_ERROR, said
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
