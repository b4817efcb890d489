"""What an entry of a log's stream says of the log so far, so that a restart needs only the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from consumer.model import LogPosition, Place


def position_fields(position: LogPosition) -> list[Any]:
    """What an entry of a log says of the log up to and with it."""
    fields: list[Any] = [b"l", position.lines - position.open, b"b", position.bytes]
    if position.place is not None:
        fields += [b"p", f"{position.place.bytes} {position.place.at}"]
    if position.gaps:
        fields += [b"g", json.dumps(position.gaps, separators=(",", ":"))]
    return fields


def entries_of(rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[tuple[int, LogPosition, bytes]]:
    """Entries with data: number, where the log stands with it, the data."""
    found = ((position_of(entry, fields), fields.get(b"d")) for entry, fields in rows)
    return [(position.entries, position, data) for position, data in found if data is not None]


def position_of(entry: bytes, fields: Mapping[bytes, bytes]) -> LogPosition:
    """Where a log stands after this entry."""
    lines = int(fields.get(b"l", 0))
    data = fields.get(b"d")
    left_open = int(fields.get(b"lines", lines)) > lines if data is None else not data.endswith(b"\n")
    size, _, at = fields.get(b"p", b"").decode().partition(" ")
    return LogPosition(
        entries=int(entry.split(b"-")[1]),
        lines=lines + left_open,
        bytes=int(fields.get(b"b", 0)),
        gaps=tuple(json.loads(fields.get(b"g", b"[]"))),
        open=left_open,
        place=Place(at, int(size)) if at else None,
    )
