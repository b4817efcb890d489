"""Plan and settings -> the pod and its Secret, as the API wants them. Pure.

A job fills named holes only; everything else is the operator's: the profile, the policy, the template. Sensitive
values, files and long scripts stand in one Secret, never in the pod. HOME, /tmp and the working directory (unless the
job names one of the image's) are empty volumes that the job's user may write to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from consumer.errors import SetupError, Unrunnable
from consumer.executors import names
from consumer.executors.counting import counted
from consumer.executors.kubernetes.outputs import add_collector
from consumer.executors.kubernetes.policy import policy_refusals
from consumer.executors.kubernetes.profiles import violations
from consumer.executors.kubernetes.secret import Secret, secret_of
from consumer.executors.kubernetes.site import Site, site_of, toleration_of, volume_of
from consumer.executors.kubernetes.template import merged
from consumer.executors.places import (
    HOME,
    SCRIPTS,
    TMP,
    folders,
    misplaced,
    place_of,
    scratch_of,
    workdir_of,
)
from consumer.executors.policy import pull_policy
from consumer.executors.resources import resources_of
from consumer.model import Plan
from consumer.settings import Kubernetes
from enqueue.job import Job
from enqueue.job_parts import InitStep
from enqueue.record import Reason

OUTCOME = "/dev/termination-log"
"""The kubelet makes this file in every container, writable by all, and tells its end in the status."""
LONGEST_ARGUMENT = 128 * 1024 - 1024
DEADLINE_MARGIN = 120
"""Seconds by which the pod's own deadline lies behind all of the consumer's: it only ends pods that nobody watches."""
POD_BYTES = 1_300_000
"""The largest pod as JSON: the cluster's storage takes 1.5 MiB, and the pod's status comes on top."""
ANNOTATIONS_BYTES = 262_144
MOST_VARIABLES = 5_000
"""Ten times as many keep API server and node busy for a minute."""


@dataclass(slots=True)
class Manifest:
    """What is to be created: the pod and its Secret."""

    pod: dict[str, Any]
    secret: Secret
    json: bytes
    """The pod as it is sent."""

    @property
    def name(self) -> str:
        """The pod's."""
        return str(self.pod["metadata"]["name"])


def refusals(plan: Plan, settings: Kubernetes) -> list[tuple[Reason, str]]:
    """Why this job can't be run here: (reason, sentence that begins with the field's name)."""
    job, found = plan.job, policy_refusals(plan.job, settings)
    if not (job.image or settings.image):
        found.append(
            (Reason.INVALID_JOB, "image: is required by the kubernetes executor (or set kubernetes.image for all jobs)")
        )
    return found + [(Reason.INVALID_JOB, text) for text in (*misplaced(job), *_too_long(job))]


def _too_long(job: Job) -> list[str]:
    count = len(job.env) + len(job.variables) + len(job.secrets)
    if count > MOST_VARIABLES:
        return [f"env: has {count:,} variables with variables and secrets; at most {MOST_VARIABLES:,}; use files"]
    if not (count or job.entrypoint or job.args):
        return []
    texts = {f"env.{name}": value for name, value in job.env.items()}
    texts |= {f"variables[{i}] ({v.name})": v.value for i, v in enumerate(job.variables)}
    texts |= {f"entrypoint[{i}]": value for i, value in enumerate(job.entrypoint)}
    texts |= {f"args[{i}]": value for i, value in enumerate(job.args)}
    return [
        f"{field}: is {len(value.encode()):,} bytes long; Linux takes at most {LONGEST_ARGUMENT:,} in one; use files"
        for field, value in texts.items()
        if len(value.encode()) > LONGEST_ARGUMENT
    ]


def literal(text: str) -> str:
    """Kubernetes replaces $(NAME) and $$ in arguments and values; a doubled $ is what it leaves alone."""
    return text.replace("$", "$$")


def build(plan: Plan, settings: Kubernetes, nonce: str = "") -> Manifest:
    """The pod of a Plan; `nonce` makes its Secret's name unique. Raises Unrunnable that names the field in its text."""
    site = site_of(settings).under(plan.profile)
    settings = site.settings
    if problems := refusals(plan, settings):
        raise Unrunnable.of(problems)
    job = plan.job
    name = names.pod_name(plan.queue, plan.id, plan.attempt)
    secret = secret_of(plan, f"{name}-{nonce}" if nonce else "")
    secret.check()
    workdir, scratch = workdir_of(job), scratch_of(job)
    mounts: list[dict[str, Any]] = [{"name": volume, "mountPath": path} for path, volume in scratch.items()]
    items: list[dict[str, Any]] = []
    mounts += folders([place_of(file, job) for file in job.files], scratch)
    for i, file in enumerate(job.files):
        items.append(_item(f"file-{i}", file.permissions))
        place = {"mountPath": place_of(file, job), "subPath": f"file-{i}", "readOnly": True}
        mounts.append({"name": "files"} | place)

    for handed in plan.handed:
        items.append(_item(handed.name, 0o444))
        place = {"mountPath": f"{SCRIPTS}/{handed.name}", "subPath": handed.name, "readOnly": True}
        mounts.append({"name": "files"} | place)

    def container(step: str, image: str, command: list[str], args: list[str]) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": step,
            "image": image,
            "imagePullPolicy": pull_policy(image, job, settings),
            "workingDir": workdir,
            "env": _environment(plan, step, secret.name),
            "resources": resources_of(job.resources, settings)[0] if job.resources else site.resources,
            "volumeMounts": list(mounts),
            "terminationMessagePath": OUTCOME,
            "terminationMessagePolicy": "File",
        }
        if site.security:
            made["securityContext"] = site.security
        if job.count_output and command:
            command = counted(command)
        if command:
            made["command"] = [literal(part) for part in command]
        if args:
            made["args"] = [literal(part) for part in args]
        return made

    def script(key: str, commands: tuple[str, ...]) -> list[str]:
        shell = [*job.shell.split(), "-e"]
        if key not in secret.data:
            return [*shell, "-c", "\n".join(commands)]
        items.append(_item(key, 0o444))
        mounts.append({"name": "files", "mountPath": f"{SCRIPTS}/{key}", "subPath": key, "readOnly": True})
        return [*shell, f"{SCRIPTS}/{key}"]

    image = job.image or settings.image or ""
    init_command = script("init-script", job.init.commands) if job.init else []
    command = script("script", job.commands) if job.commands else list(job.entrypoint)
    main = container("main", image, command, list(job.args))
    inits = [container("init", job.init.image or image, init_command, [])] if job.init else []
    empty = volume_of(job.resources, settings) if job.resources else site.volume
    volumes: list[dict[str, Any]] = [{"name": volume, "emptyDir": empty} for volume in scratch.values()]
    if items:
        volumes.append({"name": "files", "secret": {"secretName": secret.name, "items": items}})
    spec = _spec(plan, site)
    spec |= {"containers": [main], "volumes": volumes} | ({"initContainers": inits} if inits else {})
    if job.outputs is not None:
        extra: dict[str, Any] = {"imagePullPolicy": pull_policy(settings.outputs_image, None, settings)}
        add_collector(
            spec, plan, settings, empty, extra | ({"securityContext": site.security} if site.security else {})
        )
    metadata = _metadata(plan, settings, name)
    if secret.data:
        metadata["annotations"][names.SECRET] = secret.name
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    if site.template:
        pod = _with_template(pod, site)
    return Manifest(pod, secret, _checked_json(pod))


def _with_template(pod: dict[str, Any], site: Site) -> dict[str, Any]:
    """The pod with the operator's template merged into it; without one nothing in it can go beyond its profile."""
    profile = site.settings.profile
    pod = merged(pod, site.template, site.security if profile != "privileged" else {})
    for other in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
        other.setdefault("imagePullPolicy", pull_policy(other["image"], None, site.settings))
    if beyond := violations(pod, profile):
        said = f"{', '.join(beyond)}: isn't allowed by the profile {profile} (kubernetes.profile)"
        raise Unrunnable(f"the operator's pod template: {said}", Reason.REFUSED)
    return pod


def sample(settings: Kubernetes, consumer: str, **fields: Any) -> dict[str, Any]:
    """The pod of a small job with an init step, to try settings with. Raises SetupError that names what is wrong."""
    small: dict[str, Any] = {"image": "longshore", "commands": ("true",), "init": InitStep(commands=("true",))}
    job = Job(**small | fields)
    anything = {"image": None, "allowed_images": (), "require_digest": False}
    try:
        return build(Plan("check", "longshore", 0, consumer, job, None, 1, 1), settings.model_copy(update=anything)).pod
    except Unrunnable as error:
        raise SetupError(f"kubernetes: {error}") from None


def _checked_json(pod: dict[str, Any]) -> bytes:
    """The pod as JSON. Raises Unrunnable if it is too large: the API's own words would come late and name no field."""
    made = to_json(pod)
    if len(made) <= ANNOTATIONS_BYTES:
        return made
    notes = sum(len(key) + len(value.encode()) for key, value in pod["metadata"]["annotations"].items())
    if notes > ANNOTATIONS_BYTES:
        raise Unrunnable(
            f"annotations: have {notes:,} bytes with longshore's own; Kubernetes takes at most {ANNOTATIONS_BYTES:,}"
        )
    if len(made) > POD_BYTES:
        raise Unrunnable(
            f"env: with variables and arguments it makes a pod of {len(made):,} bytes (each step has a copy); "
            f"Kubernetes takes about {POD_BYTES:,}; put large values into files"
        )
    return made


def _item(key: str, mode: int) -> dict[str, Any]:
    # The file is root's with the job's group: the group gets what the owner was meant to have.
    return {"key": key, "path": key, "mode": mode | ((mode & 0o500) >> 3)}


def _environment(plan: Plan, step: str, secret: str) -> list[dict[str, Any]]:
    job = plan.job
    plain: dict[str, str] = {"HOME": HOME, "TMPDIR": TMP} | job.env
    plain |= {"LONGSHORE_JOB_ID": plan.id, "LONGSHORE_QUEUE": plan.queue, "LONGSHORE_ATTEMPT": str(plan.attempt)}
    plain |= {"LONGSHORE_OUTCOME": OUTCOME}
    plain |= {handed.variable: f"{SCRIPTS}/{handed.name}" for handed in plan.handed}
    referred: list[dict[str, Any]] = []
    for i, variable in enumerate(job.variables):
        if variable.scope not in ("all", step):
            continue
        plain.pop(variable.name, None)
        if not variable.sensitive:
            plain[variable.name] = variable.value
            continue
        referred.append(_reference(variable.name, secret, f"variable-{i}"))
    for wanted in job.secrets:
        plain.pop(wanted.name, None)
        referred.append(_reference(wanted.name, wanted.secret, wanted.key))
    return [{"name": name, "value": literal(value)} for name, value in plain.items()] + referred


def _reference(name: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _metadata(plan: Plan, settings: Kubernetes, name: str) -> dict[str, Any]:
    labels = {
        **plan.job.labels,
        **settings.labels,
        names.MANAGED_BY: "longshore",
        names.JOB: names.job_key(plan.queue, plan.id),
        names.ATTEMPT: str(plan.attempt),
        names.CONSUMER: names.label_of(plan.consumer),
    }
    if plan.source:
        labels[names.SOURCE] = plan.source
    annotations = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
        **plan.job.annotations,
        **settings.annotations,
        names.JOB_ID: plan.id[:4096],
        names.QUEUE: plan.queue[:4096],
        names.DIGEST: plan.job.digest(),
    }
    if plan.created:
        annotations[names.CREATED] = plan.created
    return {"name": name, "labels": labels, "annotations": annotations}


def _spec(plan: Plan, site: Site) -> dict[str, Any]:
    job, settings = plan.job, site.settings
    grace = max(1, math.ceil(plan.grace))  # 0 would take the pod away before its processes are
    spec = site.spec | {"terminationGracePeriodSeconds": grace}
    if plan.timeout is not None:
        spec["activeDeadlineSeconds"] = math.ceil(plan.timeout + plan.start_timeout + grace) + DEADLINE_MARGIN
    if job.service_account:
        spec["serviceAccountName"] = job.service_account
    if job.runtime_class:
        spec["runtimeClassName"] = job.runtime_class
    if job.priority_class:
        spec["priorityClassName"] = job.priority_class
    if job.node_selector:
        spec["nodeSelector"] = job.node_selector | settings.node_selector
    if job.tolerations:
        tolerations = [*settings.tolerations, *(t for t in job.tolerations if t not in settings.tolerations)]
        spec["tolerations"] = [toleration_of(toleration) for toleration in tolerations]
    if job.image_pull_secrets:
        pull_secrets = dict.fromkeys((*settings.image_pull_secrets, *job.image_pull_secrets))
        spec["imagePullSecrets"] = [{"name": name} for name in pull_secrets]
    if plan.avoid:  # a wish only: where there is no other node, this one will do
        elsewhere = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": list(plan.avoid)}
        wish = {"weight": 100, "preference": {"matchExpressions": [elsewhere]}}
        spec["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    return spec
