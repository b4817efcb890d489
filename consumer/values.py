"""Values: never changed once they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a frozen dataclass with slots.

    That nobody changes it is held by mypy alone: to hold it at run time, too, would make each one cost several times as
    much, and a job makes dozens of them.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
