"""The consumer's side of the spawner: a small process that forks a shim for each job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from typing import Any

from consumer.errors import ExecutorFault
from consumer.executors.process import shim

ANSWER_SECONDS = 30.0
"""How long a shim may take to say that it has the job."""


class Spawner:
    """Starts the process with the first job, and again should it die. It ends when we do; the shims go on."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    async def keep(self, request: dict[str, Any]) -> tuple[socket.socket, bytes]:
        """Have a shim made that runs this; its socket, which ends when the shim does, and its answer.

        No answer at all may mean anything. Raises ExecutorFault if certainly nothing was started.
        """
        data = json.dumps(request).encode()
        loop = asyncio.get_running_loop()
        ours, theirs = self._pair()
        try:
            with theirs:
                self._send(theirs)
            ours.setblocking(False)
            async with asyncio.timeout(ANSWER_SECONDS):
                await loop.sock_sendall(ours, len(data).to_bytes(8, "big") + data)
                return ours, await loop.sock_recv(ours, 4096)
        except (TimeoutError, ConnectionError):
            return ours, b""
        except BaseException:
            ours.close()
            raise

    async def close(self) -> None:
        """Let the process end; shims that aren't tied to it go on."""
        self._forget()
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
            self._process = None

    @staticmethod
    def _pair() -> tuple[socket.socket, socket.socket]:
        try:
            return socket.socketpair()
        except OSError as error:
            raise ExecutorFault(f"can't start a process: {error.strerror}") from error

    def _send(self, theirs: socket.socket) -> None:
        for _ in range(2):
            try:
                self._control = self._control or self._start()
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
                return
            except ConnectionError:  # killed a moment ago
                self._forget()
            except OSError as error:
                raise ExecutorFault(f"can't start a process: {error.strerror}") from error
        raise ExecutorFault("can't start a process: the process that starts them was killed twice")

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _start(self) -> socket.socket:
        if self._process is not None:
            self._process.wait()
        control, theirs = socket.socketpair()
        control.settimeout(5)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(control.close)
            # Nothing of our environment: it may hold secrets. The job's own is made for it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", shim.__file__], stdin=theirs.fileno(), stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env={"LANG": "C.UTF-8"}, cwd="/", start_new_session=True,
            )  # fmt: skip
            undo.pop_all()
        return control
