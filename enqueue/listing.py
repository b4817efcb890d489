"""Jobs by tag and status: the steps, without I/O."""

from __future__ import annotations

from enqueue.errors import UsageError
from enqueue.protocol import Backend, Command, Steps
from enqueue.record import Record, Status
from enqueue.wire import records as wire

MOST = 10_000
"""Jobs that one list may have."""

_PAGE = 200
"""Jobs that are looked at in one round trip."""


def jobs(
    backend: Backend, *, tag: str | None, status: Status | str | None, queue: str | None, limit: int
) -> Steps[list[Record]]:
    """The Records of jobs, at most `limit`: those with a tag (the newest first), or those of a queue (RQ only).

    Ids in a tag's index whose jobs have expired are removed from it. Raises UsageError, RecordsUnavailable.
    """
    backend.needs_records()
    if not 1 <= limit <= MOST:
        raise UsageError(f"limit: must lie between 1 and {MOST}")
    try:
        wanted = None if status is None else Status(status)
    except ValueError:
        known = ", ".join(word.value for word in Status)
        raise UsageError(f"status: must be one of {known}") from None
    found: list[Record] = []
    start = 0
    ids = None if tag is not None else (yield from backend.listed(queue, wanted, limit))
    while len(found) < limit:
        if tag is None:
            assert ids is not None
            page = ids[start : start + _PAGE]
        else:
            page = [name.decode() for name in (yield Command(_range(tag, start)))]
        if not page:
            break
        records = yield from backend.records(page)
        gone = [job_id for job_id, record in zip(page, records, strict=True) if record is None]
        if tag is not None and gone:
            yield Command(("ZREM", wire.tag_key(tag), *gone))
        found += [
            record
            for record in records
            if record is not None and wanted in (None, record.status) and (tag is None or queue in (None, record.queue))
        ]
        start += len(page) - (len(gone) if tag is not None else 0)
        if len(page) < _PAGE:
            break
    return found[:limit]


def _range(tag: str, start: int) -> tuple[object, ...]:
    return ("ZREVRANGE", wire.tag_key(tag), start, start + _PAGE - 1)
