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
    small.append(bytearray(1000))  # lies between them
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

    assert kept() < 2_000  # KB, of 25,600
    assert kept(MALLOC_MMAP_THRESHOLD_=str(2**20)) > 20_000  # what the operator sets counts
