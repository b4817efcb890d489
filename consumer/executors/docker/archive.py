"""Tar archives: what is laid down in a container, and the one file that is read back."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from consumer.outcome_file import CAP

MOST_READ = 4 * 2**20
"""The largest file that is read back: archives come from their beginning, and only a file's end counts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a directory if `contents` is None."""

    path: str
    mode: int
    user: int
    contents: bytes | None = field(default=None, repr=False)


def packed(entries: Iterable[Entry], root: str) -> bytes:
    """A tar archive to be unpacked at `root`; of two entries with one path the last one counts."""
    stream = io.BytesIO()
    now = int(time.time())
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in sorted({entry.path: entry for entry in entries}.values(), key=lambda entry: entry.path):
            made = tarfile.TarInfo(entry.path.removeprefix(root.rstrip("/")).lstrip("/") or ".")
            made.mode, made.uid, made.gid, made.mtime = entry.mode, entry.user, entry.user, now
            if entry.contents is None:
                made.type = tarfile.DIRTYPE
                archive.addfile(made)
            else:
                made.size = len(entry.contents)
                archive.addfile(made, io.BytesIO(entry.contents))
        end = archive.offset + 2 * tarfile.BLOCKSIZE
    # Without what fills the last record: Podman stops reading at the archive's end, and fails if more is to come.
    return stream.getvalue()[:end]


async def end_of_file(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """(the end of the one file in an archive, whether something stood before it or it is too large to be read)."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > MOST_READ:
            return b"", True
    try:
        with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
            member = archive.next()
            read = archive.extractfile(member) if member is not None and member.isreg() else None
            contents = read.read() if read is not None else b""
    except tarfile.TarError:
        return b"", False
    return contents[-CAP:], len(contents) > CAP
