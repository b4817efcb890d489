"""The private directory of a job that runs on this host: made before it starts, gone after it.

<directory>/work    working directory     <directory>/home    HOME
<directory>/tmp     TMPDIR                <directory>/*.sh    the scripts
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import structlog

from consumer.errors import ExecutorFault, Unrunnable
from consumer.model import Plan
from enqueue.job import File
from enqueue.record import Reason

_log = structlog.get_logger("longshore.executors.process")


class PrivateDirectory:
    """Made by `prepare`, which raises Unrunnable or ExecutorFault and then leaves nothing behind. Blocking."""

    def __init__(self, path: Path, workdir: Path) -> None:
        self.path = path
        self.workdir = workdir
        self.home = path / "home"
        self.tmp = path / "tmp"
        self._ours: list[Path] = []  # what we made in a working directory of the host

    @classmethod
    def prepare(cls, base: Path, plan: Plan) -> PrivateDirectory:
        """Make the directory of a plan under `base`, with its files and scripts."""
        job = plan.job
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", plan.id)[:60].lstrip(".") or "job"
        try:
            path = Path(tempfile.mkdtemp(prefix=f"{name}-{plan.attempt}-", dir=base))
        except OSError as error:
            raise ExecutorFault(f"can't make a directory for the job under {base}: {error.strerror}") from error
        asked = Path(job.workdir) if job.workdir else Path()
        made = cls(path, asked if asked.is_absolute() else path / "work" / asked)
        try:
            made.home.mkdir(mode=0o700)
            made.tmp.mkdir(mode=0o700)
            made._make_workdir(on_host=asked.is_absolute())
            made._write_files(job.files, on_host=asked.is_absolute())
            made._write_script("init.sh", job.init.commands if job.init else ())
            made._write_script("script.sh", job.commands)
        except Unrunnable:
            made.remove()
            raise
        except OSError as error:
            made.remove()
            raise ExecutorFault(f"can't prepare the job's directory {path}: {error}") from error
        return made

    def script(self, name: str) -> str:
        """The path of `init.sh` or `script.sh`."""
        return str(self.path / name)

    def remove(self) -> None:
        """Delete it, read-only folders too, and our files in a working directory of the host. Never raises."""
        for path in reversed(self._ours):
            try:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("a job's file is left on the host", path=str(path), error=str(error))
        try:
            _delete(self.path)
        except FileNotFoundError:
            pass
        except OSError:
            with contextlib.suppress(OSError):
                subprocess.run(["rm", "-rf", "--", str(self.path)], check=False, capture_output=True)
        if self.path.exists():
            _log.warning("a job's directory can't be removed", path=str(self.path))

    def _make_workdir(self, *, on_host: bool) -> None:
        if not on_host:
            try:
                self.workdir.mkdir(parents=True, mode=0o700)
            except OSError as error:
                raise Unrunnable(f"workdir: {error.strerror}", Reason.CONFIG_ERROR) from error
        elif not self.workdir.is_dir():
            raise Unrunnable(f"workdir: {self.workdir} is no directory on this host", Reason.CONFIG_ERROR)

    def _write_files(self, files: Iterable[File], *, on_host: bool) -> None:
        for file in files:
            target = self.workdir / file.path
            try:
                missing = [parent for parent in target.parents if not parent.exists()]
                for parent in reversed(missing):
                    parent.mkdir(mode=0o755)
                    if on_host:
                        self._ours.append(parent)
                _write(target, file.contents, file.permissions)
                if on_host:
                    self._ours.append(target)
            except FileExistsError as error:
                raise Unrunnable(f"files: {file.path} exists already in {self.workdir}", Reason.CONFIG_ERROR) from error
            except OSError as error:
                raise Unrunnable(f"files: {file.path}: {error.strerror}", Reason.CONFIG_ERROR) from error

    def _write_script(self, name: str, commands: Iterable[str]) -> None:
        text = "\n".join(commands)
        if text:
            _write(self.path / name, text + "\n", 0o600)


def _write(path: Path, contents: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(contents.encode())
        os.fchmod(handle, mode)


def _delete(root: Path) -> None:
    """Delete a tree without recursion, whatever its folders' permissions."""
    folders = [str(root)]
    for folder in folders:  # grows while we go down
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            os.chmod(folder, 0o700)
            entries = list(os.scandir(folder))
        inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        folders += inner
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                try:
                    os.unlink(entry.path)
                except PermissionError:
                    os.chmod(folder, 0o700)
                    os.unlink(entry.path)
    for folder in reversed(folders):
        try:
            os.rmdir(folder)
        except PermissionError:
            os.chmod(os.path.dirname(folder), 0o700)
            os.rmdir(folder)
