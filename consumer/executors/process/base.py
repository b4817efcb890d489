"""The directory of all attempts' directories."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from consumer.errors import SetupError


def open_base(chosen: Path | None) -> Path:
    """The directory of all attempts' directories: ours alone. Raises SetupError.

    By default one that stays: where the user's programs keep their state, else below the temporary directory.
    """
    if chosen is not None:
        candidates, others = [chosen.absolute()], 0o022  # who may look in sees names only
    else:
        others = 0o077
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        candidates = [Path(tempfile.gettempdir()) / f"longshore-{os.getuid()}"]
        if os.path.isabs(state):
            candidates.insert(0, Path(state) / "longshore")
    problem = ""
    for path in candidates:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            seen = path.lstat()
            if not os.access(path, os.W_OK | os.X_OK) or not path.is_dir():
                problem = f"{path} can't be written to"
            elif path.is_symlink() or seen.st_uid != os.getuid() or seen.st_mode & others:
                problem = f"{path} must belong to user {os.getuid()}, who alone may write to it (chmod 700)"
            else:
                return path
        except OSError as error:
            problem = f"can't make {path}: {error.strerror}"
    raise SetupError(f"process.directory: {problem}")
