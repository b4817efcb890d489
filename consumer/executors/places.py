"""Where a job's files lie in its pod or container: working directory, volumes, mounts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enqueue.job import Job
from enqueue.job_parts import File

WORKDIR, HOME, TMP, SCRIPTS = "/workspace", "/home/longshore", "/tmp", "/run/longshore"
MOST_FILES = 500
"""Each is a mount of its own, which the node makes one by one."""
OUTPUTS = f"{SCRIPTS}/outputs"
_TAKEN = ("/proc", "/sys", "/dev", SCRIPTS)
_A_FILE = "another file of this job lies there already"


def workdir_of(job: Job) -> str:
    """The absolute working directory."""
    if not job.workdir:
        return WORKDIR
    text = job.workdir if job.workdir.startswith("/") else f"{WORKDIR}/{job.workdir}"
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def scratch_of(job: Job) -> dict[str, str]:
    """Path -> name of the empty volumes that the job may write to.

    An absolute workdir is the image's own directory, with what the image holds there: unless it lies in a volume
    anyway, or an init step works in it before, whose files would get lost.
    """
    workdir = workdir_of(job)
    ours = not (job.workdir or "").startswith("/") or any(_within(workdir, root) for root in (WORKDIR, HOME, TMP))
    paths = {workdir: "workdir"} if ours or job.init is not None else {}
    for name, path in (("home", HOME), ("tmp", TMP)):
        paths.setdefault(path, name)
    return paths


def place_of(file: File, job: Job) -> str:
    """The absolute path of a file."""
    return file.path if file.path.startswith("/") else f"{workdir_of(job)}/{file.path}"


def misplaced(job: Job) -> list[str]:
    """A sentence for a workdir that can't be one, and for each file that can't lie where it should."""
    texts = []
    workdir = workdir_of(job)
    if any(_within(workdir, taken) for taken in _TAKEN):
        texts.append(f"workdir: {workdir} can't be a working directory")
    if len(job.files) > MOST_FILES:
        texts.append(f"files: are {len(job.files):,}; at most {MOST_FILES} can be laid down; pack them into one")
        return texts
    if not job.files:
        return texts
    places = {volume: f"{volume} is a directory" for volume in (workdir, HOME, TMP)}
    for i, file in enumerate(job.files):
        path = place_of(file, job)
        parents = ["/".join(path.split("/")[:depth]) for depth in range(2, path.count("/") + 1)]
        if any(path == taken or taken in parents for taken in _TAKEN):
            texts.append(f"files[{i}].path: no file can be laid down at {path}")
        elif path in places:
            texts.append(f"files[{i}].path: {places[path]}")
        elif above := next((parent for parent in parents if places.get(parent) == _A_FILE), None):
            texts.append(f"files[{i}].path: {above} is a file of this job already")
        for parent in parents:
            places.setdefault(parent, f"{parent} is the folder of another file")
        places.setdefault(path, _A_FILE)
    return texts


def folders(places: list[str], scratch: Mapping[str, str]) -> list[dict[str, Any]]:
    """Mounts of the folders of files, so that the job's user may write into them too.

    Where a mount needs a folder, the runtime makes it as root's own. A part of a volume that is mounted is made by the
    kubelet, with the volume's rights; mounted where it is anyway, it changes nothing else. Parents come first.
    """
    mounts: dict[str, dict[str, Any]] = {}
    for place in places:
        above = [root for root in scratch if place.startswith(root + "/")]
        if not above:
            continue
        root = max(above, key=len)
        parts = place[len(root) + 1 :].split("/")
        for depth in range(1, len(parts)):
            part = "/".join(parts[:depth])
            path = f"{root}/{part}"
            if not any(_within(other, path) for other in scratch):
                mounts[path] = {"name": scratch[root], "mountPath": path, "subPath": part}
    return [mounts[path] for path in sorted(mounts)]


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")
