"""What an entry of a log's stream says of the log so far, so that a restart needs only the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from consumer.model import LogPosition, Place
from enqueue.record import Tally
from enqueue.wire.marks import packed
from enqueue.wire.records import digest_after


def position_fields(position: LogPosition) -> list[Any]:
    """What an entry of a log says of the log up to and with it."""
    fields: list[Any] = [b"l", position.lines - position.open, b"b", position.bytes]
    if position.digest:
        fields += [b"h", position.digest]
    if position.at is not None:
        fields += [b"t", round(position.at * 1000)]
    if position.place is not None:
        fields += [b"p", f"{position.place.bytes} {position.place.at}"]
        if position.place.read is not None:
            fields += [b"r", f"{position.place.read.lines} {position.place.read.bytes}"]
    if position.times:
        fields += [b"m", packed(position.times)]
    if position.step not in ("", "main"):
        fields += [b"s", position.step]
    if position.gaps:
        fields += [b"g", json.dumps(position.gaps, separators=(",", ":"))]
    return fields


def entries_of(rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[tuple[int, LogPosition, bytes]]:
    """Entries with data: number, where the log stands with it, the data."""
    found = ((position_of(entry, fields), fields.get(b"d")) for entry, fields in rows)
    return [(position.entries, position, data) for position, data in found if data is not None]


def position_of(entry: bytes, fields: Mapping[bytes, bytes]) -> LogPosition:
    """Where a log stands after this entry, whose digest is that of all before it."""
    lines = int(fields.get(b"l", 0))
    data = fields.get(b"d")
    left_open = int(fields.get(b"lines", lines)) > lines if data is None else not data.endswith(b"\n")
    size, _, at = fields.get(b"p", b"").decode().partition(" ")
    read = [int(number) for number in fields.get(b"r", b"").split()]
    before = fields.get(b"h", b"")
    return LogPosition(
        entries=int(entry.split(b"-")[1]),
        lines=lines + left_open,
        bytes=int(fields.get(b"b", 0)),
        gaps=tuple(json.loads(fields.get(b"g", b"[]"))),
        open=left_open,
        place=Place(at, int(size), Tally(lines=read[0], bytes=read[1]) if read else None) if at else None,
        digest=digest_after(before, data) if before and data is not None else before,
        ended=b"end" in fields,
    )
