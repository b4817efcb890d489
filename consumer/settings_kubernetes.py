"""The section `kubernetes` of the settings: access to the cluster, and what a job's pod is and may be."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from consumer.section import Section
from consumer.settings_containers import Pattern, Quantities, Quantity, check_amounts, check_image
from enqueue.pod import Toleration


class Kubernetes(Section):
    """The kubernetes executor. What jobs may ask for is empty unless the operator names it: `allowed_...`."""

    namespace: str | None = Field(
        None, description="Namespace of the jobs; the kubeconfig's or the pod's own if not given."
    )
    kubeconfig: Path | None = Field(
        None, description="Path of a kubeconfig; else KUBECONFIG, ~/.kube/config, in-cluster."
    )
    context: str | None = Field(None, description="The kubeconfig's context.")
    rate: float = Field(200, gt=0, description="Requests a second to the API; bursts may be twice as large.")
    create_rate: float = Field(100, gt=0, description="Pods and Secrets created a second; bursts up to twice that.")
    patience: float = Field(300, ge=0, description="Seconds for which an API server that doesn't answer is waited for.")
    log_streams: int = Field(
        500,
        ge=0,
        description="Logs followed at a time; other jobs' logs are read at their end, or while somebody watches.",
    )
    keep_failed: float = Field(
        0,
        ge=0,
        description="Seconds for which a failed job's pod, and its Secret, are kept for people to look at; "
        "one that runs on for a second container of its template is not.",
    )
    keep_failed_pods: int = Field(50, ge=0, description="So many failed pods are kept at most; the oldest go first.")
    sweep_interval: float = Field(60, gt=0, description="Seconds between two looks for pods that nobody holds.")
    lease: str = Field("longshore-sweeper", description="The Lease of the one consumer that sweeps.")
    lease_seconds: float = Field(30, gt=0, description="Seconds after which a silent sweeper's Lease may be taken.")

    profile: Literal["restricted", "baseline", "privileged"] = Field(
        "restricted", description="Pod Security standard of the pods; what a template may not leave."
    )
    run_as_user: int = Field(65532, ge=1, description="User and group of restricted jobs; group of their volumes.")
    read_only: bool = Field(False, description="Jobs may write to their volumes only, not to the image's files.")
    host_users: bool | None = Field(None, description="False: pods get a user namespace, where nodes support it.")
    template: Path | dict[str, Any] | None = Field(
        None, description="Pod that is merged into each job's: a YAML file, or the object itself."
    )

    image: str | None = Field(None, description="Image of jobs that name none.")
    outputs_image: str = Field(
        "busybox:1.37",
        description="Runs beside jobs that ask for `outputs`; with sh, tar, head, gzip, base64, grep and du.",
    )
    outputs_bytes: int = Field(
        64 * 1024 * 1024, ge=1, description="Bytes of outputs that a pod hands over at most, through its node's log."
    )
    allowed_images: tuple[Pattern, ...] = Field(
        (), description="Images that jobs may run, as patterns of parsed references; empty: all."
    )
    require_digest: bool = Field(False, description="Refuse images that aren't named by a digest.")
    image_pull_policy: Literal["Always", "IfNotPresent", "IfNotPinned", "Never"] = Field(
        "IfNotPresent", description="IfNotPinned: Always, but IfNotPresent for an image with a digest."
    )
    image_pull_grace: float = Field(60, ge=0, description="Seconds for which a failing image pull may still recover.")
    image_pull_secrets: tuple[str, ...] = Field((), description="Secrets with the registries' credentials.")
    allowed_image_pull_secrets: tuple[str, ...] = Field((), description="Further ones that jobs may name.")

    service_account: str | None = Field(None, description="Service account of jobs that name none.")
    allowed_service_accounts: tuple[str, ...] = Field((), description="Service accounts that jobs may name.")
    service_account_token: bool = Field(False, description="Jobs get the token of their service account.")
    allowed_secrets: tuple[str, ...] = Field((), description="Kubernetes Secrets that jobs may refer to.")

    requests: Quantities = Field(
        {"cpu": "100m", "memory": "128Mi"}, description="Resource requests of jobs that set none."
    )
    limits: Quantities = Field(
        {"memory": "1Gi", "ephemeral-storage": "10Gi"}, description="Resource limits of jobs that set none."
    )
    volume_size: Quantity = Field(
        "10Gi", description="The most that a job may write to each of its empty volumes; 0: as much as there is."
    )
    limits_max: Quantities = Field(
        {}, description="The most that a job may ask for, by name; also names the devices that it may ask for."
    )

    labels: dict[str, str] = Field({}, description="Labels added to every pod; jobs can't change them.")
    annotations: dict[str, str] = Field({}, description="Annotations added to every pod; jobs can't change them.")
    allowed_labels: tuple[str, ...] = Field(("*",), description="Keys that jobs may set, with * for any text.")
    allowed_annotations: tuple[str, ...] = Field(("*",), description="Keys that jobs may set, with * for any text.")
    node_selector: dict[str, str] = Field({}, description="Labels that every job's node has; jobs can't change them.")
    allowed_node_selectors: tuple[str, ...] = Field(
        (), description="Node labels that jobs may ask for: key or key=value, with * for any text."
    )
    tolerations: tuple[Toleration, ...] = Field((), description="Tolerations of every job.")
    allowed_tolerations: tuple[str, ...] = Field(
        (), description="Taints that jobs may tolerate: key or key=value:effect, with * for any text."
    )
    runtime_class: str | None = Field(None, description="Runtime class of jobs that name none.")
    allowed_runtime_classes: tuple[str, ...] = Field((), description="Runtime classes that jobs may name.")
    priority_class: str | None = Field(None, description="Priority class of jobs that name none.")
    allowed_priority_classes: tuple[str, ...] = Field((), description="Priority classes that jobs may name.")
    dns_policy: Literal["ClusterFirst", "Default", "ClusterFirstWithHostNet", "None"] | None = Field(
        None, description="Where names are looked up; None needs a dnsConfig from the template."
    )

    @model_validator(mode="after")
    def _whole(self) -> Kubernetes:
        check_amounts(self)
        for setting in ("allowed_node_selectors", "allowed_tolerations"):
            for text in getattr(self, setting):
                if not text or text != text.strip():
                    raise ValueError(f"{setting}: '{text}' isn't a pattern")
        check_image(self)
        return self


def matches(text: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns stands for this text; `*` is any run of characters, nothing else is special."""
    return any(fnmatch.fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]")) for pattern in patterns)
