"""What real statuses mean. They were captured by tests/capture_pod_statuses.py; each file says how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consumer.executors.kubernetes.status import Pod, slim
from consumer.executors.kubernetes.verdict import Trouble, exit_of, trouble_of, waiting_for
from consumer.model import Exit
from enqueue.record import Reason

FOLDER = Path(__file__).parents[3] / "data" / "pod-statuses"

CONFIG, NOW, PULL, WAITS = Trouble.CONFIG, Trouble.NOW, Trouble.PULL, Trouble.WAITS
ENDS: dict[str, tuple[int | None, int | None, Reason | None, bool, str]] = {
    "success": (0, None, None, True, ""),
    "success-non-root": (0, None, None, True, ""),
    "message-of-init-and-main": (3, None, None, True, ""),
    "message-too-long": (0, None, None, True, ""),
    **{f"exit-{code}": (code, None, None, True, "") for code in (1, 3, 77, 126, 128, 255)},
    "exit-130": (130, 2, None, True, "killed by SIGINT (exit code 130)"),
    "exit-137": (137, 9, None, True, "killed by SIGKILL (exit code 137)"),
    "exit-143": (143, 15, None, True, "killed by SIGTERM (exit code 143)"),
    "command-not-found-in-the-shell": (127, None, None, True, ""),
    "signal-term": (143, 15, None, True, "killed by SIGTERM"),
    "signal-kill": (137, 9, None, True, "killed by SIGKILL"),
    "signal-segv": (139, 11, None, True, "killed by SIGSEGV"),
    "signal-abrt": (134, 6, None, True, "killed by SIGABRT"),
    "signal-hup": (129, 1, None, True, "killed by SIGHUP"),
    "signal-to-a-child": (137, 9, None, True, "killed by SIGKILL"),
    "killed-from-outside": (137, 9, None, True, "killed by SIGKILL"),
    "oom-main": (137, 9, Reason.OUT_OF_MEMORY, True, "(exit code 137)"),
    "oom-child": (137, 9, Reason.OUT_OF_MEMORY, True, "a process of the job"),
    "oom-child-other-code": (7, None, Reason.OUT_OF_MEMORY, True, "(exit code 7)"),
    "oom-child-survived": (0, None, None, True, ""),
    "oom-init": (137, None, Reason.INIT_FAILED, False, "more memory than its limit"),
    "deadline": (137, None, Reason.DEADLINE, True, "longer than the specified deadline"),
    "deadline-exit-0": (0, None, Reason.DEADLINE, True, "longer than the specified deadline"),
    "deadline-pending": (None, None, Reason.DEADLINE, False, "longer than the specified deadline"),
    "start-no-command": (128, None, Reason.START_ERROR, False, "no-such-command"),
    "start-no-executable": (128, None, Reason.START_ERROR, False, "permission denied"),
    "start-workdir-is-a-file": (128, None, Reason.START_ERROR, False, "not a directory"),
    "start-mount-over-a-file": (128, None, Reason.START_ERROR, False, "not a directory"),
    "node-refused-cpu": (None, None, Reason.UNSCHEDULABLE, False, "OutOfcpu"),
    "node-refused-affinity": (None, None, Reason.UNSCHEDULABLE, False, "NodeAffinity"),
    "evicted-running": (143, None, Reason.EVICTED, True, "EvictionByEvictionAPI"),
    "evicted-deaf": (137, None, Reason.EVICTED, True, "EvictionByEvictionAPI"),
    "evicted-exit-0": (0, None, None, True, ""),
    "evicted-pending": (None, None, Reason.EVICTED, False, "EvictionByEvictionAPI"),
    "evicted-pulling": (None, None, Reason.EVICTED, False, "EvictionByEvictionAPI"),
    "evicted-init": (137, None, Reason.EVICTED, False, "EvictionByEvictionAPI"),
    "evicted-by-node-storage": (137, None, Reason.OUT_OF_STORAGE, True, 'exceeds the limit "1Mi"'),
    "evicted-by-node-container-storage": (137, None, Reason.OUT_OF_STORAGE, True, "total limit of containers 1Mi"),
    "preempted": (137, None, Reason.PREEMPTED, True, "a pod of a higher priority"),
    "deleted-unscheduled": (None, None, Reason.POD_DELETED, False, "was deleted"),
    "deleted-pulling": (None, None, Reason.POD_DELETED, False, "was deleted"),
    "deleted-running": (143, 15, Reason.POD_DELETED, True, "was deleted while it ran"),
    "deleted-deaf": (137, 9, Reason.POD_DELETED, True, "was deleted while it ran"),
    "deleted-exit-0": (0, None, None, True, ""),
    "deleted-at-once": (None, None, Reason.POD_DELETED, True, "was deleted before its end was seen"),
    "deleted-after-its-end": (3, None, None, True, ""),
    "deleted-during-init": (137, None, Reason.POD_DELETED, False, "was deleted"),
    "init-failed": (4, None, Reason.INIT_FAILED, False, "exit code 4"),
    "init-killed": (137, None, Reason.INIT_FAILED, False, "exit code 137: killed by SIGKILL"),
    "init-no-command": (128, None, Reason.INIT_FAILED, False, "couldn't be started"),
    "init-then-main": (5, None, None, True, ""),
    "setup-failed": (3, None, Reason.SETUP_FAILED, False, "init container fetch ended with exit code 3"),
    "setup-no-command": (128, None, Reason.SETUP_FAILED, False, "init container fetch couldn't be started"),
    "sidecar-native": (6, None, None, True, ""),
    "sidecar-plain": (6, None, None, True, ""),
    "sidecar-fails": (0, None, None, True, ""),
    "node-drained-by-taint": (None, None, Reason.EVICTED, True, "DeletionByTaintManager"),
    "node-deleted": (None, None, Reason.NODE_LOST, True, "node is gone"),
}
"""Name -> exit code, signal, reason, started, and what the message says."""

GO_ON: dict[str, tuple[Trouble, Reason, str] | None] = {
    "image-name": (NOW, Reason.IMAGE_PULL, "InvalidImageName"),
    "image-never": (NOW, Reason.IMAGE_PULL, "not present with pull policy of Never"),
    "image-registry": (PULL, Reason.IMAGE_PULL, "connection refused"),
    "image-of-init": (PULL, Reason.IMAGE_PULL, "connection refused"),
    "pulling-for-long": (PULL, Reason.IMAGE_PULL, "connection refused"),
    "config-no-secret-key": (CONFIG, Reason.CONFIG_ERROR, "couldn't find key absent in Secret"),
    "config-no-configmap": (CONFIG, Reason.CONFIG_ERROR, 'configmap "not-there" not found'),
    "config-root-refused": (CONFIG, Reason.CONFIG_ERROR, "image will run as root"),
    "image-of-sidecar": (PULL, Reason.IMAGE_PULL, "container proxy: ImagePullBackOff: "),
    "config-seccomp": (CONFIG, Reason.CONFIG_ERROR, "seccomp profile"),
    "unschedulable-selector": (WAITS, Reason.UNSCHEDULABLE, "didn't match Pod's node affinity/selector"),
    "unschedulable-cpu": (WAITS, Reason.UNSCHEDULABLE, "Insufficient cpu"),
    "unschedulable-claim": (WAITS, Reason.UNSCHEDULABLE, 'persistentvolumeclaim "none" not found'),
    "deadline-unschedulable": (WAITS, Reason.UNSCHEDULABLE, "didn't match"),
    "sidecar-no-command": (WAITS, Reason.SETUP_FAILED, "init container proxy couldn't be started: failed to create"),
    "mount-no-secret": None,
    "sandbox": None,
    "node-silent": None,
}
"""Pods that have no end of themselves -> what is wrong with them, as far as the status tells."""

NOTES = {
    "message-too-long": "only the file's last 4,096 bytes are read",
    "oom-child-survived": "a process of the job was killed",
    "evicted-exit-0": "while its pod was being removed (EvictionByEvictionAPI)",
    "deleted-exit-0": "while its pod was being removed (deleted)",
}


def states(name: str) -> list[tuple[Pod, bool]]:
    """Every state that a watch showed of the pod, and whether it had gone by then."""
    kept: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return [(slim(state["object"]), state["type"] == "DELETED") for state in kept["states"]]


def end_of(name: str) -> Exit:
    """The first end that the pod's states tell: it stands."""
    return next(end for end in (exit_of(pod, gone=gone) for pod, gone in states(name)) if end is not None)


def test_every_captured_status_has_its_row() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*ENDS, *GO_ON}


@pytest.mark.parametrize("name", ENDS)
def test_ends(name: str) -> None:
    end = end_of(name)
    *wanted, message = ENDS[name]
    assert [end.code, end.signal, end.reason, end.started] == wanted
    assert message in (end.message or "")
    assert end.reason is None or end.message


@pytest.mark.parametrize("name", ENDS)
def test_no_state_says_an_end_too_early_or_another_one_later(name: str) -> None:
    told = end_of(name)
    seen = [exit_of(pod, gone=gone) for pod, gone in states(name)]
    first = next(number for number, end in enumerate(seen) if end is not None)
    assert first > 0
    for end in seen[first:]:
        assert end is not None
        assert (end.code, end.reason, end.started) == (told.code, told.reason, told.started)


@pytest.mark.parametrize("name", GO_ON)
def test_what_is_wrong_with_a_pod_that_does_not_start(name: str) -> None:
    assert all(exit_of(pod, gone=gone) is None for pod, gone in states(name))
    pod = states(name)[-1][0]
    trouble, wanted = trouble_of(pod), GO_ON[name]
    if wanted is None:
        assert trouble is None
        assert waiting_for(pod)
        return
    assert trouble is not None
    assert trouble[:2] == wanted[:2]
    assert wanted[2] in trouble[2]
    assert wanted[2] in waiting_for(pod)


@pytest.mark.parametrize("name", ENDS)
def test_notes(name: str) -> None:
    note = end_of(name).note
    assert (note is None) == (name not in NOTES)
    assert NOTES.get(name, "") in (note or "")


def test_variables_come_from_both_steps() -> None:
    assert dict(end_of("success-non-root").variables) == {"a": "1"}
    assert dict(end_of("message-of-init-and-main").variables) == {"a": "2"}
    cut = dict(end_of("message-too-long").variables)
    assert (min(cut), max(cut)) == ("v159", "v499")


def test_times_are_those_of_the_main_container() -> None:
    end = end_of("init-then-main")
    assert end.started_at is not None
    assert end.ended_at is not None
    assert end.started_at <= end.ended_at
