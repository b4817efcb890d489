"""What a Job may ask of its pod: names, amounts and tolerations, checked for their form alone."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from enqueue.closed import Closed, nearest
from enqueue.images import parse_image
from enqueue.quantity import amount

POD_FIELDS = (
    "secrets", "resources", "labels", "annotations", "service_account", "image_pull_policy", "image_pull_secrets",
    "node_selector", "tolerations", "runtime_class", "priority_class",
)  # fmt: skip
"""Fields of a Job that mean something in a cluster only."""


_PREFIX = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_DNS_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


def _dns_name(name: str) -> str:
    if not _DNS_NAME.fullmatch(name):
        raise ValueError("must be a Kubernetes name: lower-case letters, digits, '-' and '.'")
    return name


def _quantity(text: str) -> str:
    try:
        amount(text if len(text) <= 30 and text == text.strip() else "")
    except ValueError:
        raise ValueError("must be a Kubernetes quantity, such as '500m', '2', '256Mi' or '1.5Gi'") from None
    return text


def _key(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if (slash and (not _PREFIX.fullmatch(prefix) or len(prefix) > 253)) or not _NAME.fullmatch(name):
        raise ValueError("must be a Kubernetes key: [prefix/]name with at most 63 letters, digits, '-', '_' and '.'")
    return key


def _own_key(key: str) -> str:
    prefix = _key(key).rpartition("/")[0]
    if prefix == "longshore" or prefix.endswith(("longshore.dev", "kubernetes.io", "k8s.io")):
        raise ValueError("has a reserved prefix: longshore.dev, kubernetes.io and k8s.io can't be set by a job")
    return key


def _label_value(value: str) -> str:
    if value and not _NAME.fullmatch(value):
        raise ValueError("must be a Kubernetes label value: at most 63 letters, digits, '-', '_' and '.'")
    return value


def _image(text: str) -> str:
    parse_image(text)
    return text


Quantity = Annotated[str, AfterValidator(_quantity)]
ImageReference = Annotated[str, AfterValidator(_image)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
Key = Annotated[str, AfterValidator(_key)]
OwnKey = Annotated[str, AfterValidator(_own_key)]
LabelValue = Annotated[str, AfterValidator(_label_value)]


class ResourceList(Closed):
    """Amounts as Kubernetes quantities: cpu '500m', memory '256Mi'; by its name what a device plugin offers."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"additionalProperties": False, "patternProperties": {"/": {"type": "string"}}},
    )
    __pydantic_extra__: dict[str, Quantity] = Field(init=False)

    cpu: Quantity | None = None
    memory: Quantity | None = None
    ephemeral_storage: Quantity | None = Field(None, alias="ephemeral-storage")

    @model_validator(mode="after")
    def _names(self) -> ResourceList:
        for name in self.__pydantic_extra__:
            prefix, _, last = name.rpartition("/")
            if not prefix:
                known = nearest(name, ("cpu", "memory", "ephemeral-storage", "vendor.example/device"))
                raise ValueError(f"unknown field '{name[:80]}'{known}")
            if not (_PREFIX.fullmatch(prefix) and _NAME.fullmatch(last)) or prefix.endswith("kubernetes.io"):
                raise ValueError(f"'{name[:80]}' can't be the name of a resource, such as 'nvidia.com/gpu'")
        return self

    def amounts(self) -> dict[str, str]:
        """Name -> quantity of what is asked for."""
        return {name: str(value) for name, value in self.model_dump(by_alias=True).items() if value is not None}


class Resources(Closed):
    """What the job asks for and what it may use at most."""

    requests: ResourceList = ResourceList()
    limits: ResourceList = ResourceList()


class Toleration(Closed):
    """Lets the pod run on nodes with a taint, if the operator allows its key."""

    key: Key = Field(description="The taint's key.")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="Equal compares the taint's value too.")
    value: LabelValue | None = Field(None, description="The taint's value, for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect; any, if not given."
    )
    seconds: int | None = Field(None, ge=0, description="With NoExecute: how long the pod may stay after all.")

    @model_validator(mode="after")
    def _whole(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value: says nothing with operator Exists; leave it out")
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("seconds: needs effect NoExecute")
        return self
