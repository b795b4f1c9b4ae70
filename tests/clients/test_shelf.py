"""Sums in files: the numbers of sums in memory, in no memory while nobody works on them, and gone with their owner."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmomentum.clients import shelf as files
from fedmomentum.clients.mean import OffsetSum
from fedmomentum.clients.shelf import Shelf, rest

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
MIB = 1 << 20


def held():
    """Give the bytes of files without a name that this process has mapped, and how many of them are in memory."""
    size = resident = 0
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith("(deleted)") and "rw-s" in line and "/var/tmp/" in line
        elif ours and line.startswith("Size:"):
            size += 1024 * int(line.split()[1])
        elif ours and line.startswith("Rss:"):
            resident += 1024 * int(line.split()[1])
    return size, resident


@pytest.fixture(autouse=True)
def on_disk(monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)


dtypes = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16])
layouts = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.lists(st.integers(0, 5), max_size=3), dtypes))


@given(layouts, st.lists(st.floats(0.5, 9.0), min_size=1, max_size=4), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_sums_on_a_shelf_are_those_in_memory(layout, weights, seed):
    generator = torch.Generator().manual_seed(seed)

    def model():
        return {n: (9 * torch.randn(shape, generator=generator)).to(dtype) for n, (shape, dtype) in layout.items()}

    origin, shelf = model(), Shelf()
    here, there = OffsetSum(origin), OffsetSum(origin, shelf)
    for weight in weights:
        x = model()
        here.add(x, weight)
        there.add(x, weight)
    rest()
    one, other = here.value(), there.value()
    assert one.keys() == other.keys()
    for name, x in one.items():
        assert torch.equal(x, other[name])
        assert x.dtype == other[name].dtype
        assert other[name].data_ptr() % 64 == 0


@linux
def test_they_are_in_memory_only_while_they_are_worked_on_and_go_with_their_owner(monkeypatch):
    monkeypatch.setattr(files, "RESIDENT", MIB)
    monkeypatch.setattr("fedmomentum.clients.mean.RESIDENT", MIB)
    begin, most, shelf = held()[0], [], Shelf()
    monkeypatch.setattr("fedmomentum.clients.mean.rest", lambda: (most.append(held()[1]), rest()))
    origin = {"w": torch.zeros(4 * MIB)}
    sums = []
    for factor in (1.0, 2.0):
        total = OffsetSum(origin, shelf)
        total.add({"w": torch.full((4 * MIB,), factor)}, 3.0)
        sums.append({"arrays": {n: x.numpy() for n, x in total.value().items()}})
        del total
    assert held() == (begin + 32 * MIB, 0)
    assert MIB <= max(most) <= 2 * MIB
    kept = shelf.put(sums.pop(0))
    joined = shelf.join(kept, onto=sums.pop())
    del kept
    assert held()[1] == 0
    assert held()[0] == begin + 32 * MIB  # the first file waits for the next sum
    again = shelf.room(origin)
    assert held()[0] == begin + 32 * MIB
    np.testing.assert_array_equal(joined["arrays"]["w"], np.full(4 * MIB, 9.0, np.float32))
    del again
    shelf.clear()
    assert held()[0] == begin + 16 * MIB
    del joined
    assert held()[0] == begin


@linux
def test_sums_in_memory_are_put_away_too():
    shelf, x = Shelf(), np.arange(MIB, dtype=np.float64)
    kept = shelf.put({"arrays": {"w": x}, "more": {"count": np.ones((), np.float32)}})
    assert kept["arrays"]["w"] is not x
    assert held() == (8 * MIB + 4096, 0)
    np.testing.assert_array_equal(kept["arrays"]["w"], x)
    assert shelf.put(kept)["arrays"]["w"] is kept["arrays"]["w"]


def test_without_room_they_stay_in_memory(monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    shelf = Shelf()
    assert shelf.room({"w": torch.ones(3)}) is None
    total = OffsetSum({"w": torch.ones(3)}, shelf)
    total.add({"w": torch.full((3,), 2.0)}, 5.0)
    assert total.value()["w"].tolist() == [5.0] * 3
