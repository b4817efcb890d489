"""The API server's audit log while it is written and rotated.

A server renames a full log to `<name>-<time><suffix>` beside it and begins a new one (`--audit-log-maxsize`), and
whoever reads may see the last line before it is whole.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO


class AuditLog:
    """Whole lines of the log at `path` from now on, each once, however often it is rotated meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            self._inode, self._offset = _inode(file), file.seek(0, 2)
            if self._offset:  # it may end within a line
                file.seek(self._offset - 1)
                self._within = file.read(1) != b"\n"
            else:
                self._within = False

    def read(self) -> list[bytes]:
        """The lines that are new.

        Raises RuntimeError if what was last read is deleted already: lines may be missing.
        """
        found: list[bytes] = []
        with contextlib.ExitStack() as opened:
            for file in self._from_here_on(opened):
                if _inode(file) != self._inode:
                    self._inode, self._offset, self._within = _inode(file), 0, False
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    if not self._within:
                        found.append(line)
                    self._within = False
        return found

    def _from_here_on(self, opened: contextlib.ExitStack) -> list[BinaryIO]:
        """The file that was last read and those that were begun after it, the oldest first."""
        files: list[BinaryIO] = []
        for _ in range(100):
            with contextlib.suppress(FileNotFoundError):  # it was rotated while we looked
                files = [opened.enter_context(path.open("rb")) for path in self._paths()]
                if [_inode(file) for file in files] == [path.stat().st_ino for path in self._paths()]:
                    break
        inodes = [_inode(file) for file in files]
        if self._inode not in inodes:
            raise RuntimeError(f"what was read of {self._path} is deleted: requests may be missing")
        return files[inodes.index(self._inode) :]

    def _paths(self) -> list[Path]:
        """All files of the log, by the times in their names, the one that is written last."""
        return [*sorted(self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}")), self._path]


def _inode(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_ino
