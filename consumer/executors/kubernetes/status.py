"""A slim copy of a pod: the few fields of its status that decide anything.

Source of the words: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/ and statuses of real pods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consumer.executors import names
from consumer.executors.kubernetes import answers
from consumer.model import AttemptKey
from consumer.outcome_file import CAP
from enqueue.times import epoch

MAIN, INIT = "main", "init"

NOT_STARTED = ("StartError", "ContainerCannotRun", "RunContainerError", "CreateContainerError")
NO_STATUS = "ContainerStatusUnknown"
MESSAGE = 1000
_SETTING_UP = ("ContainerCreating", "PodInitializing")


@dataclass(slots=True)  # not frozen: that would cost three times as much, and each event makes one; never changed
class Container:
    """One container's state: `state` is waiting, running or terminated; times in seconds since the epoch."""

    state: str = "waiting"
    reason: str = ""
    message: str = ""
    code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    memory: str = ""
    """Its limit, as its pod says it."""

    @property
    def started(self) -> bool:
        """Its command has begun, as far as the kubelet says."""
        if self.state != "terminated":
            return self.state == "running"
        return self.reason not in NOT_STARTED and not self.unknown

    @property
    def failed(self) -> bool:
        """Its end was seen, and it was no good one."""
        return self.state == "terminated" and self.code != 0 and self.reason != NO_STATUS

    @property
    def unknown(self) -> bool:
        """Made up by the kubelet for a container that was never there (it says so if it "used to be Running")."""
        return self.reason == NO_STATUS and self.started_at is None and "used to be" not in self.message


@dataclass(slots=True)  # as above
class Pod:
    """The few fields of a pod that decide anything; the rest isn't kept. Never changed."""

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
    deleted_at: float | None = None
    """When its deletion was asked for, by the API server's clock; unknown once the kubelet asks for its removal."""
    scheduling: str = ""
    disruption: str = ""
    """The reason of the condition DisruptionTarget, such as EvictionByEvictionAPI, and its message."""
    disrupted: str = ""
    main: Container | None = None
    init: Container | None = None
    others_run: bool = False
    containers: int = 0
    """With all init containers, and with those that a template or somebody on the way has put in."""
    before: tuple[tuple[str, Container], ...] = ()
    """The template's own init containers that wait, by name, and say why."""
    beside: tuple[tuple[str, Container], ...] = ()
    """The same of its containers beside the main one."""
    broken: tuple[str, Container] | None = None
    """The first of the template's own init containers that has failed."""
    source: str = ""
    created: str = ""
    secret: str = ""
    """The name of its own Secret."""
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

    @property
    def begun(self) -> bool:
        """A command of the job has begun, be it the init step's: it isn't run again without leave."""
        return self.started or (self.init is not None and self.init.started)


def pod_of(answer: bytes) -> Pod:
    """The same of a pod as JSON. Raises ValueError if it is no JSON object."""
    return slim(answers.pod(answer))


def slim(pod: Mapping[str, Any]) -> Pod:
    """Copy the needed fields out of the API's object."""
    meta, spec, status = pod.get("metadata") or {}, pod.get("spec") or {}, pod.get("status") or {}
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    scheduling = disruption = disrupted = ""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            scheduling = condition.get("message") or condition.get("reason") or ""
        elif condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            disruption, disrupted = condition.get("reason") or "disrupted", condition.get("message") or ""
    deleting = "deletionTimestamp" in meta
    grace = float(meta.get("deletionGracePeriodSeconds") or 0) if deleting else 0.0
    due = epoch(meta["deletionTimestamp"]) if deleting else None
    main, others = None, False
    steps, inits = status.get("containerStatuses") or (), status.get("initContainerStatuses") or ()
    for found in steps:
        if found.get("name") == MAIN:
            main = _container(found)
        elif "terminated" not in (found.get("state") or {}):
            others = True
    init = next((_container(c) for c in inits if c.get("name") == INIT), None) if inits else None
    for step, kind, name in ((main, "containers", MAIN), (init, "initContainers", INIT)):
        if step is not None and step.reason == "OOMKilled":
            step.memory = _memory_of(spec.get(kind) or (), name)
    return Pod(
        name=meta.get("name") or "",
        uid=meta.get("uid") or "",
        version=meta.get("resourceVersion") or "",
        job=labels.get(names.JOB, ""),
        digest=annotations.get(names.DIGEST, ""),
        node=spec.get("nodeName"),
        phase=status.get("phase") or "Pending",
        reason=status.get("reason") or "",
        message=(status.get("message") or "")[:MESSAGE],
        deleting=deleting,
        grace=grace,
        deleted_at=due - grace if due is not None and grace else None,
        scheduling=scheduling[:MESSAGE],
        disruption=disruption,
        disrupted=disrupted[:MESSAGE],
        main=main,
        init=init,
        others_run=others,
        containers=len(steps) + len(inits),
        before=_waiting(inits, INIT) if inits else (),
        broken=_broken(inits) if inits else None,
        beside=_waiting(steps, MAIN) if len(steps) > 1 or main is None else (),
        source=labels.get(names.SOURCE, ""),
        created=annotations.get(names.CREATED, ""),
        secret=annotations.get(names.SECRET, ""),
        attempt=_attempt_of(meta.get("name") or "", labels, annotations),
    )


def _memory_of(containers: Sequence[Mapping[str, Any]], name: str) -> str:
    found: Mapping[str, Any] = next((c for c in containers if c.get("name") == name), {})
    return ((found.get("resources") or {}).get("limits") or {}).get("memory") or ""


def _waiting(statuses: Sequence[Mapping[str, Any]], ours: str) -> tuple[tuple[str, Container], ...]:
    found = [(c.get("name") or "", _container(c)) for c in statuses if c.get("name") != ours]
    return tuple((n, c) for n, c in found if c.state == "waiting" and c.reason not in ("", *_SETTING_UP))


def _broken(inits: Sequence[Mapping[str, Any]]) -> tuple[str, Container] | None:
    found = ((c.get("name") or "", _container(c)) for c in inits if c.get("name") != INIT)
    return next((named for named in found if named[1].failed), None)


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
                message=(said.get("message") or "")[: MESSAGE if name != "terminated" else CAP],
                code=said.get("exitCode"),
                signal=said.get("signal") or None,
                started_at=epoch(said.get("startedAt")),
                ended_at=epoch(said.get("finishedAt")),
            )
    return Container()
