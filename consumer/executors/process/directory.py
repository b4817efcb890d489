"""The private directory of one attempt that runs on this host. Made whole or not at all, under a name that says whose.

<directory>/work    working directory     <directory>/home    HOME       <directory>/outcome   $LONGSHORE_OUTCOME
<directory>/tmp     TMPDIR                <directory>/*.sh    the scripts
<directory>/outputs $LONGSHORE_OUTPUTS, if the job asks for it
<directory>/handed  what a job type hands to the job
<directory>/attempt.json                  whose it is; nothing of the job's but a digest
<directory>/journal   see journal.py       <directory>/log        the output
<directory>/control   a pipe to the shim: `stop <seconds>`
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog

from consumer.errors import ExecutorFault, Unrunnable
from consumer.executors.process.journal import Journal
from consumer.model import AttemptKey, Plan
from enqueue.record import Reason

_log = structlog.get_logger("longshore.executors.process")

UNFINISHED = ".new-"
_REMOVED = ".old-"
CUT_OFF_SECONDS = 3600.0
"""The age at which a directory that nobody finished making, or removing, is cleared away."""


def name_of(plan: Plan) -> str:
    """The one name of this attempt's directory."""
    digest = hashlib.sha256(f"{plan.source}\0{plan.queue}\0{plan.id}".encode("utf-8", "surrogatepass")).digest()
    return f"{base64.b32encode(digest).decode().lower()[:26]}-{plan.attempt}"


class AttemptDirectory:
    """Blocking, all of it. `prepare` makes one, `find` finds it again."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self._facts = facts
        asked = facts["workdir"]
        self.on_host = os.path.isabs(asked)
        self.workdir = Path(asked) if self.on_host else path / "work" / asked

    @property
    def digest(self) -> str:
        """The job's."""
        return str(self._facts["digest"])

    @classmethod
    def find(cls, base: Path, name: str) -> AttemptDirectory | None:
        """The directory of that name. Raises ExecutorFault if it can't be read."""
        try:
            return cls(base / name, json.loads((base / name / "attempt.json").read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ExecutorFault(f"the directory {base / name} of a former run can't be read: {error}") from error

    @classmethod
    def prepare(cls, base: Path, name: str, plan: Plan) -> AttemptDirectory:
        """Make it, or find the one that somebody made meanwhile. Raises Unrunnable, ExecutorFault."""
        made: Path | None = None
        try:
            made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=base))
            facts = {
                "v": 1, "source": plan.source, "job": plan.id, "queue": plan.queue, "attempt": plan.attempt,
                "consumer": plan.consumer, "digest": plan.job.digest(), "workdir": plan.job.workdir or "",
                "created": plan.created, "host_files": [],
            }  # fmt: skip
            draft = cls(made, facts)
            draft._fill(plan)
            try:
                os.rename(made, base / name)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                _delete(made)
                if (found := cls.find(base, name)) is None:
                    raise
                return found
            return cls(base / name, facts)
        except OSError as error:
            if made is not None:
                _delete(made)
            raise ExecutorFault(f"can't make a directory for the job under {base}: {error.strerror}") from error
        except Unrunnable:
            if made is not None:
                _delete(made)
            raise

    def complete(self, plan: Plan) -> None:
        """Write the files that go to a folder of the host. Raises Unrunnable."""
        ours = set(self._facts["host_files"])
        for file in plan.job.files if self.on_host else ():
            target = self.workdir / file.path
            try:
                for parent in reversed(target.parents):
                    if str(parent) in ours:
                        parent.mkdir(mode=0o755, exist_ok=True)
                target.unlink(missing_ok=True)  # from a start that was cut off: it wasn't there before
                _write(target, file.contents, file.permissions)
            except OSError as error:
                raise Unrunnable(f"files: {file.path}: {error.strerror}", Reason.CONFIG_ERROR) from error

    def journal(self) -> Journal | None:
        """What a shim wrote; None: there never was one."""
        try:
            return Journal(self.path)
        except FileNotFoundError:
            return None

    @property
    def kept(self) -> bool:
        """A shim holds it now, and has something left to do."""
        journal = self.journal()
        if journal is None:
            return False
        try:
            # Asked for before the shim has it, the lock would be in its way.
            return journal.begun and journal.end is None and journal.kept
        finally:
            journal.close()

    @property
    def age(self) -> float:
        """Seconds since its making, or since its shim wrote last."""
        with contextlib.suppress(OSError):
            files = [path for path in (self.path / "attempt.json", self.path / "journal") if path.exists()]
            return time.time() - max(path.stat().st_mtime for path in files)
        return 0.0

    def tell(self, words: str) -> bool:
        """Say something to the shim; False if there is none."""
        try:
            handle = os.open(self.path / "control", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            os.write(handle, words.encode())
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def outcome(self, most: int) -> bytes:
        """The end of what the job wrote for `$LONGSHORE_OUTCOME`: more than `most` bytes if there is more.

        Empty, if the job put something else there: a named pipe would never be opened, and a link leads out of here.
        """
        try:
            handle = os.open(self.path / "outcome", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb") as stream:
                facts = os.fstat(handle)
                if not stat.S_ISREG(facts.st_mode):
                    return b""
                stream.seek(max(0, facts.st_size - most - 1))
                return stream.read(most + 1)
        except OSError:
            return b""

    @property
    def key(self) -> AttemptKey:
        """Whose it is."""
        return AttemptKey(self._facts["job"], self._facts["queue"], self._facts["attempt"])

    @property
    def source(self) -> str:
        """The store of Records that knows it."""
        return str(self._facts["source"])

    def former(self, plan: Plan) -> bool:
        """It is of another job that had the same id before: its end isn't this job's."""
        created = self._facts.get("created", "")
        return bool(created and plan.created and created != plan.created)

    def discard(self) -> bool:
        """Remove it unless a shim has it, or will."""
        try:
            handle = os.open(self.path / "journal", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_size:
                return False
            os.unlink(self.path / "journal")  # a shim that comes late sees that
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
        self.remove()
        return True

    def clear(self) -> None:
        """Remove it for good reasons, but never from under a shim."""
        if not self.kept and not self.discard() and not self.kept:
            self.remove()

    def remove(self) -> None:
        """Delete it, and our files in a folder of the host. Never raises."""
        for path in reversed(self._facts["host_files"]):
            try:
                os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                _log.warning("a job's file is left on the host", path=path, error=str(error))
        _delete(self.path)

    def _fill(self, plan: Plan) -> None:
        for name in ("home", "tmp", "work", *(("outputs",) if plan.job.outputs else ())):
            (self.path / name).mkdir(mode=0o700)
        os.mkfifo(self.path / "control", 0o600)
        for name, commands in (
            ("init.sh", plan.job.init.commands if plan.job.init else ()),
            ("script.sh", plan.job.commands),
        ):
            if text := "\n".join(commands):
                _write(self.path / name, text + "\n", 0o600)
        if plan.handed:
            (self.path / "handed").mkdir(mode=0o700)
        for handed in plan.handed:
            _write(self.path / "handed" / handed.name, handed.contents, 0o400)
        if self.on_host:
            if not self.workdir.is_dir():
                raise Unrunnable(f"workdir: {self.workdir} is no directory on this host", Reason.CONFIG_ERROR)
            self._facts["host_files"] = list(self._new_on_host(file.path for file in plan.job.files))
        else:
            self._make_workdir(plan)
        _write(self.path / "attempt.json", json.dumps(self._facts), 0o600)

    def _make_workdir(self, plan: Plan) -> None:
        try:
            self.workdir.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise Unrunnable(f"workdir: {error.strerror}", Reason.CONFIG_ERROR) from error
        for file in plan.job.files:
            try:
                (self.workdir / file.path).parent.mkdir(parents=True, exist_ok=True)
                _write(self.workdir / file.path, file.contents, file.permissions)
            except OSError as error:
                raise Unrunnable(f"files: {file.path}: {error.strerror}", Reason.CONFIG_ERROR) from error

    def _new_on_host(self, names: Iterable[str]) -> Iterable[str]:
        """What we will make there: the folders and files that aren't there yet, in the order of their making."""
        seen: set[Path] = set()
        for name in names:
            target = self.workdir / name
            if target.exists() or target.is_symlink() or target in seen:
                problem = f"files: {name} exists already in {self.workdir}"
                raise Unrunnable(problem, Reason.CONFIG_ERROR)
            for path in (*reversed(target.parents), target):
                if path not in seen and not path.exists():
                    seen.add(path)
                    yield str(path)


def ended(base: Path) -> list[AttemptDirectory]:
    """Those that no shim holds; what is left of makings and removals that were cut off is deleted. Blocking."""
    found = []
    for entry in os.scandir(base):
        with contextlib.suppress(OSError, ExecutorFault):
            if entry.name.startswith((UNFINISHED, _REMOVED)):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > CUT_OFF_SECONDS:
                    _delete(Path(entry.path))
                continue
            directory = AttemptDirectory.find(base, entry.name)
            if directory is not None and not directory.kept:
                found.append(directory)
    return found


def _write(path: Path, contents: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(contents.encode())
        os.fchmod(handle, mode)


def _delete(root: Path) -> None:
    """Delete a tree, whatever its folders' permissions: under its name there is nothing from the first moment on."""
    doomed = root
    if not root.name.startswith((UNFINISHED, _REMOVED)):
        doomed = root.parent / f"{_REMOVED}{os.urandom(6).hex()}"
        try:
            os.rename(root, doomed)
        except FileNotFoundError:
            return
        except OSError:
            doomed = root
    try:
        _delete_tree(doomed)
    except FileNotFoundError:
        pass
    except OSError:
        with contextlib.suppress(OSError):
            subprocess.run(["rm", "-rf", "--", str(doomed)], check=False, capture_output=True)
    if doomed.exists():
        _log.warning("a job's directory can't be removed", path=str(doomed))


def _delete_tree(root: Path) -> None:
    """Without recursion: a job may have made its folders deep."""
    folders = [str(root)]
    for folder in folders:  # grows while we go down
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            os.chmod(folder, 0o700)
            entries = list(os.scandir(folder))
        folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
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
