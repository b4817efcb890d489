"""Pod status -> Exit: a table of statuses as real kubelets write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumer.executors.kubernetes.status import pod_of, slim
from consumer.executors.kubernetes.verdict import Trouble, exit_of, trouble_of, waiting_for
from enqueue.record import Reason, Tally

START, END = "2026-11-21T08:00:00Z", "2026-11-21T08:00:07Z"


def pod(phase: str = "Pending", main: dict[str, Any] | None = None, **extra: Any) -> Any:
    status: dict[str, Any] = {"phase": phase}
    status |= {k: v for k, v in extra.items() if k in ("reason", "message", "conditions")}
    if main is not None:
        status["containerStatuses"] = [{"name": "main", "state": main}, *extra.get("others", ())]
    if "init" in extra:
        status["initContainerStatuses"] = [{"name": "init", "state": extra["init"]}]
    meta = {"name": "p", "uid": "u", "resourceVersion": "1"}
    if extra.get("deleting"):
        meta |= {"deletionTimestamp": END, "deletionGracePeriodSeconds": 5}  # type: ignore[dict-item]
    return slim({"metadata": meta, "spec": {"nodeName": extra.get("node", "n1")}, "status": status})


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": START, "finishedAt": END, **more}}


DISRUPTED = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "m"}]
UNKNOWN = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": "could not be located"}}
RAN = {"terminated": {**UNKNOWN["terminated"], "message": "could not be located. The container used to be Running"}}
WAITS = {"waiting": {"reason": "PodInitializing"}}
PROXY = {"name": "proxy", "state": {"running": {}}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


TABLE: list[tuple[str, Any, dict[str, bool], tuple[int | None, int | None, Reason | None, bool]]] = [
    ("success", pod("Succeeded", ended(0, "Completed")), {}, (0, None, None, True)),
    ("exit 3", pod("Failed", ended(3)), {}, (3, None, None, True)),
    ("killed", pod("Failed", ended(137)), {}, (137, 9, None, True)),
    ("segfault", pod("Failed", ended(139)), {}, (139, 11, None, True)),
    ("exit 255 is no signal", pod("Failed", ended(255)), {}, (255, None, None, True)),
    ("exit 145 is no fatal signal", pod("Failed", ended(145)), {}, (145, None, None, True)),
    ("signal named", pod("Failed", ended(1, signal=15)), {}, (1, 15, None, True)),
    ("out of memory", pod("Failed", ended(137, "OOMKilled")), {}, (137, 9, Reason.OUT_OF_MEMORY, True)),
    ("no such command", pod("Failed", ended(128, "StartError")), {}, (128, None, Reason.START_ERROR, False)),
    ("old words for it", pod("Failed", ended(127, "ContainerCannotRun")), {}, (127, None, Reason.START_ERROR, False)),
    ("deadline", pod("Failed", ended(143), reason="DeadlineExceeded"), {}, (143, None, Reason.DEADLINE, True)),
    ("deadline, pending", pod("Failed", reason="DeadlineExceeded"), {}, (None, None, Reason.DEADLINE, False)),
    ("evicted by the node", pod("Failed", ended(137), reason="Evicted"), {}, (137, None, Reason.EVICTED, True)),
    ("evicted by the API", pod("Failed", ended(143), conditions=DISRUPTED), {}, (143, None, Reason.EVICTED, True)),
    ("evicted too late", pod("Succeeded", ended(0), conditions=DISRUPTED), {}, (0, None, None, True)),
    ("node lost", pod("Unknown", {"running": {"startedAt": START}}), {}, (None, None, Reason.NODE_LOST, True)),
    ("node lost, by reason", pod("Failed", UNKNOWN, reason="NodeLost"), {}, (None, None, Reason.NODE_LOST, False)),
    ("status lost", pod("Failed", RAN), {}, (None, None, Reason.NODE_LOST, True)),
    ("never there", pod("Failed", UNKNOWN, deleting=True), {}, (None, None, Reason.POD_DELETED, False)),
    ("refused by the node", pod("Failed", reason="OutOfcpu"), {}, (None, None, Reason.UNSCHEDULABLE, False)),
    ("no device left", pod("Failed", reason="OutOfnvidia.com/gpu"), {}, (None, None, Reason.UNSCHEDULABLE, False)),
    ("no huge pages", pod("Failed", reason="OutOfhugepages-2Mi"), {}, (None, None, Reason.UNSCHEDULABLE, False)),
    ("not tolerated", pod("Failed", reason="TaintToleration"), {}, (None, None, Reason.UNSCHEDULABLE, False)),
    ("no such profile", pod("Failed", reason="AppArmor"), {}, (None, None, Reason.UNSCHEDULABLE, False)),
    ("no such sysctl", pod("Failed", reason="SysctlForbidden"), {}, (None, None, Reason.UNSCHEDULABLE, False)),
    ("a word of tomorrow", pod("Failed", reason="New", message="Pod was rejected: no"), {},
     (None, None, Reason.UNSCHEDULABLE, False)),
    ("a node under pressure", pod("Failed", reason="Evicted", message="Pod was rejected: The node had condition: x"),
     {}, (None, None, Reason.EVICTED, False)),
    ("it ran, whatever is said", pod("Failed", ended(3), reason="OutOfcpu"), {}, (3, None, None, True)),
    ("init failed", pod("Failed", WAITS, init=ended(4)), {}, (4, None, Reason.INIT_FAILED, False)),
    ("init lost", pod("Failed", WAITS, init=UNKNOWN), {}, (None, None, Reason.NODE_LOST, False)),
    ("init deleted", pod("Failed", WAITS, init=UNKNOWN, deleting=True), {}, (None, None, Reason.POD_DELETED, False)),
    ("deleted", pod("Failed", ended(143), deleting=True), {}, (143, 15, Reason.POD_DELETED, True)),
    ("deleted by us", pod("Failed", ended(143), deleting=True), {"stopped": True}, (143, 15, None, True)),
    ("deleted but done", pod("Succeeded", ended(0), deleting=True), {}, (0, None, None, True)),
    ("gone", pod("Running", {"running": {"startedAt": START}}), {"gone": True}, (None, None, Reason.POD_DELETED, True)),
    ("gone, pending", pod(), {"gone": True}, (None, None, Reason.POD_DELETED, False)),
    ("gone, with its end", pod("Running", ended(7)), {"gone": True}, (7, None, None, True)),
    ("failed without a word", pod("Failed"), {}, (None, None, Reason.EXECUTOR_ERROR, False)),
    ("a sidecar runs on", pod("Running", ended(6), others=[PROXY]), {}, (6, None, None, True)),
]  # fmt: skip


@pytest.mark.parametrize(("seen", "how", "wanted"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_exits(seen: Any, how: dict[str, bool], wanted: tuple[Any, ...]) -> None:
    end = exit_of(seen, **how)
    assert end is not None
    assert (end.code, end.signal, end.reason, end.started) == wanted


def test_times_and_messages() -> None:
    end = exit_of(pod("Failed", ended(128, "StartError", message="exec: no such file")))
    assert end is not None
    assert end.message == "exec: no such file"
    end = exit_of(pod("Succeeded", ended(0)))
    assert end is not None
    assert end.started_at is not None
    assert end.ended_at == end.started_at + 7


@pytest.mark.parametrize(
    "seen",
    [
        pod(),
        pod("Running", {"running": {"startedAt": START}}),
        pod("Running", {"running": {"startedAt": START}}, deleting=True),
        pod("Running", ended(0)),  # the phase follows in a moment, and with it the pod's own words
        pod("Pending", WAITS, init=ended(0)),
    ],
)
def test_what_goes_on(seen: Any) -> None:
    assert exit_of(seen) is None


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (pod(main=waits("ImagePullBackOff", "m")), (Trouble.PULL, Reason.IMAGE_PULL, "ImagePullBackOff: m")),
        (pod(main=waits("ErrImagePull")), (Trouble.PULL, Reason.IMAGE_PULL, "ErrImagePull")),
        (pod(main=waits("InvalidImageName")), (Trouble.NOW, Reason.IMAGE_PULL, "InvalidImageName")),
        (pod(main=waits("ErrImageNeverPull")), (Trouble.NOW, Reason.IMAGE_PULL, "ErrImageNeverPull")),
        (pod(main=WAITS, init=waits("ErrImagePull")), (Trouble.PULL, Reason.IMAGE_PULL, "ErrImagePull")),
        (
            pod(main={"waiting": {"reason": "CreateContainerConfigError", "message": "m"}}),
            (Trouble.CONFIG, Reason.CONFIG_ERROR, "CreateContainerConfigError: m"),
        ),
        (
            pod(node=None, conditions=[{"type": "PodScheduled", "status": "False", "message": "no room"}]),
            (Trouble.WAITS, Reason.UNSCHEDULABLE, "no room"),
        ),
        (pod(main={"waiting": {"reason": "ContainerCreating"}}), None),
        (
            pod(main=waits("ContainerCreating"), others=[{"name": "proxy", "state": waits("ErrImageNeverPull", "m")}]),
            (Trouble.WAITS, Reason.IMAGE_PULL, "container proxy: ErrImageNeverPull: m"),
        ),
        (pod("Running", {"running": {}}, others=[{"name": "proxy", "state": waits("ErrImagePull")}]), None),
        (pod("Running", {"running": {}}), None),
    ],
)  # fmt: skip
def test_troubles(seen: Any, wanted: Any) -> None:
    assert trouble_of(seen) == wanted


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("CreateContainerError", "context deadline exceeded"),
        ("CreateContainerError", "rpc error: code = DeadlineExceeded desc = context deadline exceeded"),
        ("CreateContainerError", 'failed to reserve container name "main_p_jobs_0": name "main_p_jobs_0" is reserved'),
        ("CreateContainerError", "error reserving ctr name k8s_main_p_jobs_0 for id 7: name is reserved"),
        ("CreateContainerError", 'transport: Error while dialing: dial unix /run/containerd.sock: connection refused'),
        ("CreateContainerError", "write /var/lib/containerd/config.json: no space left on device"),
        ("RunContainerError", "context deadline exceeded"),
        ("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"),
    ],
)  # fmt: skip
def test_a_slow_or_broken_node_is_waited_for_and_is_not_the_jobs_fault(reason: str, message: str) -> None:
    told = (Trouble.WAITS, Reason.START_TIMEOUT, f"{reason}: {message}")
    assert trouble_of(pod(main=waits(reason, message))) == told
    assert trouble_of(pod(main=WAITS, init=waits(reason, message))) == told


@pytest.mark.parametrize(
    "message",
    [
        'container create failed: exec: "timeout": executable file not found in $PATH',
        "failed to generate container spec: no command specified",
        'container create failed: chdir to cwd ("/root") set in config.json failed: permission denied',
        "failed to create containerd container: mkdir /etc/passwd/x: not a directory",
        'container create failed: error mounting "/v" to rootfs: not a directory',
        "unable to find user nobody2: no matching entries in passwd file",
    ],
)
def test_what_the_job_asked_for_and_no_node_can_do_is_its_own_fault(message: str) -> None:
    kind, reason, _ = trouble_of(pod(main=waits("CreateContainerError", message))) or (None, None, "")
    assert (kind, reason) == (Trouble.CONFIG, Reason.CONFIG_ERROR)


def test_what_it_waits_for() -> None:
    assert waiting_for(pod(node=None)) == "it has no node yet"
    assert "init step" in waiting_for(pod(main=WAITS, init={"running": {}}))
    assert "ContainerCreating" in waiting_for(pod(main={"waiting": {"reason": "ContainerCreating"}}))


def test_variables_of_the_termination_messages() -> None:
    both = pod("Succeeded", ended(0, message="a=2\n"), init=ended(0, message="a=1\nb=1\n"))
    end = exit_of(both)
    assert end is not None
    assert dict(end.variables) == {"a": "2", "b": "1"}
    assert end.note is None
    alone = exit_of(pod("Failed", WAITS, init=ended(4, message="b=1\nx\n")))
    assert alone is not None
    assert dict(alone.variables) == {"b": "1"}
    assert "line 2 is neither" in (alone.note or "")


def test_a_full_termination_message_has_lost_its_beginning() -> None:
    full = "ost=1\n" + "kept=2\n" + "x=" + "y" * 4080 + "\n"
    assert len(full) == 4096
    end = exit_of(pod("Failed", ended(3, message=full)))
    assert end is not None
    assert dict(end.variables) == {"kept": "2", "x": "y" * 4080}
    assert end.note is not None
    assert "last 4,096 bytes" in end.note


def crowded(message: str, beside: int, **more: Any) -> Any:
    """The end of a pod with so many other containers, an init step among them."""
    others = [{"name": f"proxy-{i}", "state": {"running": {}}} for i in range(beside - 1)]
    end = exit_of(pod("Running", ended(0, "Completed", message=message), others=others, init=ended(0), **more))
    assert end is not None
    return end


@pytest.mark.parametrize(("beside", "room"), [(3, 3072), (4, 2457), (11, 1024)])
def test_many_containers_leave_each_but_a_part_of_its_message(beside: int, room: int) -> None:
    file = "".join(f"k{i:02d}={'x' * 90}{i:02d}\n" for i in range(40))
    told = dict(crowded(file[:room], beside).variables)
    whole = dict(line.split("=") for line in file.splitlines())
    assert told.items() <= whole.items()
    assert list(told) == list(whole)[1 : room // 97]  # the first line may have lost its beginning as well
    note = crowded(file[:room], beside).note
    assert f"of the file's last 4,096 bytes only the first {room:,} are read" in (note or "")


def test_a_message_that_has_room_is_whole_however_many_containers_there_are() -> None:
    fits = "a=1\n" + "b=" + "x" * 3064 + "\n"
    assert len(fits) == 3071
    for beside, message in ((3, fits), (2, fits + "c=1\n")):
        end = crowded(message, beside)
        assert (end.variables[0], end.note) == (("a", "1"), None)
    counts = "\n::longshore-output 1 3\n"
    exact = "a=1\nb=" + "x" * (3072 - 6 - len(counts)) + counts
    assert len(exact) == 3072
    end = crowded(exact, 3)  # its last line is there
    assert (end.variables[0], end.note) == (("a", "1"), None)


def test_a_message_cut_inside_a_letter_is_cut() -> None:
    end = crowded("a=1\nb=2\nc=" + "é" * 1530 + "\ufffd", 3)
    assert (end.variables, end.note is not None) == ((("b", "2"),), True)


@pytest.mark.parametrize("reason", ["StartError", "ContainerStatusUnknown"])
def test_a_message_that_is_not_the_jobs_sets_nothing(reason: str) -> None:
    end = exit_of(pod("Failed", ended(128, reason, message="exec: a=1\nb=2")))
    assert end is not None
    assert end.variables == ()
    assert end.note is None


def test_what_the_steps_counted_is_told_only_if_all_of_them_told() -> None:
    told, silent = "A=1\n\n::longshore-output 2 20\n", "B=1\n"
    end = exit_of(pod("Succeeded", ended(0, message=told), init=ended(0, message="::longshore-output 1 3\n")))
    assert end is not None
    assert (end.written, end.variables) == (Tally(lines=3, bytes=23), (("A", "1"),))
    for main, init in ((told, silent), (silent, told)):
        end = exit_of(pod("Succeeded", ended(0, message=main), init=ended(0, message=init)))
        assert end is not None
        assert end.written is None
    failed = exit_of(pod("Failed", WAITS, init=ended(1, message=told)))
    assert failed is not None
    assert failed.written is None  # nothing is said of a step that never ran


@pytest.mark.row(37)
@pytest.mark.parametrize("step", ["main", "init"])
def test_out_of_memory_names_the_limit_that_held(step: str) -> None:
    killed = {"name": step, "state": ended(137, "OOMKilled")}
    kind, statuses = (
        ("containers", "containerStatuses") if step == "main" else ("initContainers", "initContainerStatuses")
    )
    containers = [{"name": "other", "resources": {"limits": {"memory": "1Gi"}}}, {"name": step, "image": "i"}]
    found = {"metadata": {"name": "p", "uid": "u"}, "spec": {kind: containers}}
    found["status"] = {"phase": "Failed", statuses: [killed]}
    unknown = exit_of(pod_of(json.dumps(found).encode()), gone=False)
    containers[1] |= {"resources": {"limits": {"cpu": "1", "memory": "64Mi"}}}
    known = exit_of(pod_of(json.dumps(found).encode()), gone=False)
    assert unknown is not None
    assert known is not None
    assert "more memory than its limit" in (unknown.message or "")
    assert " of " not in (unknown.message or "").partition("limit")[2]
    assert "more memory than its limit of 64Mi" in (known.message or "")
