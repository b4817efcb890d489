"""Which exit codes stand for a signal."""

from __future__ import annotations

import signal

_FATAL = frozenset((
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS,
    signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGALRM, signal.SIGTERM,
    signal.SIGXCPU, signal.SIGXFSZ,
))  # fmt: skip


def signal_of_code(code: int | None) -> int | None:
    """An exit code of 128 + n stands for signal n if that ends a process: a shell reports its child's death so too."""
    number = (code or 0) - 128
    return number if number in _FATAL else None
