"""What the soak restarts besides its Redis: a Faktory, and a part of the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

START_SECONDS = 30.0


async def restarted(part: str) -> None:
    """By LONGSHORE_TEST_RESTART."""
    command = shlex.split(os.environ["LONGSHORE_TEST_RESTART"].format(part))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 180) == 0, command


class Up:
    """A server that is up: who holds it asks the server something, or restarts it, and nobody else does."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.longest = (0.0, "")
        """Seconds for which somebody held it, and who."""

    @contextlib.asynccontextmanager
    async def by(self, whom: str) -> AsyncIterator[None]:
        """Wait for it, and hold it."""
        async with self._lock:
            began = time.monotonic()
            try:
                yield
            finally:
                self.longest = max(self.longest, (round(time.monotonic() - began, 1), whom))


@dataclass
class Faktory:
    """`store`: the URL of its own Redis, of a private one only. `url`: empty if there is none."""

    url: str = ""
    store: str = ""
    binary: str = ""
    folder: Path = Path()
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def found(cls, folder: Path) -> Iterator[Faktory]:
        """A private one if LONGSHORE_TEST_FAKTORY names its binary, else that of FAKTORY_URL."""
        if not (binary := os.environ.get("LONGSHORE_TEST_FAKTORY")):
            if not os.environ.get("FAKTORY_URL"):
                print("neither LONGSHORE_TEST_FAKTORY nor FAKTORY_URL is set: Faktory is left out", flush=True)
            yield cls(os.environ.get("FAKTORY_URL", ""))
            return
        place = folder / "faktory"
        (place / "conf" / "conf.d").mkdir(parents=True)
        (place / "db").mkdir()
        with socket.socket() as one, socket.socket() as other:
            ports = []
            for each in (one, other):
                each.bind(("127.0.0.1", 0))
                ports.append(each.getsockname()[1])
        store = f"unix://{place / 'db' / 'redis.sock'}"
        faktory = cls(f"tcp://127.0.0.1:{ports[0]}", store, binary, place)
        faktory._web = ports[1]
        faktory._start()
        try:
            yield faktory
        finally:
            faktory._stop()

    _web = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.url).port or 7419

    @property
    def restarts(self) -> bool:
        """It can be restarted."""
        return bool(self.binary or (self.url and os.environ.get("LONGSHORE_TEST_RESTART")))

    async def restart(self, away: float) -> None:
        """It ends as an operator ends it: one that is killed hard loses pushes that it had acknowledged."""
        if not self.binary:
            await restarted("faktory")
            return
        await asyncio.to_thread(self._stop)
        await asyncio.sleep(away)
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        command = [self.binary, "-b", f"127.0.0.1:{self.port}", "-w", f"127.0.0.1:{self._web}", "-e", "development"]
        command += ["-l", "warn", "-d", str(self.folder / "db"), "-c", str(self.folder / "conf")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        began = time.monotonic()
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(1)
                if connection.recv(3) == b"+HI":  # it listens before it serves
                    return
            if self.process.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise RuntimeError(f"Faktory didn't start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
