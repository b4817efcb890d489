"""Plan and settings -> the containers, as Docker's API wants them, and what is laid down in each. Pure.

A job fills named holes only; everything else is the operator's. Scripts, files and sensitive variables are laid down
before the start: `docker inspect` shows none of them. The two steps share their volumes, which are the main one's.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consumer.errors import Unrunnable
from consumer.executors import names
from consumer.executors.counting import counted
from consumer.executors.docker.archive import Entry, packed
from consumer.executors.places import HOME, OUTPUTS, SCRIPTS, TMP, misplaced, place_of, scratch_of, workdir_of
from consumer.executors.policy import image_refusals, metadata_refusals
from consumer.executors.resources import resources_of
from consumer.model import Plan
from consumer.settings import Docker
from enqueue.images import parse_image
from enqueue.job import Job
from enqueue.pod import POD_FIELDS
from enqueue.quantity import amount
from enqueue.record import Reason

STEP = "longshore.dev/step"
DEADLINE = "longshore.dev/deadline"
DEADLINE_MARGIN = 120
"""Seconds by which a container's own deadline lies behind its consumer's: it ends only those that nobody watches."""
_KNOWN = ("resources", "labels", "image_pull_policy")
_MANY_BYTES = 64 * 2**20
"""Everything that is laid down for a job is kept in memory while it starts."""


@dataclass(frozen=True, slots=True)
class Step:
    """One container: `body` is the request that makes it, `puts` (path, archive) what it is given before its start."""

    name: str
    image: str
    body: dict[str, Any]
    puts: tuple[tuple[str, bytes], ...] = field(repr=False)
    outcome: str


@dataclass(frozen=True, slots=True)
class Containers:
    """All containers of an attempt."""

    main: Step
    init: Step | None


def name_of(plan: Plan, attempt: int | None = None) -> str:
    """The one name of this attempt's main container: an engine may serve several stores of Records."""
    return names.pod_name(f"{plan.source}\0{plan.queue}", plan.id, plan.attempt if attempt is None else attempt)


def key_of(plan: Plan) -> str:
    """The label that all containers of the job have."""
    return names.job_key(f"{plan.source}\0{plan.queue}", plan.id)


def refusals(plan: Plan, settings: Docker) -> list[tuple[Reason, str]]:
    """Why this job can't be run here: (reason, sentence that begins with the field's name)."""
    job = plan.job
    found = [
        (Reason.REFUSED, f"{name}: the docker executor has no such thing; use the kubernetes executor")
        for name in POD_FIELDS
        if name not in _KNOWN and getattr(job, name)
    ]
    asked = job.resources.requests.amounts() | job.resources.limits.amounts() if job.resources else {}
    found += [
        (Reason.REFUSED, f"resources: {name}: the docker executor knows cpu and memory only")
        for name in asked
        if name not in ("cpu", "memory")
    ]
    _, impossible, above = resources_of(job.resources, settings)
    found += [(Reason.INVALID_JOB, text) for text in impossible]
    found += [(Reason.REFUSED, text) for text in above if "/" not in text.partition(":")[0]]
    found += [(Reason.REFUSED, text) for text in image_refusals(job, settings)]
    labels = metadata_refusals("labels", job.labels, settings.labels, settings.allowed_labels)
    found += [(Reason.REFUSED, text) for text in labels]
    if not (job.image or settings.image):
        needed = "image: is required by the docker executor (or set docker.image for all jobs)"
        found.append((Reason.INVALID_JOB, needed))
    found += [(Reason.INVALID_JOB, text) for text in misplaced(job)]
    if settings.read_only:
        roots = tuple(scratch_of(job))
        found += [
            (
                Reason.REFUSED,
                f"files[{i}].path: {place_of(file, job)} can't be written here; writable: {', '.join(roots)}",
            )
            for i, file in enumerate(job.files)
            if not _root_of(place_of(file, job), roots)
        ]
    return found


def build(plan: Plan, settings: Docker, entrypoint: Sequence[str] = ()) -> Containers:
    """The containers of a Plan. `entrypoint`: the image's own. Raises Unrunnable that names the field."""
    settings = _under(plan.profile, settings)
    if problems := refusals(plan, settings):
        raise Unrunnable.of(problems)
    return _Builder(plan, settings, entrypoint).containers()


def adopted(plan: Plan, settings: Docker) -> Containers:
    """The same of containers that are there: whatever is allowed now, they were allowed when they were made."""
    return _Builder(plan, _under(plan.profile, settings), ()).containers()


def _under(profile: str | None, settings: Docker) -> Docker:
    return settings if profile is None else settings.model_copy(update={"profile": profile})


class _Builder:
    def __init__(self, plan: Plan, settings: Docker, entrypoint: Sequence[str]) -> None:
        self._plan, self._job, self._settings, self._entrypoint = plan, plan.job, settings, tuple(entrypoint)
        self._restricted = settings.profile == "restricted"
        self._user = settings.run_as_user if self._restricted else 0
        self._scratch = tuple(scratch_of(self._job))
        roots = (*self._scratch, SCRIPTS) if settings.read_only else self._scratch if self._job.init else ()
        self._volumes = tuple(root for root in roots if not any(root.startswith(f"{other}/") for other in roots))

    def containers(self) -> Containers:
        job, name = self._job, name_of(self._plan)
        image = job.image or self._settings.image or ""
        main = self._step("main", name, image, job.commands)
        init = None
        if job.init is not None:
            init = self._step("init", f"{name}-init", job.init.image or image, job.init.commands)
        if sum(len(archive) for step in (main, init) if step for _, archive in step.puts) > _MANY_BYTES:
            raise Unrunnable(f"files: are too large: all together may have {_MANY_BYTES:,} bytes")
        return Containers(main, init)

    def _step(self, step: str, name: str, image: str, commands: tuple[str, ...]) -> Step:
        job = self._job
        hidden = self._hidden(step)
        entries = self._places(step)
        entrypoint: list[str] | None
        command = list(job.entrypoint)
        if job.count_output and command:
            command = counted(command)
        if commands:
            shell, script = job.shell.split(), f"{SCRIPTS}/{step}.sh"
            entries.append(self._file(script, 0o400, "\n".join(commands) + "\n"))
            read = f". {SCRIPTS}/{step}.env && " if hidden else ""
            # One pipe for both streams: the engine has two, and mixes them as it reads.
            command = [*shell, "-e", script]
            if job.count_output:
                command = counted(command)
            entrypoint = [shell[0], "-c", f'{read}exec "$@" 2>&1', shell[0], *command]
            arguments: list[str] = []
        elif hidden:
            entrypoint = ["/bin/sh", "-c", f'. {SCRIPTS}/{step}.env && exec "$@"', "/bin/sh"]
            arguments = [*(command or self._entrypoint), *job.args]
        else:
            entrypoint, arguments = command or None, list(job.args)
        if hidden:
            text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in hidden.items())
            entries.append(self._file(f"{SCRIPTS}/{step}.env", 0o400, text))
        outcome = f"{SCRIPTS}/{step}.outcome"
        entries.append(Entry(outcome, 0o600 if self._restricted else 0o666, self._user, b""))
        body: dict[str, Any] = {
            "Image": str(parse_image(image)) if image else "",
            "Cmd": arguments,
            "Env": [f"{name}={value}" for name, value in self._environment(step, outcome).items()],
            "WorkingDir": workdir_of(job),
            "Labels": self._labels(step),
            "StopTimeout": max(1, math.ceil(self._plan.grace)),
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": self._host(step),
        }
        if entrypoint is not None:
            body["Entrypoint"] = entrypoint
        if self._settings.profile != "baseline":
            body["User"] = f"{self._user}:{self._user}"
        return Step(name, image, body, self._archives(entries), outcome)

    def _file(self, path: str, mode: int, text: str) -> Entry:
        """If nobody knows the image's user, all get what the owner was meant to have."""
        others = 0 if self._restricted else (mode & 0o500) >> 3 | (mode & 0o500) >> 6
        return Entry(path, mode | others, self._user, text.encode())

    def _places(self, step: str) -> list[Entry]:
        """Folders and files. What lies in a volume is laid down once, by the first step."""
        job, first = self._job, step == "init" or self._job.init is None
        mode = 0o755 if self._restricted else 0o777
        found = [Entry(SCRIPTS, 0o755, 0)]
        if job.outputs is not None and step == "main":
            found.append(Entry(OUTPUTS, mode, self._user))
        own = [Entry(path, 0o1777 if path == TMP else mode, 0 if path == TMP else self._user) for path in self._scratch]
        for file in job.files:
            place = place_of(file, job)
            root = _root_of(place, self._scratch)
            parts = place.removeprefix(root).strip("/").split("/")[:-1] if root else []
            own += [
                Entry("/".join((root, *parts[:depth])), mode, self._user)
                for depth in range(1, len(parts) + 1)
                if "/".join((root, *parts[:depth])) not in self._scratch
            ]
            own.append(self._file(place, file.permissions, file.contents))
        found += [entry for entry in own if first or not _root_of(entry.path, self._volumes)]
        return found + [
            Entry(f"{SCRIPTS}/{handed.name}", 0o444, 0, handed.contents.encode()) for handed in self._plan.handed
        ]

    def _archives(self, entries: list[Entry]) -> tuple[tuple[str, bytes], ...]:
        """By the volume that they lie in: an engine unpacks into one at a time."""
        by_root: dict[str, list[Entry]] = {}
        for entry in entries:
            by_root.setdefault(_root_of(entry.path, self._volumes) or "/", []).append(entry)
        return tuple((root, packed(found, root)) for root, found in by_root.items())

    def _hidden(self, step: str) -> dict[str, str]:
        if self._settings.secrets == "environment":
            return {}
        return {v.name: v.value for v in self._job.variables if v.sensitive and v.scope in ("all", step)}

    def _environment(self, step: str, outcome: str) -> dict[str, str]:
        plan, job = self._plan, self._job
        hidden = self._hidden(step)
        found = {"HOME": HOME, "TMPDIR": TMP} | job.env
        found |= {v.name: v.value for v in job.variables if v.scope in ("all", step)}
        found |= {"LONGSHORE_JOB_ID": plan.id, "LONGSHORE_QUEUE": plan.queue, "LONGSHORE_ATTEMPT": str(plan.attempt)}
        found |= {"LONGSHORE_OUTCOME": outcome}
        if job.outputs is not None and step == "main":
            found["LONGSHORE_OUTPUTS"] = OUTPUTS
        found |= {handed.variable: f"{SCRIPTS}/{handed.name}" for handed in plan.handed}
        return {name: value for name, value in found.items() if name not in hidden}

    def _labels(self, step: str) -> dict[str, str]:
        plan, settings = self._plan, self._settings
        labels: dict[str, str] = {
            **plan.job.labels,
            **settings.labels,
            names.MANAGED_BY: "longshore",
            names.JOB: key_of(plan),
            names.ATTEMPT: str(plan.attempt),
            names.CONSUMER: plan.consumer,
            names.JOB_ID: plan.id,
            names.QUEUE: plan.queue,
            names.DIGEST: plan.job.digest(),
            STEP: step,
        }
        if plan.source:
            labels[names.SOURCE] = plan.source
        if plan.created:
            labels[names.CREATED] = plan.created
        if plan.timeout is not None:
            last = time.time() + plan.start_timeout + plan.timeout + plan.grace + DEADLINE_MARGIN
            labels[DEADLINE] = str(math.ceil(last))
        return labels

    def _host(self, step: str) -> dict[str, Any]:
        settings = self._settings
        amounts = resources_of(self._job.resources, settings)[0]
        host: dict[str, Any] = _resources(amounts) | {
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": str(settings.output_bytes // 2), "max-file": "2"},
            },
        }
        if settings.pids_limit:
            host["PidsLimit"] = settings.pids_limit
        if settings.network:
            host["NetworkMode"] = settings.network
        if settings.runtime:
            host["Runtime"] = settings.runtime
        if settings.read_only:
            host["ReadonlyRootfs"] = True
        if settings.profile == "privileged":
            host["Privileged"] = True
        elif self._restricted:
            host |= {"CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"]}
        if self._volumes and step == "main":
            host["Mounts"] = [
                {"Type": "volume", "Target": path, "VolumeOptions": {"NoCopy": True}} for path in self._volumes
            ]
        elif self._volumes:
            host["VolumesFrom"] = [name_of(self._plan)]
        return host


def _resources(amounts: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """What the engine calls them. Memory is never swapped: the limit would be twice what it says."""
    requests, limits = amounts["requests"], amounts["limits"]
    found: dict[str, Any] = {}
    if "cpu" in limits:
        found["NanoCpus"] = int(amount(limits["cpu"]) * 10**9)
    if "cpu" in requests:
        found["CpuShares"] = max(2, int(amount(requests["cpu"]) * 1024))
    if "memory" in limits:
        found["Memory"] = found["MemorySwap"] = int(amount(limits["memory"]))
    if "memory" in requests:
        found["MemoryReservation"] = int(amount(requests["memory"]))
    return found


def _root_of(path: str, roots: Sequence[str]) -> str:
    """The innermost of these directories in which the path lies, or that it is; empty: none."""
    return max((root for root in roots if path == root or path.startswith(f"{root}/")), key=len, default="")


def images_of(job: Job, settings: Docker) -> tuple[str, ...]:
    """The images that a job needs, in full, the main one first."""
    main = job.image or settings.image or ""
    wanted = (main, job.init.image or main) if job.init is not None else (main,)
    return tuple(dict.fromkeys(str(parse_image(image)) for image in wanted))
