"""Requests and limits: the job's, else the operator's, and never a request above its limit."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

from consumer.settings import Kubernetes
from enqueue.job import ResourceList, Resources

_UNITS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


@lru_cache(1024)
def amount(quantity: str) -> Decimal:
    """A Kubernetes quantity as a number. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(?:([eE][+-]?[0-9]{1,2})|([A-Za-z]{0,2}))", quantity.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity, such as '500m' or '256Mi'")
    number, exponent, unit = Decimal(match[1]), match[2], match[3] or ""
    if exponent:
        return number * Decimal(f"1{exponent}")
    if unit in _BINARY:
        return number * (1 << _BINARY[unit])
    if unit in _UNITS:
        return number * Decimal(10) ** _UNITS[unit]
    raise ValueError(f"{quantity!r} has the unknown unit {unit!r}")


def resources_of(wanted: Resources | None, settings: Kubernetes) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(the container's resources, sentences that name what can't be).

    What the job says wins, name by name. A default request is lowered to the job's limit, a default limit raised to
    the job's request; a job whose own request is above its own limit is refused.
    """
    asked = _plain(wanted.requests) if wanted else {}
    capped = _plain(wanted.limits) if wanted else {}
    requests, limits = {**settings.requests, **asked}, {**settings.limits, **capped}
    problems = []
    for name in requests.keys() & limits.keys():
        try:
            above = amount(requests[name]) > amount(limits[name])
        except ValueError as error:
            problems.append(f"resources: {name}: {error}")
            continue
        if not above:
            continue
        if name in asked and name in capped:
            problems.append(
                f"resources.requests.{name}: {requests[name]} is more than resources.limits.{name}, {limits[name]}"
            )
        elif name in asked:
            limits[name] = requests[name]
        else:
            requests[name] = limits[name]
    return {"requests": requests, "limits": limits}, problems


def _plain(given: ResourceList) -> dict[str, str]:
    return {name: str(value) for name, value in given.model_dump(by_alias=True).items() if value is not None}
