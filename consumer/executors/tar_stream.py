"""Files out of a tar as it comes: names of any bytes and length, nothing unpacked to a disk.

Source of the format: https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator

from consumer.model import Found, OutputPart
from consumer.storing import Refused

BLOCK = 512
LONGEST_HEADER = 1024 * 1024
"""Bytes of a name that is too long for its field, with what else stands beside it."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE)


async def read_tar(chunks: AsyncIterator[bytes]) -> AsyncIterator[OutputPart]:
    """Each file and then its bytes. Raises Refused for what is no tar, or is cut off."""
    source = _Source(chunks)
    longer: bytes | None = None
    while (block := await source.exactly(BLOCK)).strip(b"\0"):
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise Refused(f"the files came as a broken archive: {error}") from None
        padding = -member.size % BLOCK
        if member.type in _LONG:
            if member.size > LONGEST_HEADER:
                raise Refused("the files came as a broken archive: a name is too long")
            text = (await source.exactly(member.size + padding))[: member.size]
            if member.type == tarfile.GNUTYPE_LONGNAME:
                longer = text.rstrip(b"\0")
            elif member.type == tarfile.XHDTYPE:
                longer = _path_of(text) or longer
            continue
        name = longer if longer is not None else member.name.encode("utf-8", "surrogateescape")
        name, longer = name.removeprefix(b"./"), None
        if member.type in _FILES:
            yield Found(name, member.size)
            left = member.size
            while left:
                data = await source.some(left)
                left -= len(data)
                yield data
            await source.exactly(padding)
            continue
        if member.type == tarfile.SYMTYPE:
            yield Found(name, problem="not kept: a symbolic link, which isn't followed")
        elif member.type == tarfile.LNKTYPE:
            yield Found(name, problem="not kept: a second name of another file")
        elif member.type != tarfile.DIRTYPE:
            yield Found(name, problem="not kept: no regular file")


class _Source:
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._waiting = b""

    async def some(self, most: int) -> bytes:
        """At least a byte, and `most` at most."""
        while not self._waiting:
            try:
                self._waiting = await anext(self._chunks)
            except StopAsyncIteration:
                raise Refused("the files were cut off") from None
        data, self._waiting = self._waiting[:most], self._waiting[most:]
        return data

    async def exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            parts.append(await self.some(size))
            size -= len(parts[-1])
        return b"".join(parts)


def _path_of(records: bytes) -> bytes | None:
    """The path in an extended header: records of `<length> <key>=<value>` and a newline."""
    found = None
    while records:
        length, _, rest = records.partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            break
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if key == b"path":
            found = value
        records = records[int(length) :]
    return found
