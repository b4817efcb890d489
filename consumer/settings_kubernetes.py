"""The section `kubernetes` of the settings: access to the cluster, and what a job's pod is and may be."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from consumer.section import Section


class Kubernetes(Section):
    """The kubernetes executor."""

    namespace: str | None = Field(
        None, description="Namespace of the jobs; the kubeconfig's or the pod's own if not given."
    )
    kubeconfig: Path | None = Field(
        None, description="Path of a kubeconfig; else KUBECONFIG, ~/.kube/config, in-cluster."
    )
    context: str | None = Field(None, description="The kubeconfig's context.")
    image: str | None = Field(None, description="Image of jobs that name none.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_grace: float = Field(60, ge=0, description="Seconds for which a failing image pull may still recover.")
    service_account: str | None = Field(None, description="Service account of jobs that name none.")
    allowed_service_accounts: tuple[str, ...] = Field((), description="Service accounts that jobs may name.")
    allowed_secrets: tuple[str, ...] = Field((), description="Kubernetes Secrets that jobs may refer to.")
    requests: dict[str, str] = Field(
        {"cpu": "100m", "memory": "128Mi"}, description="Resource requests of jobs that set none."
    )
    limits: dict[str, str] = Field({"memory": "1Gi"}, description="Resource limits of jobs that set none.")
    image_pull_secrets: tuple[str, ...] = Field((), description="Secrets with the registries' credentials.")
    rate: float = Field(200, gt=0, description="Requests a second to the API; bursts may be twice as large.")
    patience: float = Field(300, ge=0, description="Seconds for which an API server that doesn't answer is waited for.")
    run_as_user: int = Field(65532, ge=1, description="User and group of job containers.")
    keep_failed: float = Field(
        0, ge=0, description="Seconds for which a failed job's pod, and its Secret, are kept for people to look at."
    )
    keep_failed_pods: int = Field(50, ge=0, description="So many failed pods are kept at most; the oldest go first.")
    sweep_interval: float = Field(60, gt=0, description="Seconds between two looks for pods that nobody holds.")
    lease: str = Field("longshore-sweeper", description="The Lease of the one consumer that sweeps.")
    lease_seconds: float = Field(30, gt=0, description="Seconds after which a silent sweeper's Lease may be taken.")
    labels: dict[str, str] = Field({}, description="Labels added to every pod.")
    annotations: dict[str, str] = Field({}, description="Annotations added to every pod.")
