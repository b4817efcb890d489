"""What a job may ask of its pod, by the operator's settings: pure, one sentence for each thing refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consumer.executors.policy import image_refusals, listed, metadata_refusals
from consumer.executors.resources import resources_of
from consumer.settings import Kubernetes
from consumer.settings_kubernetes import matches
from enqueue.job import Job
from enqueue.pod import Toleration
from enqueue.record import Reason


def policy_refusals(job: Job, settings: Kubernetes) -> list[tuple[Reason, str]]:
    """Why this job isn't allowed here: (reason, sentence that begins with the field's name)."""
    _, impossible, above = resources_of(job.resources, settings) if job.resources else ({}, (), ())
    found = [(Reason.INVALID_JOB, text) for text in impossible]
    found += [(Reason.REFUSED, text) for text in (*above, *image_refusals(job, settings), *_named(job, settings))]
    metadata = (
        *metadata_refusals("labels", job.labels, settings.labels, settings.allowed_labels),
        *metadata_refusals("annotations", job.annotations, settings.annotations, settings.allowed_annotations),
    )
    found += [(Reason.REFUSED, text) for text in (*metadata, *_nodes(job, settings))]
    return found


def _named(job: Job, settings: Kubernetes) -> Iterator[str]:
    """Things that have a name in the cluster."""
    if not (job.service_account or job.runtime_class or job.priority_class or job.secrets or job.image_pull_secrets):
        return
    wanted: list[tuple[str, str | None, Sequence[str | None]]] = [
        ("service_account", job.service_account, (settings.service_account, *settings.allowed_service_accounts)),
        ("runtime_class", job.runtime_class, (settings.runtime_class, *settings.allowed_runtime_classes)),
        ("priority_class", job.priority_class, (settings.priority_class, *settings.allowed_priority_classes)),
    ]
    wanted += [(f"secrets[{i}].secret", s.secret, settings.allowed_secrets) for i, s in enumerate(job.secrets)]
    pull = (*settings.image_pull_secrets, *settings.allowed_image_pull_secrets)
    wanted += [(f"image_pull_secrets[{i}]", name, pull) for i, name in enumerate(job.image_pull_secrets)]
    for field, name, allowed in wanted:
        if name is not None and name not in allowed:
            yield f"{field}: {name} isn't allowed; allowed: {listed(allowed)}"


def _nodes(job: Job, settings: Kubernetes) -> Iterator[str]:
    selectors = tuple(text if "=" in text else f"{text}=*" for text in settings.allowed_node_selectors)
    for key, value in job.node_selector.items():
        fixed = settings.node_selector.get(key)
        if fixed is not None and fixed != value:
            yield f"node_selector.{key}: is {fixed} for every job here; leave it out"
        elif fixed is None and not matches(f"{key}={value}", selectors):
            yield f"node_selector.{key}: {value} isn't allowed; allowed: {listed(settings.allowed_node_selectors)}"
    for i, wanted in enumerate(job.tolerations):
        if wanted not in settings.tolerations and not _tolerable(wanted, settings.allowed_tolerations):
            allowed = listed(settings.allowed_tolerations)
            yield f"tolerations[{i}]: {taint_of(wanted)} isn't allowed; allowed: {allowed}"


def taint_of(toleration: Toleration) -> str:
    """key=value:effect; `*` is what the toleration leaves open."""
    value = "*" if toleration.operator == "Exists" else toleration.value or ""
    return f"{toleration.key}={value}:{toleration.effect or '*'}"


def _tolerable(wanted: Toleration, allowed: tuple[str, ...]) -> bool:
    """What the toleration leaves open must be left open by the pattern too."""
    text = taint_of(wanted)
    for pattern in allowed:
        key, _, rest = pattern.partition("=")
        value, _, effect = rest.partition(":") if rest else ("*", "", "*")
        if matches(text, (f"{key}={value}:{effect or '*'}",)):
            return True
    return False
