"""The settings of a consumer on Faktory."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from consumer.section import Section


class Faktory(Section):
    """How this consumer speaks with Faktory."""

    ca_file: Path | None = Field(
        None,
        description="Certificates (PEM) of the authority that signed Faktory's, for faktory+tls://; "
        "the system's own if not given.",
    )
    labels: tuple[str, ...] = Field((), description="Shown for this consumer on Faktory's Busy page.")
    fetch_connections: int = Field(4, ge=1, le=16, description="Connections with one FETCH in flight each.")
    log_interval: float = Field(
        30, gt=0, description="Seconds after which lines are sent to whoever asked for the log as jobs, at the latest."
    )
    opslevel: bool = Field(
        True, description="Run OpsLevel's job type `legacy`, unless `job_types` has one or `jobs.types_only` is set."
    )
    opslevel_queue: str = Field(
        "app", pattern=r"^[A-Za-z0-9_.-]{1,120}$", description="Where the reply jobs of `legacy` jobs go."
    )
    share_url: bool = Field(
        False,
        description="A `legacy` job that asks for it gets FAKTORY_URL with its password, as a secret. Whoever has it "
        "can do anything to the queues.",
    )

    @property
    def ca(self) -> str | None:
        """The file as text."""
        return str(self.ca_file) if self.ca_file else None
