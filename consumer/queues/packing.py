"""Commands for Redis, packed by hiredis: the asyncio part of redis-py packs in Python, for a tenth of our CPU time."""

from __future__ import annotations

import contextlib
from typing import Any

import hiredis


class _Packing:
    def pack_command(self, *args: Any) -> list[bytes]:
        if isinstance(args[0], str) and " " not in args[0]:  # `SCRIPT LOAD` is two words, which redis-py knows
            with contextlib.suppress(TypeError):  # a type that hiredis doesn't know
                return [hiredis.pack_command(args)]
        packed: list[bytes] = super().pack_command(*args)  # type: ignore[misc]
        return packed


def packing(connection: type) -> type:
    """A connection class like this one of redis-py's asyncio part."""
    return type(connection.__name__, (_Packing, connection), {})
