"""Whose memory freed blocks are."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, mmap
from fedmomentum.heap import give_back, keep

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return mmap.PAGESIZE * int(open("/proc/self/statm").read().split()[1])

def left():
    before, block = resident(), libc.malloc(size := 64 << 20)
    ctypes.memset(block, 1, size)
    libc.free(block)
    return (resident() - before) >> 20

print(left())
keep()
print(left())
kept = resident()
give_back()
print((kept - resident()) >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_is_freed_stays_from_keep_until_it_is_given_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    at_first, kept, given_back = map(int, done.stdout.split())
    assert at_first < 8 < 56 < kept
    assert given_back > 56
