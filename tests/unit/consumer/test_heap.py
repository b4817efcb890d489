"""What is freed goes back to the system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
from consumer.heap import give_back

def kept():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4

give_back()
bytearray(2**18)  # the C library would keep the likes of it from now on
before, small, large = kept(), [], []
for _ in range(100):
    large.append(bytearray(2**18))
    small.append(bytearray(100_000))  # lies between them, where the C library has the say
large.clear()
print(kept() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is the GNU C library that is told")
def test_freed_buffers_go_back_to_the_system() -> None:
    def kept(**variables: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=os.environ | variables, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    given_back = kept()
    assert given_back < 11_000  # KB: 10,000 of small ones at most, and nothing of 25,600 of large ones
    # What the operator sets counts. (Some of them lie in room that was there before.)
    assert kept(MALLOC_MMAP_THRESHOLD_=str(2**20)) > given_back + 12_000
