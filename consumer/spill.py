"""Large outcome variables are kept beside the Record, which is read and written often."""

from __future__ import annotations

from consumer.model import Claim
from consumer.ports import KeepingRecords, Records
from enqueue.record import Record
from enqueue.variables import Variables

LARGE = 4096
"""Bytes of a variable that is kept beside the Record."""


async def spilled(records: Records, claim: Claim, record: Record) -> Record:
    """The Record to be stored, its large variables stored already. Raises ClaimLost."""
    if not (record.variables or record.large):
        return record
    large = {name: value for name, value in record.variables.items() if len(value.encode()) > LARGE}
    if large:
        if not isinstance(records, KeepingRecords):
            return record
        await records.keep(claim, large)
    small = Variables((name, value) for name, value in record.variables.items() if name not in large)
    names = tuple(dict.fromkeys([*(name for name in record.large if name not in small), *large]))
    return record.model_copy(update={"variables": small, "large": names}) if names or record.large else record
