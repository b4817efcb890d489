"""How each captured pod status was made: a pod, and what happened to it."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIMULATED: dict[str, Any] = {
    "spec": {"taints": [{"key": "capture", "effect": "NoSchedule"}]},
    "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
}


def state(capture: Any, kind: str, name: str = "main") -> dict[str, Any] | None:
    """What the pod's status says of a container, if it is in this state."""
    for group in ("initContainerStatuses", "containerStatuses"):
        for found in capture.status.get(group) or ():
            if found["name"] == name:
                said: dict[str, Any] | None = found["state"].get(kind)
                return said
    return None


def is_over(capture: Any) -> bool:
    return capture.status.get("phase") in ("Succeeded", "Failed")


async def over(capture: Any) -> None:
    await capture.until(is_over)


async def running(capture: Any) -> None:
    await capture.until(lambda c: state(c, "running") is not None)


async def gone(capture: Any) -> None:
    await capture.until(lambda c: c.gone)


def waits_for(reason: str, name: str = "main") -> Callable[[Any], Awaitable[None]]:
    async def do(capture: Any) -> None:
        await capture.until(lambda c: (state(c, "waiting", name) or {}).get("reason") == reason)

    return do


async def unscheduled(capture: Any) -> None:
    await capture.until(lambda c: any(x.get("reason") == "Unschedulable" for x in c.status.get("conditions") or ()))


def then(*steps: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[None]]:
    async def do(capture: Any) -> None:
        for step in steps:
            await step(capture)

    return do


def delete(grace: int) -> Callable[[Any], Awaitable[None]]:
    return lambda capture: capture.delete(grace)  # type: ignore[no-any-return]


async def evict(capture: Any) -> None:
    await capture.evict()


async def delete_node(capture: Any) -> None:
    await capture.api.request("DELETE", f"/api/v1/nodes/{capture.name}")


async def taint_node(capture: Any) -> None:
    taint = {"key": "capture-now", "effect": "NoExecute"}
    await capture.patch(f"/api/v1/nodes/{capture.name}", {"spec": {"taints": [taint]}})


async def run_on_nothing(capture: Any) -> None:
    """What a kubelet would say of a pod that runs, on a node that was alive for a moment."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
    await capture.patch(f"/api/v1/nodes/{capture.name}/status", {"status": {"conditions": [ready]}})
    main = {"name": "main", "image": "busybox", "imageID": "", "ready": True, "restartCount": 0, "started": True}
    status = {"phase": "Running", "containerStatuses": [main | {"state": {"running": {"startedAt": now}}}]}
    await capture.patch(f"{capture.path}/status", {"status": status})


async def kill_from_outside(capture: Any) -> None:
    """SIGKILL to the main process, by root on the node (which must be this host)."""
    for process in _processes(capture.pod["metadata"]["uid"].replace("-", "_")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, 9)


def _processes(uid: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = uid in (folder / "cgroup").read_text().replace("-", "_")
            if ours and b"sleep" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


async def take_slot(capture: Any) -> None:
    """A pod of a higher priority that needs what this one holds."""
    spec = pod(SLEEP, priorityClassName="capture-high", _main=SLOT)
    meta = {"name": "capture-pushes"}
    pods = capture.path.rpartition("/")[0]
    await capture.api.request("POST", pods, body={"metadata": meta, "spec": spec})
    try:
        await gone(capture)
    finally:
        await capture.api.request("DELETE", f"{pods}/capture-pushes", body={"gracePeriodSeconds": 0})


async def deleting(capture: Any) -> None:
    await capture.until(lambda c: "deletionTimestamp" in c.pod.get("metadata", {}))


@dataclass
class Case:
    """A pod's spec, and what is done to it; `node`: on a node of its own, simulated by whoever minds its labels."""

    name: str
    made: str
    spec: dict[str, Any]
    do: Callable[[Any], Awaitable[Any]] = over
    node: bool = False
    labels: Mapping[str, str] = field(default_factory=lambda: {"type": "kwok"})


def container(command: str | list[str], name: str = "main", **fields: Any) -> dict[str, Any]:
    """A container with a script or a command."""
    words = ["sh", "-c", command] if isinstance(command, str) else command
    return {"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": words} | fields


def pod(command: str | list[str] = "exit 0", *others: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A pod's spec; `_main` has fields of the main container."""
    main = container(command, **fields.pop("_main", {}))
    kept = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "enableServiceLinks": False}
    return kept | {"automountServiceAccountToken": False, "containers": [main, *others]} | copy.deepcopy(fields)


def init(command: str | list[str], **fields: Any) -> dict[str, Any]:
    """Fields of a pod with an init step."""
    return {"initContainers": [container(command, "init", **fields)]}


def memory(limit: str) -> dict[str, Any]:
    return {"resources": {"limits": {"memory": limit}}}


SECRET_VOLUME = [{"name": "v", "secret": {"secretName": "not-there"}}]
EAT = 'x=aaaaaaaaaaaaaaaa; while :; do x="$x$x"; done'
TRAP = 'trap "echo term; exit 0" TERM; while :; do sleep 0.1; done'
DEAF = 'trap "" TERM; while :; do sleep 1; done'
SLEEP = "exec sleep 600"
NOBODY = {"securityContext": {"runAsNonRoot": True, "runAsUser": 65532}}
SELF = {"shareProcessNamespace": True}
AWAY = {"nodeSelector": {"capture": "nowhere"}}
ALL = [{"operator": "Exists", "effect": "NoSchedule"}]
SLOT = {"resources": {"limits": {"capture.example/slot": "1"}}}
KEY = {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "kept", "key": "absent"}}}]}
MAP = {"envFrom": [{"configMapRef": {"name": "not-there"}}]}

CASES = [
    Case("success", "exit 0", pod()),
    Case("success-non-root", "exit 0 as user 65532 with a termination message",
         pod('echo a=1 > /dev/termination-log', **NOBODY)),
    Case("message-of-init-and-main", "both write /dev/termination-log",
         pod("echo a=2 >/dev/termination-log; exit 3", **init("echo a=1 >/dev/termination-log"))),
    Case("message-too-long", "more than 4096 bytes in /dev/termination-log",
         pod("i=0; while [ $i -lt 500 ]; do echo v$i=abcdef; i=$((i+1)); done >/dev/termination-log")),
    *(Case(f"exit-{code}", f"exit {code}", pod(f"exit {code}")) for code in (1, 3, 77, 126, 128, 130, 137, 143, 255)),
    Case("command-not-found-in-the-shell", "the shell finds no such command: 127", pod("no-such-command")),
    *(Case(f"signal-{name.lower()}", f"SIG{name} to the main process (shared process namespace)",
           pod(f"kill -{name} $$$$; sleep 9", **SELF)) for name in ("TERM", "KILL", "SEGV", "ABRT", "HUP")),
    Case("signal-to-a-child", "the shell's child is killed, the shell reports 137",
         pod("sh -c 'kill -9 $$$$'; exit $?", **SELF)),
    Case("oom-main", "the main process grows beyond its limit", pod(EAT, _main=memory("16Mi"))),
    Case("oom-child", "a child grows beyond the limit; the shell ends with its code",
         pod(f"sh -c '{EAT}'; exit $?", _main=memory("16Mi"))),
    Case("oom-child-survived", "a child grows beyond the limit; the shell goes on and ends with 0",
         pod(f"sh -c '{EAT}'; sleep 1; exit 0", _main=memory("16Mi"))),
    Case("oom-child-other-code", "a child grows beyond the limit; the shell ends with 7",
         pod(f"sh -c '{EAT}'; sleep 1; exit 7", _main=memory("16Mi"))),
    Case("oom-init", "the init step grows beyond its limit", pod(**init(EAT, **memory("16Mi")))),
    Case("deadline", "activeDeadlineSeconds: 2", pod(SLEEP, activeDeadlineSeconds=2)),
    Case("deadline-exit-0", "activeDeadlineSeconds: 2, exit 0 on TERM", pod(TRAP, activeDeadlineSeconds=2)),
    Case("deadline-pending", "activeDeadlineSeconds: 2, image can't be pulled",
         pod(activeDeadlineSeconds=2, _main={"image": "127.0.0.1:1/none:1"})),
    Case("deadline-unschedulable", "activeDeadlineSeconds: 2, no node", pod(activeDeadlineSeconds=2, **AWAY),
         unscheduled),
    Case("image-name", "image: Bad Name", pod(_main={"image": "Bad:Name:x"}), waits_for("InvalidImageName")),
    Case("image-registry", "no registry at 127.0.0.1:1", pod(_main={"image": "127.0.0.1:1/none:1"}),
         waits_for("ImagePullBackOff")),
    Case("image-never", "imagePullPolicy: Never", pod(_main={"image": "absent:1", "imagePullPolicy": "Never"}),
         waits_for("ErrImageNeverPull")),
    Case("image-of-init", "no registry for the init step",
         pod(**init("exit 0", image="127.0.0.1:1/none:1")), waits_for("ImagePullBackOff", "init")),
    Case("image-of-sidecar", "no registry for a sidecar (init container, restartPolicy Always)",
         pod(initContainers=[container(DEAF, "proxy", restartPolicy="Always", image="127.0.0.1:1/none:1")]),
         waits_for("ImagePullBackOff", "proxy")),
    Case("config-no-secret-key", "env from a key that the Secret lacks", pod(_main=KEY),
         waits_for("CreateContainerConfigError")),
    Case("config-no-configmap", "envFrom a ConfigMap that isn't there", pod(_main=MAP),
         waits_for("CreateContainerConfigError")),
    Case("config-root-refused", "runAsNonRoot with an image that runs as root",
         pod(securityContext={"runAsNonRoot": True}), waits_for("CreateContainerConfigError")),
    Case("config-seccomp", "a seccomp profile that the node lacks",
         pod(securityContext={"seccompProfile": {"type": "Localhost", "localhostProfile": "none.json"}}),
         waits_for("CreateContainerError")),
    Case("start-no-command", "command: [no-such-command]", pod(["no-such-command"])),
    Case("start-no-executable", "command: [/etc]", pod(["/etc"])),
    Case("start-workdir-is-a-file", "workingDir: /bin/sh", pod(_main={"workingDir": "/bin/sh"})),
    Case("start-mount-over-a-file", "a volume mounted at /etc/passwd/x",
         pod(_main={"volumeMounts": [{"name": "v", "mountPath": "/etc/passwd/x"}]}, volumes=[{"name": "v",
         "emptyDir": {}}])),
    Case("mount-no-secret", "a volume of a Secret that isn't there (only events tell)",
         pod(volumes=SECRET_VOLUME, _main={"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
         waits_for("ContainerCreating")),
    Case("sandbox", "runtimeClassName whose handler the node lacks (only events tell)",
         pod(runtimeClassName="capture-none"), waits_for("ContainerCreating")),
    Case("pulling-for-long", "the life of a pod whose image can't be pulled",
         pod(_main={"image": "127.0.0.1:1/none:1"}),
         then(waits_for("ErrImagePull"), waits_for("ImagePullBackOff"), waits_for("ErrImagePull"))),
    Case("unschedulable-selector", "nodeSelector that no node has", pod(**AWAY), unscheduled),
    Case("unschedulable-cpu", "1000 CPUs", pod(_main={"resources": {"requests": {"cpu": "10000"}}}), unscheduled),
    Case("unschedulable-claim", "a volume claim that isn't there",
         pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}]), unscheduled),
    Case("node-refused-cpu", "bound by hand to a node without room",
         pod(nodeName="labnode", _main={"resources": {"requests": {"cpu": "1000"}}})),
    Case("node-refused-affinity", "bound by hand to a node that doesn't match", pod(nodeName="labnode", **AWAY)),
    Case("evicted-running", "eviction by the API", pod(SLEEP, **SELF), then(running, evict, gone)),
    Case("evicted-deaf", "eviction by the API of a job that ignores TERM", pod(DEAF), then(running, evict, gone)),
    Case("evicted-exit-0", "eviction by the API, exit 0 on TERM", pod(TRAP), then(running, evict, gone)),
    Case("evicted-pending", "eviction by the API before it has a node", pod(**AWAY), then(unscheduled, evict, gone)),
    Case("evicted-pulling", "eviction by the API while its image can't be pulled",
         pod(_main={"image": "127.0.0.1:1/none:1"}), then(waits_for("ErrImagePull"), evict, gone)),
    Case("evicted-init", "eviction by the API during the init step", pod(**init(SLEEP)),
         then(lambda c: c.until(lambda c: state(c, "running", "init")), evict, gone)),
    Case("evicted-by-node-storage", "an emptyDir beyond its sizeLimit",
         pod("dd if=/dev/zero of=/v/x bs=1M count=20; sleep 600",
             _main={"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
             volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}])),
    Case("evicted-by-node-container-storage", "writes beyond limits.ephemeral-storage",
         pod("dd if=/dev/zero of=/x bs=1M count=20; sleep 600",
             _main={"resources": {"limits": {"ephemeral-storage": "1Mi"}}})),
    Case("preempted", "a pod of higher priority wants the same extended resource",
         pod(SLEEP, priorityClassName="capture-low", _main=SLOT), then(running, take_slot)),
    Case("killed-from-outside", "SIGKILL from the node", pod(SLEEP), then(running, kill_from_outside, over)),
    Case("deleted-unscheduled", "deleted by hand before it has a node", pod(**AWAY), then(unscheduled, delete(1),
         gone)),
    Case("deleted-pulling", "deleted by hand while its image can't be pulled",
         pod(_main={"image": "127.0.0.1:1/none:1"}), then(waits_for("ErrImagePull"), delete(1), gone)),
    Case("deleted-running", "deleted by hand, ends by TERM", pod(SLEEP, **SELF), then(running, delete(5), gone)),
    Case("deleted-deaf", "deleted by hand, ignores TERM", pod(DEAF), then(running, delete(1), gone)),
    Case("deleted-exit-0", "deleted by hand, exit 0 on TERM", pod(TRAP), then(running, delete(5), gone)),
    Case("deleted-at-once", "force-deleted (grace 0) while it runs", pod(SLEEP), then(running, delete(0), gone)),
    Case("deleted-after-its-end", "deleted by hand after exit 3", pod("exit 3"), then(over, delete(1), gone)),
    Case("deleted-during-init", "deleted by hand during the init step", pod(**init(SLEEP)),
         then(lambda c: c.until(lambda c: state(c, "running", "init")), delete(1), gone)),
    Case("init-failed", "the init step ends with 4", pod(**init("exit 4"))),
    Case("init-killed", "the init step is killed", pod(**init("kill -9 $$$$"), **SELF)),
    Case("init-no-command", "the init step's command isn't there", pod(**init(["no-such-command"]))),
    Case("init-then-main", "an init step, then exit 5", pod("exit 5", **init("sleep 1"))),
    Case("sidecar-native", "a sidecar (init container, restartPolicy Always) that goes on; main ends with 6",
         pod("sleep 1; exit 6", initContainers=[container(DEAF, "proxy", restartPolicy="Always")])),
    Case("setup-failed", "an init container of the template, before the init step, ends with 3",
         pod(initContainers=[container("exit 3", "fetch"), container("true", "init")])),
    Case("setup-no-command", "the command of an init container of the template isn't there",
         pod(initContainers=[container(["no-such-command"], "fetch")])),
    Case("sidecar-no-command", "a sidecar (init container, restartPolicy Always) that can't be started",
         pod(initContainers=[container(["no-such-command"], "proxy", restartPolicy="Always")]),
         lambda c: c.until(lambda c: state(c, "terminated", "proxy"))),
    Case("sidecar-plain", "a second container that goes on after main ended with 6",
         pod("exit 6", container(SLEEP, "proxy")), lambda c: c.until(lambda c: state(c, "terminated"))),
    Case("sidecar-fails", "a second container fails while main goes on to its good end",
         pod("sleep 2; exit 0", container("exit 9", "proxy"))),
    Case("node-drained-by-taint", "taint NoExecute on a simulated node", pod(SLEEP, tolerations=ALL),
         then(running, taint_node, gone), node=True),
    Case("node-deleted", "the Node object is deleted, no kubelet answers", pod(SLEEP, tolerations=ALL),
         then(run_on_nothing, delete_node, gone), node=True, labels={}),
    Case("node-silent", "a node without heartbeats, no kubelet answers",
         pod(SLEEP, tolerations=[*ALL, {"key": "node.kubernetes.io/unreachable", "operator": "Exists",
             "effect": "NoExecute", "tolerationSeconds": 1}]),
         then(run_on_nothing, deleting), node=True, labels={}),
]  # fmt: skip
