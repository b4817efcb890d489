"""Plan and settings -> the pod and its Secret, as the API wants them. Pure.

A job fills named holes only; everything else is the operator's. The pod meets Pod Security `restricted`. Sensitive
values, files and long scripts stand in one Secret, never in the pod. Working directory, HOME and /tmp are empty
volumes that the job's user may write to: a workdir hides what the image holds at that path.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from consumer.errors import Unrunnable
from consumer.executors.kubernetes import names
from consumer.executors.kubernetes.resources import resources_of
from consumer.model import Plan
from consumer.settings import Kubernetes
from enqueue.job import File, Job
from enqueue.record import Reason

WORKDIR, HOME, TMP, SCRIPTS = "/workspace", "/home/longshore", "/tmp", "/run/longshore"
OUTCOME = "/dev/termination-log"
"""The kubelet makes this file in every container, writable by all, and tells its end in the status."""
INLINE_SCRIPT = 64 * 1024
"""A longer script comes as a file: the kernel takes at most 128 KiB for one argument."""
LONGEST_ARGUMENT = 128 * 1024 - 1024
SECRET_BYTES = 1_000_000
DEADLINE_MARGIN = 120
"""Seconds by which the pod's own deadline lies behind all of the consumer's: it only ends pods that nobody watches."""
_TAKEN = ("/proc", "/sys", "/dev", "/run/longshore")


@dataclass(slots=True)
class Manifest:
    """What is to be created: the pod, and the data of its Secret (empty: none is needed)."""

    pod: dict[str, Any]
    secret_data: dict[str, str]

    @property
    def name(self) -> str:
        """The name of both."""
        return str(self.pod["metadata"]["name"])

    def secret(self, uid: str) -> dict[str, Any]:
        """The Secret, owned by the pod with this uid: it goes when the pod goes."""
        owner = {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": uid}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self.name,
                "labels": {k: v for k, v in self.pod["metadata"]["labels"].items() if k in _SECRET_LABELS},
                "ownerReferences": [owner],
            },
            "immutable": True,
            "type": "Opaque",
            "data": self.secret_data,
        }


_SECRET_LABELS = (names.MANAGED_BY, names.JOB, names.ATTEMPT)


def refusals(plan: Plan, settings: Kubernetes) -> list[tuple[Reason, str]]:
    """Why this job can't be run here: (reason, sentence that begins with the field's name)."""
    job, found = plan.job, []
    if not (job.image or settings.image):
        found.append(
            (Reason.INVALID_JOB, "image: is required by the kubernetes executor (or set kubernetes.image for all jobs)")
        )
    accounts = (*settings.allowed_service_accounts, settings.service_account)
    if job.service_account and job.service_account not in accounts:
        allowed = ", ".join(settings.allowed_service_accounts) or "none"
        found.append((Reason.REFUSED, f"service_account: {job.service_account} isn't allowed; allowed: {allowed}"))
    for i, wanted in enumerate(job.secrets):
        if wanted.secret not in settings.allowed_secrets:
            allowed = ", ".join(settings.allowed_secrets) or "none"
            found.append((Reason.REFUSED, f"secrets[{i}].secret: {wanted.secret} isn't allowed; allowed: {allowed}"))
    workdir = workdir_of(job)
    if any(workdir == taken or workdir.startswith(taken + "/") for taken in _TAKEN):
        found.append((Reason.INVALID_JOB, f"workdir: {workdir} can't be a working directory"))
    found += [(Reason.INVALID_JOB, text) for text in (*_misplaced(job), *_too_long(job))]
    found += [(Reason.INVALID_JOB, text) for text in resources_of(job.resources, settings)[1]]
    return found


def _misplaced(job: Job) -> list[str]:
    """Files that can't lie where they should."""
    places = {volume: f"{volume} is a directory" for volume in (workdir_of(job), HOME, TMP)}
    texts = []
    for i, file in enumerate(job.files):
        path = _place(file, job)
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


_A_FILE = "another file of this job lies there already"


def _too_long(job: Job) -> list[str]:
    texts = {f"env.{name}": value for name, value in job.env.items()}
    texts |= {f"variables[{i}] ({v.name})": v.value for i, v in enumerate(job.variables)}
    texts |= {f"entrypoint[{i}]": value for i, value in enumerate(job.entrypoint)}
    texts |= {f"args[{i}]": value for i, value in enumerate(job.args)}
    return [
        f"{field}: is {len(value.encode()):,} bytes long; Linux takes at most {LONGEST_ARGUMENT:,} in one; use files"
        for field, value in texts.items()
        if len(value.encode()) > LONGEST_ARGUMENT
    ]


def workdir_of(job: Job) -> str:
    """The absolute working directory."""
    if not job.workdir:
        return WORKDIR
    text = job.workdir if job.workdir.startswith("/") else f"{WORKDIR}/{job.workdir}"
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def _place(file: File, job: Job) -> str:
    return file.path if file.path.startswith("/") else f"{workdir_of(job)}/{file.path}"


def _folders(places: list[str], scratch: Mapping[str, str]) -> list[dict[str, Any]]:
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
            if not any(path == other or other.startswith(path + "/") for other in scratch):
                mounts[path] = {"name": scratch[root], "mountPath": path, "subPath": part}
    return [mounts[path] for path in sorted(mounts)]


def literal(text: str) -> str:
    """Kubernetes replaces $(NAME) and $$ in arguments and values; a doubled $ is what it leaves alone."""
    return text.replace("$", "$$")


@dataclass(slots=True)
class _Secret:
    """Collects what must not stand in the pod."""

    name: str
    data: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def put(self, key: str, value: str, of: str) -> str:
        raw = value.encode()
        self.data[key] = base64.b64encode(raw).decode()
        self.sizes[of] = self.sizes.get(of, 0) + len(raw)
        return key

    def check(self) -> None:
        total = sum(self.sizes.values())
        if total > SECRET_BYTES:
            largest = max(self.sizes, key=lambda name: self.sizes[name])
            raise Unrunnable(
                f"{largest}: is too large: files, sensitive variables and long scripts together have {total:,} bytes, "
                f"and a Secret holds at most {SECRET_BYTES:,}"
            )


def build(plan: Plan, settings: Kubernetes) -> Manifest:
    """The pod of a Plan. Raises Unrunnable with a message that names the field."""
    if problems := refusals(plan, settings):
        reasons = {reason for reason, _ in problems}
        reason = Reason.REFUSED if reasons == {Reason.REFUSED} else Reason.INVALID_JOB
        raise Unrunnable("; ".join(text for _, text in problems), reason)
    job = plan.job
    name = names.pod_name(plan.queue, plan.id, plan.attempt)
    secret = _Secret(name)
    workdir = workdir_of(job)
    scratch = {"workdir": workdir, "home": HOME, "tmp": TMP}
    paths: dict[str, str] = {}
    for volume, path in scratch.items():
        paths.setdefault(path, volume)
    mounts: list[dict[str, Any]] = [{"name": volume, "mountPath": path} for path, volume in paths.items()]
    items: list[dict[str, Any]] = []
    mounts += _folders([_place(file, job) for file in job.files], paths)
    for i, file in enumerate(job.files):
        items.append(_item(secret.put(f"file-{i}", file.contents, f"files[{i}] ({file.path})"), file.permissions))
        place = {"mountPath": _place(file, job), "subPath": f"file-{i}", "readOnly": True}
        mounts.append({"name": "files"} | place)

    def container(step: str, image: str, command: list[str], args: list[str]) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": step,
            "image": image,
            "imagePullPolicy": settings.image_pull_policy,
            "workingDir": workdir,
            "env": _environment(plan, step, secret),
            "resources": resources_of(job.resources, settings)[0],
            "volumeMounts": list(mounts),
            "terminationMessagePath": OUTCOME,
            "terminationMessagePolicy": "File",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        if command:
            made["command"] = [literal(part) for part in command]
        if args:
            made["args"] = [literal(part) for part in args]
        return made

    def script(key: str, commands: tuple[str, ...], field: str) -> list[str]:
        text = "\n".join(commands)
        shell = [*job.shell.split(), "-e"]
        secrets = any(value in text for value in job.sensitive_values())
        if len(text.encode()) <= INLINE_SCRIPT and not secrets:
            return [*shell, "-c", text]
        items.append(_item(secret.put(key, text, field), 0o444))
        mounts.append({"name": "files", "mountPath": f"{SCRIPTS}/{key}", "subPath": key, "readOnly": True})
        return [*shell, f"{SCRIPTS}/{key}"]

    image = job.image or settings.image or ""
    init_command = script("init-script", job.init.commands, "init.commands") if job.init else []
    command = script("script", job.commands, "commands") if job.commands else list(job.entrypoint)
    main = container("main", image, command, list(job.args))
    inits = [container("init", job.init.image or image, init_command, [])] if job.init else []
    secret.check()
    volumes: list[dict[str, Any]] = [{"name": volume, "emptyDir": {}} for volume in paths.values()]
    if items:
        volumes.append({"name": "files", "secret": {"secretName": name, "items": items}})
    spec = _spec(plan, settings)
    spec |= {"containers": [main], "volumes": volumes} | ({"initContainers": inits} if inits else {})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(plan, settings, name), "spec": spec}
    return Manifest(pod, secret.data)


def _item(key: str, mode: int) -> dict[str, Any]:
    # The file is root's with the job's group: the group gets what the owner was meant to have.
    return {"key": key, "path": key, "mode": mode | ((mode & 0o500) >> 3)}


def _environment(plan: Plan, step: str, secret: _Secret) -> list[dict[str, Any]]:
    job = plan.job
    plain: dict[str, str] = {"HOME": HOME, "TMPDIR": TMP} | job.env
    plain |= {"LONGSHORE_JOB_ID": plan.id, "LONGSHORE_QUEUE": plan.queue, "LONGSHORE_ATTEMPT": str(plan.attempt)}
    plain |= {"LONGSHORE_OUTCOME": OUTCOME}
    referred: list[dict[str, Any]] = []
    for i, variable in enumerate(job.variables):
        if variable.scope not in ("all", step):
            continue
        plain.pop(variable.name, None)
        if not variable.sensitive:
            plain[variable.name] = variable.value
            continue
        key = f"variable-{i}"
        if key not in secret.data:
            secret.put(key, variable.value, f"variables[{i}] ({variable.name})")
        referred.append(_reference(variable.name, secret.name, key))
    for wanted in job.secrets:
        plain.pop(wanted.name, None)
        referred.append(_reference(wanted.name, wanted.secret, wanted.key))
    return [{"name": name, "value": literal(value)} for name, value in plain.items()] + referred


def _reference(name: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _metadata(plan: Plan, settings: Kubernetes, name: str) -> dict[str, Any]:
    labels: Mapping[str, str] = {
        **settings.labels,
        **plan.job.labels,
        names.MANAGED_BY: "longshore",
        names.JOB: names.job_key(plan.queue, plan.id),
        names.ATTEMPT: str(plan.attempt),
        names.CONSUMER: names.label_of(plan.consumer),
    }
    if plan.source:
        labels = {**labels, names.SOURCE: plan.source}
    annotations: Mapping[str, str] = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
        **settings.annotations,
        **plan.job.annotations,
        names.JOB_ID: plan.id[:4096],
        names.QUEUE: plan.queue[:4096],
        names.DIGEST: plan.job.digest(),
    }
    return {"name": name, "labels": dict(labels), "annotations": dict(annotations)}


def _spec(plan: Plan, settings: Kubernetes) -> dict[str, Any]:
    grace = max(1, math.ceil(plan.grace))  # 0 would take the pod away before its processes are
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.run_as_user,
            "runAsGroup": settings.run_as_user,
            "fsGroup": settings.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if plan.timeout is not None:
        spec["activeDeadlineSeconds"] = math.ceil(plan.timeout + plan.start_timeout + grace) + DEADLINE_MARGIN
    if account := plan.job.service_account or settings.service_account:
        spec["serviceAccountName"] = account
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return spec
