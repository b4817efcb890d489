"""What the C library does with memory that was freed."""

from __future__ import annotations

import contextlib
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""<malloc.h> of the GNU C library."""
_LARGE = 256 * 1024
_SPARE = 4 * 1024 * 1024
"""What may lie free at the heap's end. Less than the blocks of a log or two, and each block costs page faults."""


def give_back() -> None:
    """Let freed buffers of 256 KiB and more go back to the system at once.

    The GNU C library keeps what is smaller than the largest buffer that was ever freed (mallopt(3), dynamic mmap
    threshold). Each TLS connection has one of 256 KiB: 64 of them at a time, once, would be 16 MB for good. Another
    C library is left as it is, and so is what MALLOC_MMAP_THRESHOLD_ sets.
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _SPARE)
