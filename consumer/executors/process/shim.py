"""The keeper of one job on this host: it outlives the consumer, so that the job can be adopted by the next one.

    consumer -> spawner (this file as a program, one a consumer) -> a fork for each job: the shim -> init, main

The spawner is there because a fork of a small process costs a tenth of a new Python. A shim has its own session and
holds a lock on the attempt's `journal`, whose first line says that the job will be started: who finds that line never
starts it again. What the job is comes through a socket and is never written down. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import select
import signal
import socket
import time
from typing import Any, NoReturn

KEPT, HELD = b"kept", b"held"
"""Answers: the job is ours; this attempt has been begun by another shim. Anything else says what failed."""

_PDEATHSIG, _SUBREAPER, _NAME = 1, 36, 15  # prctl
_IN_MODIFY, _IN_NONBLOCK_CLOEXEC = 2, 0o2004000
_THROTTLE, _STRAGGLERS = 0.2, 10.0  # seconds between two looks at a log that grows; until killed processes are gone
_KEEP_SIZE_PUNCH_HOLE, _BLOCK = 3, 1 << 20
_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT if hasattr(os, "WNOWAIT") else 0
_libc = ctypes.CDLL(None)


def main() -> None:
    """Fork a shim for each socket that comes through standard input, until that is closed."""
    control = socket.socket(fileno=0)
    _prctl(_NAME, b"longshore-spawn")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for their ends
    gc.disable()
    gc.freeze()
    while True:
        data, handles, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        for handle in handles:
            os.set_inheritable(handle, False)
            try:
                child = os.fork()
            except OSError as error:
                os.write(handle, f"can't start a process: {error.strerror}".encode())
                child = -1
            if child == 0:
                control.close()
                _keep(socket.socket(fileno=handle))
            os.close(handle)


def _keep(answer: socket.socket) -> NoReturn:
    """The whole life of a shim. Its end of the socket stays open until its own end, so that the consumer sees that."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _prctl(_NAME, b"longshore-shim")
        if (request := _request(answer)) is not None:
            Shim(request, answer).run()
    except OSError as error:
        with contextlib.suppress(OSError):
            answer.send(f"can't keep the job: {error.strerror or error}".encode())
    finally:
        os._exit(0)


def _request(answer: socket.socket) -> dict[str, Any] | None:
    """What to run; None if the consumer died while it told us."""
    with answer.makefile("rb") as stream:
        size = int.from_bytes(stream.read(8), "big")
        data = stream.read(size)
    return dict(json.loads(data)) if data and len(data) == size else None


class Shim:
    """Runs the steps of one attempt and writes down what becomes of them."""

    def __init__(self, request: dict[str, Any], answer: socket.socket) -> None:
        self._request = request
        self._answer = answer
        self._folder = os.open(request["directory"], os.O_RDONLY | os.O_DIRECTORY)
        self._journal = self._open("journal", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._leader: int | None = None
        self._why: str | None = None
        self._stopping = False
        self._kill_at: float | None = None
        self._deadline: float | None = None
        self._dropped = self._lines = self._returns = 0

    def run(self) -> None:
        """From the lock on the attempt to its end in the journal."""
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._answer.send(HELD)
            return
        if os.read(self._journal, 1):
            self._answer.send(HELD)
            return
        if not os.fstat(self._journal).st_nlink:
            raise OSError(errno.ENOENT, "its directory was removed")
        self._set_up()
        self._write({"shim": os.getpid(), **identity(os.getpid())})
        with contextlib.suppress(OSError):  # the consumer died just now: the next one finds the journal
            self._answer.send(KEPT)
        self._write({**self._run(), "at": time.time(), **self._counted()})

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags, 0o600, dir_fd=self._folder)

    def _set_up(self) -> None:
        self._control = self._open("control", os.O_RDWR | os.O_NONBLOCK)  # for writing as well: it never ends
        self._log = self._open("log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._woken, waker = os.pipe()
        for handle in (self._woken, waker):
            os.set_blocking(handle, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *args: None)  # the wakeup descriptor tells
        signal.signal(signal.SIGTERM, self._told)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _prctl(_SUBREAPER, 1)  # what leaves the job's session comes to us
        if self._request["tied"]:
            _prctl(_PDEATHSIG, signal.SIGTERM)
        self._poll = select.poll()
        for handle in (self._woken, self._control):
            self._poll.register(handle, select.POLLIN)
        self._notes = self._watch_log()
        self._quiet_until: float | None = None

    def _run(self) -> dict[str, Any]:
        ended: dict[str, Any] = {}
        for step in self._request["steps"]:
            self._hear()
            if self._stopping:
                return {"end": step["name"], "error": "stopped before it started", "why": self._why}
            ended = self._step(step)
            if ended.get("code") != 0:
                break
        return ended

    def _step(self, step: dict[str, Any]) -> dict[str, Any]:
        began = time.time()
        leader = self._spawn(step)
        if not isinstance(leader, int):
            return {"end": step["name"], **leader}
        self._leader = leader
        self._write({"step": step["name"], "pid": leader, "at": began})
        limit = self._request["limit"]
        self._deadline = None if limit is None else time.monotonic() + limit
        while not self._over(leader):
            self._wait()
        _signal_group(leader, signal.SIGKILL)  # before it is reaped: until then the group's number is ours
        self._leader = None
        _, status = os.waitpid(leader, 0)
        _end_stragglers()
        self._bound()
        code = os.waitstatus_to_exitcode(status)
        return {
            "end": step["name"], "code": code if code >= 0 else 128 - code, "signal": -code if code < 0 else None,
            "why": self._why,
        }  # fmt: skip

    def _spawn(self, step: dict[str, Any]) -> dict[str, Any] | int:
        """Start a step in a session of its own: its first process, or what is wrong."""
        try:
            shim, (told, tell) = os.getpid(), os.pipe()
            child = os.fork()
        except OSError as error:
            return {"errno": error.errno, "error": error.strerror, "what": None}
        if child == 0:
            self._become(step, shim, tell)
        os.close(tell)
        with os.fdopen(told, "rb") as stream:
            failure = stream.read()
        if not failure:
            return child
        os.waitpid(child, 0)
        return dict(json.loads(failure))

    def _become(self, step: dict[str, Any], shim: int, tell: int) -> NoReturn:
        what: str | None = None
        try:
            signal.set_wakeup_fd(-1)
            for name in ("CHLD", "TERM", "INT", "HUP", "PIPE", "XFSZ"):
                signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_DFL)
            os.setsid()
            _prctl(_PDEATHSIG, signal.SIGKILL)  # no shim, no job: it would run on unseen
            if os.getppid() != shim:
                os._exit(1)
            for target, handle in enumerate((os.open(os.devnull, os.O_RDONLY), self._log, self._log)):
                os.dup2(handle, target)
            what = self._request["cwd"]
            os.chdir(self._request["cwd"])
            what = step["argv"][0]
            os.execvpe(what, step["argv"], step["env"])
        except (OSError, ValueError) as error:
            number, text = getattr(error, "errno", None), getattr(error, "strerror", None)
            told = {"errno": number or errno.EINVAL, "error": text or str(error), "what": what}
            os.write(tell, json.dumps(told).encode())
        finally:
            os._exit(127)

    def _over(self, leader: int) -> bool:
        """The step's first process has ended; it isn't reaped. Orphans that came to us are."""
        while True:
            found = os.waitid(os.P_PID, leader, _ENDED) or os.waitid(os.P_ALL, 0, _ENDED)
            if found is None or found.si_pid == leader:
                return found is not None
            os.waitpid(found.si_pid, 0)

    def _wait(self) -> None:
        """Until something happens or is due."""
        now = time.monotonic()
        due = [moment for moment in (self._deadline, self._kill_at, self._quiet_until) if moment is not None]
        ready = self._poll.poll(max(0.0, min(due) - now) * 1000 + 1 if due else None)
        now, handles = time.monotonic(), {handle for handle, _ in ready}
        if self._woken in handles:
            os.read(self._woken, 4096)
        if self._control in handles:
            self._hear()
        if self._notes is not None and self._notes in handles:
            os.read(self._notes, 65536)
            self._bound()
            self._poll.unregister(self._notes)
            self._quiet_until = now + _THROTTLE
        elif self._notes is not None and self._quiet_until is not None and now >= self._quiet_until:
            self._poll.register(self._notes, select.POLLIN)
            self._quiet_until = None
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._why = self._why or "deadline"
            self._stop(self._request["grace"])
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            if self._leader is not None:
                _signal_group(self._leader, signal.SIGKILL)

    def _hear(self) -> None:
        """What a consumer wrote into the pipe."""
        with contextlib.suppress(BlockingIOError):
            words = os.read(self._control, 4096).split()
            for word, seconds in zip(words[::2], words[1::2], strict=False):
                if word == b"stop":
                    self._stop(float(seconds))

    def _told(self, *args: object) -> None:
        """TERM from the host, or our spawner is gone and we were tied to it."""
        self._why = self._why or "term"
        self._stop(self._request["grace"])

    def _stop(self, grace: float) -> None:
        """TERM now, KILL after `grace` seconds; a later call can only hurry."""
        kill_at = time.monotonic() + grace
        first, self._stopping = not self._stopping, True
        if first or (self._kill_at is not None and kill_at < self._kill_at):
            self._kill_at = kill_at
        if first and grace > 0 and self._leader is not None:
            _signal_group(self._leader, signal.SIGTERM)

    def _watch_log(self) -> int | None:
        """A handle that is readable when the log has grown; None where there is no such thing."""
        path = os.path.join(self._request["directory"], "log")
        try:
            handle: int = _libc.inotify_init1(_IN_NONBLOCK_CLOEXEC)
            if handle < 0 or _libc.inotify_add_watch(handle, os.fsencode(path), _IN_MODIFY) < 0:
                return None
        except AttributeError:
            return None
        self._poll.register(handle, select.POLLIN)
        return handle

    def _bound(self) -> None:
        """Give the oldest part of a log that is too long back to the disk, and say how much that was."""
        size, room = os.fstat(self._log).st_size, self._request["output_bytes"]
        if size - self._dropped <= room:
            return
        target = size - room * 3 // 4
        target += os.pread(self._log, 65536, target).find(b"\n") + 1
        at, lines, returns = self._dropped, self._lines, self._returns
        while at < target:
            block = os.pread(self._log, min(_BLOCK, target - at), at)
            if not block:
                return  # the job has cut its own log
            lines, returns = lines + block.count(b"\n"), returns + block.count(b"\r")
            at += len(block)
        self._dropped, self._lines, self._returns = target, lines, returns
        self._write({"dropped": target, "lines": lines})  # first: nobody may take the hole for output
        with contextlib.suppress(AttributeError):
            _libc.fallocate(self._log, _KEEP_SIZE_PUNCH_HOLE, ctypes.c_int64(0), ctypes.c_int64(target))

    def _counted(self) -> dict[str, Any]:
        """If asked to: all output's lines, and its bytes without carriage returns (pods can't tell those)."""
        lines, size, at = self._lines, self._dropped - self._returns, self._dropped
        while self._request["count"] and (block := os.pread(self._log, _BLOCK, at)):
            lines, size, at = lines + block.count(b"\n"), size + len(block) - block.count(b"\r"), at + len(block)
        return {"output": [lines, size]} if self._request["count"] else {}

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._journal, json.dumps(line).encode() + b"\n")


def identity(pid: int) -> dict[str, str | None]:
    """What tells a process from a later one of the same number: its birth, and the boot and the namespace it is in."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            born = stream.read().rpartition(b")")[2].split()[19].decode()
        with open("/proc/sys/kernel/random/boot_id") as text:
            boot = text.read().strip()
        return {"born": born, "boot": f"{boot} {os.readlink('/proc/self/ns/pid')}"}
    except OSError:
        return {"born": None, "boot": None}


def _end_stragglers() -> None:
    """Kill what the step left behind in other groups and sessions: as children of ours they can't escape."""
    until = time.monotonic() + _STRAGGLERS
    while time.monotonic() < until:
        try:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not reaped:
            with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as children:
                for pid in children.read().split():
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.002)


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _prctl(option: int, value: int | bytes) -> None:
    """Ask the kernel; nothing on others than Linux."""
    with contextlib.suppress(AttributeError):
        _libc.prctl(option, ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value))


if __name__ == "__main__":
    main()
