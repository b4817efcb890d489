"""Which consumers of this machine are dead for certain: each living one holds a lock that nothing but its end frees.

A file per consumer process, in a directory of this user, locked with flock(2). The kernel frees the lock when the
process is gone, and not a moment before: one that is stopped, swapped out or hung still holds it. Whoever gets the
lock of another one's file therefore knows that its claims may be taken over at once, without any waiting.

A file counts only on the kernel that wrote it (boot id) and where it was written (device, inode): a copy of it, or one
that another machine shares with us, proves nothing. What can't be proven this way is left to the time limits.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import structlog

log = structlog.get_logger()

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FORGOTTEN_SECONDS = 86_400.0
"""Files of a former boot are removed after so long."""


def default_directory() -> Path:
    """A directory of this user below the temporary one."""
    return Path(tempfile.gettempdir()) / f"longshore-{os.getuid()}"


class Lifeline:
    """Our own lock, and what others' locks tell. `place` names the store that holds the claims, without secrets.

    `portable`: whoever takes our claims over can go on with what runs, on whichever machine.
    Where no directory can be used, or the system has no boot id, nothing is known and nothing fails.
    """

    def __init__(self, directory: Path | None, place: str, *, portable: bool = True) -> None:
        self.portable = portable
        self._directory = directory or default_directory()
        self._place = place
        self._boot = _boot_id()
        self._own: tuple[Path, int] | None = None
        self._found: dict[str, tuple[Path, int]] = {}

    def hold(self, instance: str) -> None:
        """Show that this process lives, until it ends or `release` is called."""
        if self._boot is None or self._own is not None:
            return
        try:
            try:
                self._own = self._make(instance)
            except FileNotFoundError:  # somebody has just left the directory empty and removed it
                self._own = self._make(instance)
        except OSError as error:
            problem = error.strerror or str(error)
            log.info("no_lifeline", directory=str(self._directory), error=problem, fix="set state_directory")

    def dead(self) -> list[str]:
        """Instances whose processes are gone for certain; the same ones again until `forget`."""
        if self._own is None:
            return []
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._directory):
                path = Path(entry.path)
                if path.suffix == ".alive" and path != self._own[0] and path not in self._paths():
                    self._examine(path)
        return list(self._found)

    def forget(self, instances: Iterable[str]) -> None:
        """Their deaths are known where it matters."""
        for instance in instances:
            path, file = self._found.pop(instance)
            _remove(path, file)

    def release(self, *, stay: bool = False) -> None:
        """We go in peace, and so may others' files that we have looked into.

        Our own may `stay`: it shows this machine's next consumer that we are gone.
        """
        if self._own is not None:
            path, file = self._own
            os.close(file) if stay else _remove(path, file)
            self._own = None
            with contextlib.suppress(OSError):  # not empty
                self._directory.rmdir()
        for _, file in self._found.values():
            os.close(file)
        self._found = {}

    def _paths(self) -> set[Path]:
        return {path for path, _ in self._found.values()}

    def _make(self, instance: str) -> tuple[Path, int]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.lstat(self._directory)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o022:
            raise PermissionError(1, "others may write there")
        new, path = self._directory / f"{instance}.new", self._directory / f"{instance}.alive"
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(file, json.dumps(self._words(file, instance)).encode())
            new.rename(path)  # complete and locked before anybody looks into it
        except BaseException:
            _remove(new, file)
            raise
        return path, file

    def _words(self, file: int, instance: str) -> dict[str, str]:
        info = os.fstat(file)
        inode = f"{info.st_dev}:{info.st_ino}"
        return {"boot": self._boot or "", "inode": inode, "place": self._place, "instance": instance}

    def _examine(self, path: Path) -> None:
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            said = json.loads(os.read(file, 4096))
            instance = str(said["instance"])
            if re.fullmatch("[0-9a-f]{32}", instance) and said == self._words(file, instance):
                self._found[instance] = path, file
                return
            if said.get("boot") != self._boot and os.fstat(file).st_mtime < time.time() - _FORGOTTEN_SECONDS:
                path.unlink(missing_ok=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # locked: it lives; or it is no file of ours
        os.close(file)


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip() or None
    except OSError:
        return None


def _remove(path: Path, file: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(file)
