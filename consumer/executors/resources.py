"""Requests and limits: the job's, else the operator's; never above the operator's ceiling, never impossible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from enqueue.pod import Resources
from enqueue.quantity import amount

Refused = list[str]
Impossible = list[str]
DISK = "ephemeral-storage"


class Amounts(Protocol):
    """The operator's settings: defaults, and the most that a job may ask for."""

    @property
    def requests(self) -> Mapping[str, str]: ...
    @property
    def limits(self) -> Mapping[str, str]: ...
    @property
    def limits_max(self) -> Mapping[str, str]: ...


def resources_of(wanted: Resources | None, settings: Amounts) -> tuple[dict[str, dict[str, str]], Impossible, Refused]:
    """(the container's resources, sentences on what can't be, sentences on what isn't allowed).

    What the job says wins, name by name. A default request is lowered to the limit, a default limit raised to the
    job's request; a job whose own request is above its own limit is refused. Where there is a ceiling there is a
    limit. What a device plugin offers has a request that equals its limit, and needs a ceiling to be allowed at all.
    """
    asked = wanted.requests.amounts() if wanted else {}
    capped = wanted.limits.amounts() if wanted else {}
    impossible, refused = _devices(asked, capped), _above(asked, capped, settings.limits_max)
    for name in (name for name in asked if "/" in name):
        capped.setdefault(name, asked[name])
    requests = {**settings.requests, **asked}
    limits = {**settings.limits_max, **settings.limits, **capped}
    for name in settings.limits_max:
        if "/" in name and name not in capped and name not in settings.limits:
            del limits[name]
    for name in requests.keys() & limits.keys():
        if amount(requests[name]) <= amount(limits[name]):
            continue
        if name in asked and name in capped:
            impossible.append(
                f"resources.requests.{name}: {requests[name]} is more than resources.limits.{name}, {limits[name]}"
            )
        elif name in asked:
            limits[name] = requests[name]
        else:
            requests[name] = limits[name]
    if DISK in limits:
        requests.setdefault(DISK, "0")  # else Kubernetes reserves the whole limit
    return {"requests": requests, "limits": limits}, impossible, refused


def _devices(asked: Mapping[str, str], capped: Mapping[str, str]) -> Impossible:
    found = []
    for name in sorted(name for name in {**asked, **capped} if "/" in name):
        given = {amount(quantity) for amounts in (asked, capped) if (quantity := amounts.get(name)) is not None}
        if len(given) > 1:
            found.append(f"resources.requests.{name}: must equal resources.limits.{name}, or be left out")
        elif any(value % 1 for value in given):
            found.append(f"resources.limits.{name}: must be a whole number")
    return found


def _above(asked: Mapping[str, str], capped: Mapping[str, str], ceilings: Mapping[str, str]) -> Refused:
    found = []
    for kind, amounts in (("requests", asked), ("limits", capped)):
        for name, quantity in amounts.items():
            if name in ceilings and amount(quantity) > amount(ceilings[name]):
                found.append(f"resources.{kind}.{name}: {quantity} is more than {ceilings[name]}, the most allowed")
            elif "/" in name and name not in ceilings:
                allowed = ", ".join(known for known in ceilings if "/" in known) or "none"
                found.append(f"resources.{kind}.{name}: isn't allowed; allowed of its kind: {allowed}")
    return found


def limit_of(memory: str) -> str:
    """A step's limit of memory, for a sentence."""
    return f"its limit of {memory}" if memory else "its limit"
