"""Blocks of this process and of the workers that take over: the same bits whenever they do, and nothing left behind."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from fedmomentum.build import may_begin_here
from fedmomentum.clients import central
from fedmomentum.clients.central import CentralTask
from fedmomentum.clients.network import Network
from fedmomentum.clients.worker import Worker
from fedmomentum.errors import UserError
from fedmomentum.protocol import LARGE
from fedmomentum.scenario.running import Engine
from fedmomentum.simulation.actors import Actors
from fedmomentum.simulation.early import EarlyExecutor
from fedmomentum.simulation.executor import InlineExecutor, Lost
from tests.clients.federation import federation, records, spec
from tests.simulation.test_engine import fedavgm, same, simulate

BLOCKS, ROUNDS = 3, 3


class Log:
    """A worker that notes which blocks it was given."""

    def __init__(self, blocks, wanted, data):
        self.blocks, self.worker = blocks, Worker(wanted, data)

    def run(self, task, payload):
        self.blocks.append((task.round, task.index))
        return self.worker.run(task, payload)


class Workers(InlineExecutor):
    """Stands for workers elsewhere, which are ready when a condition holds."""

    def __init__(self, make, *resident, when):
        super().__init__(make, *resident)
        self.when = when

    def ready(self):
        return self.when()


@pytest.mark.parametrize("after", [*range(BLOCKS * ROUNDS + 1), 1000])
def test_bits_do_not_depend_on_when_the_workers_take_over(after):
    wanted, data = spec(keep_state=True), federation()
    here, there = [], []
    early = EarlyExecutor(
        partial(Log, here),
        wanted,
        data,
        later=lambda: Workers(partial(Log, there), wanted, data, when=lambda: len(here) >= after),
        facts={"engine": "ray"},
    )
    try:
        got = simulate(fedavgm(), executor=early, wanted=wanted, data=data, grid_options={"block_size": 2})
    finally:
        early.close()
    same(got, simulate(fedavgm(), wanted=wanted, data=data, grid_options={"block_size": 2}))
    everything = [(r, i) for r in range(1, ROUNDS + 1) for i in range(BLOCKS)]
    assert here + there == everything
    assert len(here) >= min(after, len(everything))  # one more where it has begun before anybody looked
    course = {"early_blocks": len(here)} if here else {}
    if here and there:
        course["workers_since_round"] = there[0][0]
    assert early.course() == course and early.course() == {}


def test_a_block_that_has_begun_here_ends_here_while_the_others_run_elsewhere():
    begun, done_there = threading.Event(), threading.Event()

    class Slow:
        def run(self, task, payload):
            begun.set()
            assert done_there.wait(30)
            return "here", task

    class Quick:
        def run(self, task, payload):
            done_there.set()
            return "there", task

    before = set(threading.enumerate())
    early = EarlyExecutor(Slow, later=lambda: Workers(Quick, when=begun.is_set))
    assert early.run([1, 2, 3], None) == [("here", 1), ("there", 2), ("there", 3)]
    assert early.run([4], None) == [("there", 4)]
    until = time.monotonic() + 30
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before  # nobody is needed here any more
    early.close()


def test_a_model_is_tested_to_the_same_numbers_here_and_there():
    wanted, data = spec(), federation()
    ready = threading.Event()

    class Tested(Workers):
        def test(self, task, payload):
            return SimpleNamespace(result=lambda: self._worker.test(task, payload))

    make = partial(Worker, wanted)
    early = EarlyExecutor(make, data, later=lambda: Tested(make, data, when=ready.is_set))
    here = early.test(CentralTask(1), records(wanted))
    ready.set()
    there = early.test(CentralTask(1), records(wanted))
    wants = central.test_centrally(CentralTask(1), records(wanted), Network(wanted.model), data)
    assert here.result()[0] == there.result()[0] == wants
    assert early.ask("reason") == Worker(wanted, data).reason
    early.close()


def test_what_keeps_the_workers_from_coming_is_said_as_soon_as_it_is_known():
    ran = []

    class Count:
        def run(self, task, payload):
            ran.append(task)
            return task

    def later():
        if len(ran) >= 2:
            raise UserError("engine: no workers today")
        return None

    early = EarlyExecutor(Count, later=later)
    with pytest.raises(UserError, match="no workers today"):
        early.run(range(100), None)
    assert 2 <= len(ran) <= 3
    early.close()


def test_what_a_worker_raises_is_raised_whether_it_is_built_or_runs():
    class Broken:
        def run(self, task, payload):
            raise KeyError("no such layer")

    def unbuilt():
        raise ValueError("no such model")

    for make, error in ((Broken, KeyError), (unbuilt, ValueError)):
        early = EarlyExecutor(make, later=lambda: None)
        with pytest.raises(error, match="no such"):
            early.run([1, 2], None)
        early.close()


def test_closing_breaks_a_block_off_and_leaves_no_thread():
    begun = threading.Event()

    class Endless:
        def run(self, task, payload):
            begun.set()
            while True:
                time.sleep(0.001)

    def gone():
        assert begun.wait(30)
        raise KeyboardInterrupt  # as a second Ctrl-C: in the thread that waits, not in the one that works

    before = set(threading.enumerate())
    early = EarlyExecutor(Endless, later=lambda: None)
    early._later = lambda: gone() if set(threading.enumerate()) - before else None
    with pytest.raises(KeyboardInterrupt):
        early.run([1, 2], None)
    early.close()
    assert set(threading.enumerate()) <= before


def test_blocks_that_have_not_begun_in_time_are_given_up():
    class Slow:
        def run(self, task, payload):
            time.sleep(0.1)
            return task

    early = EarlyExecutor(Slow, later=lambda: None)
    first, *others = early.run([1, 2, 3], None, timeout=0.05)
    assert first == 1 and [type(lost) for lost in others] == [Lost, Lost]
    assert {lost.kind for lost in others} == {"late"}
    early.close()


def test_torch_computes_here_with_the_threads_of_a_worker_and_elsewhere_with_its_own():
    wanted, data = spec(threads=3), federation()
    before = torch.get_num_threads()
    seen = []

    class Watch(Worker):
        def run(self, task, payload):
            seen.append(torch.get_num_threads())

    early = EarlyExecutor(partial(Watch, wanted), data, later=lambda: None)
    early.run([1], None)
    assert seen == [3] and torch.get_num_threads() == before
    early.close()
    new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert seen == [3, before]


def test_this_process_begins_only_with_what_it_can_stand_in_for():
    local = Engine()
    assert Actors().early(local) and not Actors(address="10.0.0.5:6379").early(local)
    for other in ({"name": "inline"}, {"address": "10.0.0.5:6379"}, {"gpus": 0.5}, {"early": False}):
        assert not Actors().early(Engine(**other)), other
    wanted = spec()
    small = SimpleNamespace(spec=wanted, network=Network(wanted.model))
    assert may_begin_here(small)
    assert not may_begin_here(replace_spec(small, device="cuda"))
    assert not may_begin_here(replace_spec(small, model=replace(wanted.model, name="my.models:net")))
    large = SimpleNamespace(tree=lambda: {"w": torch.empty(LARGE // 4)})
    assert not may_begin_here(SimpleNamespace(spec=wanted, network=large))


def replace_spec(federation, **changes):
    return SimpleNamespace(spec=replace(federation.spec, **changes), network=federation.network)
