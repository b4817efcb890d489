"""The files that a job left in its directory for outputs, read without following any link out of it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from consumer.model import Found, OutputPart

CHUNK = 1024 * 1024


async def read_files(root: Path) -> AsyncIterator[OutputPart]:
    """Each regular file below `root`, then its bytes, in the order of their names; what is none says why."""
    files = await asyncio.to_thread(_walk, os.fsencode(root))
    if files is None:
        yield Found(b"", problem="not kept: the folder was removed, or replaced by something else")
        return
    for name in files:
        found, handle = await asyncio.to_thread(_open, os.fsencode(root), name)
        yield found
        if handle is None:
            continue
        try:
            while data := await asyncio.to_thread(os.read, handle, CHUNK):
                yield data
        finally:
            os.close(handle)


def _walk(root: bytes) -> list[bytes] | None:
    """The names of all that isn't a folder, sorted. Without recursion: a job may have made its folders deep.

    None: the job has put something else in the root's place, such as a link.
    """
    if os.path.islink(root) or not os.path.isdir(root):
        return None
    names: list[bytes] = []
    folders = [b""]
    for folder in folders:  # grows while we go down
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError:
            names.append(folder)  # `_open` tells why
            continue
        for entry in entries:
            name = os.path.join(folder, entry.name)
            (folders if entry.is_dir(follow_symlinks=False) else names).append(name)
    return sorted(names)


def _open(root: bytes, name: bytes) -> tuple[Found, int | None]:
    path = os.path.join(root, name)
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            return Found(name, problem="not kept: a symbolic link, which isn't followed"), None
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Found(name, problem=f"not kept: {error.strerror}"), None
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        os.close(handle)
        return Found(name, problem="not kept: no regular file"), None
    return Found(name, facts.st_size), handle
