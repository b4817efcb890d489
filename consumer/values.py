"""Values: never changed once they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


def storable(text: str) -> str:
    """The same text; halves of surrogate pairs, which no encoding takes, become U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a frozen dataclass with slots.

    That nobody changes it is held by mypy alone: to hold it at run time, too, would make each one cost several times as
    much, and a job makes dozens of them.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
