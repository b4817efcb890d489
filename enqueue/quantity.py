"""Kubernetes quantities as numbers.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:([eE][+-]?[0-9]{1,2})|([A-Za-z]{0,2}))", re.ASCII)
_UNITS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


@lru_cache(1024)
def amount(quantity: str) -> Decimal:
    """A Kubernetes quantity as a number. Raises ValueError."""
    match = _QUANTITY.fullmatch(quantity.strip())
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
