"""A line between two processes: what comes is what was sent, in memory that nobody writes to while somebody looks."""

from __future__ import annotations

import gc
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmomentum.simulation import line as lines
from fedmomentum.simulation import parcels
from fedmomentum.simulation.line import Door, LineBrokenError, reach
from fedmomentum.simulation.parcels import KEPT, LIGHT, Press

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="lines are Linux's; elsewhere Ray's calls do")
SIZES = st.integers(0, LIGHT // 2)


@contextmanager
def a_line():
    """Both ends: the driver's, and the worker's."""
    presses = Press(cloudpickle.dumps), Press(cloudpickle.dumps)
    door = Door()
    there = reach(door.address, presses[1])
    here = door.enter(presses[0])
    try:
        yield here, there
    finally:
        here.close()
        there.close()
        for press in presses:
            press.close()


def post(sender, *values):
    packed = [sender._press.pack(value) for value in values]
    sender.send("note", *packed)
    for each in packed:
        each.close()


def got(receiver, count=1):
    letter = receiver.receive()
    assert letter.note == "note"
    values = [letter.open() for _ in range(count)]
    return values[0] if count == 1 else values


def numbers(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


@given(
    st.lists(st.tuples(SIZES, st.sampled_from(["<f4", "<f8", "i1", "?"])), max_size=5), st.binary(max_size=3 * LIGHT)
)
def test_objects_come_as_they_went_however_large(shapes, words):
    rng = np.random.default_rng(len(words))
    value = {"arrays": [rng.integers(0, 2, size).astype(kind) for size, kind in shapes], "words": words, "none": None}
    value["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    value["odd"] = [np.array(2.5), np.zeros((0, 3), ">f4"), np.array([(1, 2.0)], "i4,f8"), np.array(["a", None])]
    with a_line() as (here, there):
        post(here, value, "and a second one")
        found, second = got(there, 2)
        assert second == "and a second one" and found["words"] == words and found["none"] is None
        for a, b in zip([*value["arrays"], value["fortran"]], [*found["arrays"], found["fortran"]], strict=True):
            assert a.dtype == b.dtype and a.flags.f_contiguous == b.flags.f_contiguous
            assert b.ctypes.data % 64 == 0 or not b.size
            np.testing.assert_array_equal(a, b)
        for a, b in zip(value["odd"], found["odd"], strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()


@pytest.mark.parametrize("size", [10, LIGHT])
def test_only_who_is_the_only_reader_may_write(size):
    with a_line() as (here, there):
        post(here, numbers(size))
        post(there, numbers(size))
        broadcast, answer = got(there), got(here)
        assert not broadcast.flags.writeable and answer.flags.writeable


@given(st.lists(st.tuples(st.integers(LIGHT // 4, LIGHT), st.integers(0, 3), st.booleans()), min_size=1, max_size=30))
def test_nothing_is_written_over_what_somebody_holds(script):
    """Two readers of one writer hold on to some arrays, and let others go, in any order."""
    press = Press(cloudpickle.dumps)
    pairs = []
    for _ in range(2):
        door = Door()
        pairs.append((reach(door.address, Press(cloudpickle.dumps)), door.enter(press)))
    held = []
    for seed, (size, forget, both) in enumerate(script):
        packed = press.pack(numbers(size, seed))
        for there, here in pairs[: 1 + both]:
            here.send("note", packed)
            held.append((size, seed, got(there)))
        packed.close()
        del held[:forget]
        for size, seed, array in held:
            np.testing.assert_array_equal(array, numbers(size, seed))
        assert len(press.numbers) <= KEPT
    for there, here in pairs:
        there.close()
        here.close()
    for size, seed, array in held:
        np.testing.assert_array_equal(array, numbers(size, seed))


def test_memory_that_nobody_holds_is_used_again():
    with a_line() as (here, there):
        for seed in range(20):
            post(here, numbers(LIGHT, seed), numbers(LIGHT, seed))
            got(there, 2)
        assert len(here._press.numbers) == 2
        post(here, numbers(10 * LIGHT))
        got(there)
        assert len(here._press.numbers) == 1  # those that had become too small are gone
        post(here, 1)  # which the other end is told
        got(there)
        assert set(there._maps) == here._press.numbers


def test_a_reader_that_is_gone_holds_nothing():
    with a_line() as (here, there):
        post(here, numbers(LIGHT))
        kept = got(there)
        here.close()
        assert all(sheet.free for sheet in here._press._sheets.values())
        np.testing.assert_array_equal(kept, numbers(LIGHT))


def test_no_file_stays_open():
    def opened():
        gc.collect()
        return set(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = opened()
    with a_line() as (here, there):
        for size in (10, LIGHT, 2 * LIGHT, LIGHT // 2) * 5:
            post(here, numbers(size))
            post(there, numbers(size))
            got(here), got(there)
        post(here, numbers(LIGHT))  # and one that is never opened
        there.receive()
    assert opened() == before


def test_a_large_model_is_written_once_and_goes_array_by_array(monkeypatch):
    monkeypatch.setattr(parcels, "LARGE", 1 << 20)
    model = {name: numbers(1 << 18, seed) for seed, name in enumerate("abcd")}
    size = model["a"].nbytes
    with a_line() as (here, there):
        for sender, receiver, own in ((here, there, False), (there, here, True)):
            packed = sender._press.pack(model)
            file = os.dup(packed.sheet.file)
            used = lambda: os.fstat(file).st_blocks * 512  # noqa: B023, E731
            assert 4 * size <= used() < 4 * size + (64 << 10)
            sender.send("note", packed)
            packed.close()
            found = got(receiver)
            assert sender._press.numbers == set()  # it is not kept
            for name, array in model.items():
                np.testing.assert_array_equal(found[name], array)
            part = found["b"][5:]
            del found["a"], found["b"]
            np.testing.assert_array_equal(part, model["b"][5:])  # a view keeps all of its array
            gone = own * size
            assert abs(used() - (4 * size - gone)) < 64 << 10
            del part, found
            assert used() < 64 << 10 or not own
            os.close(file)


def test_what_pickle_cannot_do_goes_too():
    factor = 3
    with a_line() as (here, there):
        post(here, lambda x: factor * x)
        assert got(there)(2) == 6
        with pytest.raises(Exception, match=r"socket"):
            post(here, socket.socket())


WORKER = """
import os, pickle, signal, sys
import numpy as np
from fedmomentum.simulation import parcels
from fedmomentum.simulation.line import reach

press = parcels.Press(pickle.dumps)
line = reach("\\0" + sys.argv[1], press)
task = line.receive().open()
line.send("whole", press.pack(task + 1))
write = os.pwrite

def half(file, data, at):
    if len(data) < 1000:
        return write(file, data, at)
    write(file, data[: len(data) // 2], at)
    os.kill(os.getpid(), signal.SIGKILL)

os.pwrite = half
line.send("never", press.pack(task + 2))
"""


def test_a_worker_that_is_killed_as_it_writes_hangs_up_and_holds_nothing():
    press, door = Press(pickle.dumps), Door()
    worker = subprocess.Popen([sys.executable, "-c", WORKER, door.address[1:]])
    with selectors.DefaultSelector() as ears:
        ears.register(door, selectors.EVENT_READ)
        assert ears.select(60)
    line = door.enter(press)
    packed = press.pack(numbers(LIGHT))
    line.send("task", packed)
    packed.close()
    letter = line.receive()
    assert letter.note == "whole"
    np.testing.assert_array_equal(letter.open(), numbers(LIGHT) + 1)
    with pytest.raises(LineBrokenError, match="hung up"):
        line.receive()
    assert worker.wait(60) == -signal.SIGKILL
    line.close()
    assert all(sheet.free for sheet in press._sheets.values())


def test_what_nobody_can_read_is_the_end_of_the_line():
    with a_line() as (here, there):
        assert here.receive(wait=False) is None
        for packet in (b"x", b"\xff\xff\xff\xff", bytes(200 << 10)):
            there._socket.send(packet)
            with pytest.raises(LineBrokenError, match="other end"):
                here.receive()
        post(there, "well")
        assert got(here) == "well"
        there.close()
        with pytest.raises(LineBrokenError, match="hung up"):
            here.receive()
        with pytest.raises(LineBrokenError):
            post(here, "anybody there?")


def test_nobody_else_comes_in(monkeypatch):
    press = Press(pickle.dumps)
    assert reach("\0nobody-is-here", press) is None
    door = Door()
    stranger = reach(door.address, press)
    own = os.geteuid()
    monkeypatch.setattr(lines.os, "geteuid", lambda: own + 1)
    assert door.enter(press) is None
    monkeypatch.undo()
    with pytest.raises(LineBrokenError):
        stranger.receive()
    assert reach(door.address, press) is None  # it is closed
    door = Door()
    monkeypatch.setattr(lines.os, "geteuid", lambda: own + 1)
    assert reach(door.address, press) is None


def test_letters_wait_and_nobody_who_sends_does():
    """As many as a worker is sent ahead, and its answers to all of them, fit into the line as they are."""
    largest = np.zeros(LIGHT - 4096, np.uint8)
    with a_line() as (here, there):
        for end in (here, there):
            end._socket.settimeout(1)
            for _ in range(3):
                post(end, largest, largest)
        for end in (here, there):
            for _ in range(3):
                got(end, 2)
