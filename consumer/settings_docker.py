"""The section `docker` of the settings: access to the engine, and what a job's container is and may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from consumer.section import Section
from consumer.settings_containers import Pattern, Quantities, check_amounts, check_image

DEFAULT_HOST = "unix:///var/run/docker.sock"


class Docker(Section):
    """The docker executor. What jobs may ask for is empty unless the operator names it: `allowed_...`."""

    host: str | None = Field(
        None,
        pattern=r"^(unix:///|tcp://|https?://).+",
        description="The engine's URL, unix:// or tcp://; DOCKER_HOST if not given, else Docker's own socket.",
    )
    tls: Path | None = Field(
        None,
        description="Directory with ca.pem, cert.pem and key.pem; DOCKER_CERT_PATH if DOCKER_TLS_VERIFY is set.",
    )
    sweep_interval: float = Field(60, gt=0, description="Seconds between two looks for containers that nobody holds.")

    profile: Literal["restricted", "baseline", "privileged"] = Field(
        "restricted", description="restricted: no root, no capabilities; baseline: as the image says; privileged: all."
    )
    run_as_user: int = Field(65532, ge=1, description="User and group of restricted jobs.")
    read_only: bool = Field(False, description="Jobs may write to their working directory, home and /tmp only.")
    pids_limit: int = Field(1024, ge=0, description="Processes and threads that a job may have; 0: any number.")
    network: str | None = Field(None, description="Network of the containers, such as none; the engine's if not given.")
    runtime: str | None = Field(None, description="OCI runtime, such as runsc; the engine's if not given.")
    secrets: Literal["file", "environment"] = Field(
        "file",
        description="How sensitive variables reach a job: in a file that its shell reads, so that the engine doesn't "
        "know them; or in the container's environment, which needs no shell in the image.",
    )
    output_bytes: int = Field(
        256 * 1024 * 1024, ge=65536, description="Bytes of a job's output that the engine keeps until its end."
    )

    image: str | None = Field(None, description="Image of jobs that name none.")
    allowed_images: tuple[Pattern, ...] = Field(
        (), description="Images that jobs may run, as patterns of parsed references; empty: all."
    )
    require_digest: bool = Field(False, description="Refuse images that aren't named by a digest.")
    image_pull_policy: Literal["Always", "IfNotPresent", "IfNotPinned", "Never"] = Field(
        "IfNotPresent", description="IfNotPinned: Always, but IfNotPresent for an image with a digest."
    )
    image_pull_grace: float = Field(60, ge=0, description="Seconds for which a failing image pull may still recover.")
    registry_config: Path | None = Field(
        None, description="A config.json of Docker's with the registries' credentials (`auths`)."
    )

    requests: Quantities = Field({}, description="Resource requests of jobs that set none: cpu, memory.")
    limits: Quantities = Field({"memory": "1Gi"}, description="Resource limits of jobs that set none: cpu, memory.")
    limits_max: Quantities = Field({}, description="The most that a job may ask for, by name.")

    labels: dict[str, str] = Field({}, description="Labels added to every container; jobs can't change them.")
    allowed_labels: tuple[str, ...] = Field(("*",), description="Keys that jobs may set, with * for any text.")

    @property
    def url(self) -> str:
        """The engine's, as Docker's own clients find it if nobody names one."""
        return self.host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST

    @property
    def certificates(self) -> Path | None:
        """The directory of the TLS files."""
        named = os.environ.get("DOCKER_CERT_PATH") if os.environ.get("DOCKER_TLS_VERIFY") else None
        return self.tls or (Path(named) if named else None)

    @model_validator(mode="after")
    def _whole(self) -> Docker:
        for setting in ("requests", "limits", "limits_max"):
            for name in getattr(self, setting):
                if name not in ("cpu", "memory"):
                    raise ValueError(f"{setting}: {name}: an engine knows cpu and memory only")
        check_amounts(self)
        check_image(self)
        return self
