"""The section `scaling` of the settings: how many consumers there are to be."""

from __future__ import annotations

from pydantic import Field, model_validator

from consumer.section import Section


class Scaling(Section):
    """The consumers' own Deployment, scaled by one of them: docs/operating.md."""

    deployment: str | None = Field(
        None, pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", description="Its name; off if not given."
    )
    namespace: str | None = Field(
        None, description="Its namespace, where the Lease is too; the pod's own or the kubeconfig's if not given."
    )
    min: int = Field(1, ge=1, description="Consumers at least.")
    max: int = Field(10, ge=1, description="Consumers at most.")
    utilization: float = Field(0.8, gt=0, le=1, description="The share of all slots that is meant to be in use.")
    oldest: float = Field(60, gt=0, description="Seconds that a job may wait before one more consumer is wanted.")
    interval: float = Field(15, gt=0, description="Seconds between two looks.")
    up_window: float = Field(0, ge=0, description="Seconds for which more must have been wanted before there are more.")
    down_window: float = Field(300, ge=0, description="Seconds for which fewer must do before there are fewer.")
    lease: str = Field("longshore-autoscaler", description="The Lease of the one consumer that scales.")
    lease_seconds: float = Field(30, gt=0, description="Seconds after which a silent one's Lease may be taken.")

    @model_validator(mode="after")
    def _in_order(self) -> Scaling:
        if self.min > self.max:
            raise ValueError(f"max: {self.max} is less than {self.min} in min")
        return self
