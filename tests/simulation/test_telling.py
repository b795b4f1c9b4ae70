"""Evaluation beside the next round: the same rows, told in order, and nothing kept that a later round has changed."""

from __future__ import annotations

from functools import partial

import pytest

from fedmomentum.clients.worker import Worker
from fedmomentum.events import Span
from fedmomentum.simulation.executor import InlineExecutor
from fedmomentum.simulation.flower import to_arrays
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.simulation.loop import run_rounds
from tests.clients.federation import federation, spec
from tests.simulation.test_engine import fedavgm, start

ROUNDS = 5


class Later:
    """An evaluation that is asked for once, and notes when."""

    def __init__(self, log, server_round, found):
        self.log, self.server_round, self.found = log, server_round, found

    def result(self):
        self.log.append(("asked", self.server_round))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found, [Span("evaluate", 0.0, 1.0, "there", 7)]


class Heard:
    def __init__(self, log):
        self.log, self.events = log, []

    def round_end(self, event):
        self.log.append(("told", event.round))
        self.events.append(event)


def number(arrays):
    return float(sum(abs(a).sum() for a in to_arrays(arrays).values()))


def run(later, *, settle=lambda r, a: False, fail_in=None, log=None):
    log = [] if log is None else log
    data, wanted, strategy = federation(), spec(), fedavgm()
    executor = InlineExecutor(partial(Worker, wanted), data)
    grid = SimulationGrid(executor, wanted, data.sizes)
    train = grid.send_and_receive
    rounds = iter(range(1, ROUNDS + 1))

    def send(messages, **options):
        this = next(rounds)
        if this == fail_in:
            raise RuntimeError("the engine broke")
        log.append(("train", this))
        return train(messages, **options)

    grid.send_and_receive = send

    def evaluate(server_round, arrays):
        if server_round % 2:
            return None
        found = {"accuracy": number(arrays)}
        return Later(log, server_round, found) if later else found

    heard = Heard(log)
    after = []
    try:
        result = run_rounds(
            strategy, grid, start(wanted), ROUNDS, evaluate=evaluate, listeners=[heard], settle=settle,
            after_round=lambda r, arrays: after.append((r, number(arrays), strategy.state_dict()["round"])),
        )  # fmt: skip
    finally:
        executor.close()
    return result, heard.events, after, log


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "elapsed")} for row in rows]


def test_rows_and_their_order_are_those_of_evaluation_at_once():
    at_once, told, after, _ = run(later=False)
    pending, told_late, after_late, log = run(later=True)
    assert [list(row) for row in pending.rows] == [list(row) for row in at_once.rows]
    assert without_times(pending.rows) == without_times(at_once.rows)
    assert [e.round for e in told_late] == [e.round for e in told] == list(range(ROUNDS + 1))
    assert [r for r, *_ in after] == [1, 2, 3, 4, 5]
    assert log[:4] == [("train", 1), ("asked", 0), ("told", 0), ("told", 1)]
    assert log[4:8] == [("train", 2), ("train", 3), ("asked", 2), ("told", 2)]
    assert any(s.process == 7 for s in told_late[2].spans)
    # a checkpoint may be taken after rounds that nothing has followed yet, and after no other
    assert after_late == [a for a in after if a[0] in (1, 3, 5)]
    assert number(pending.arrays) == number(at_once.arrays)


def test_a_settled_round_is_told_before_the_next_begins():
    _, _, after, log = run(later=True, settle=lambda server_round, arrays: server_round == 2)
    assert log.index(("told", 2)) < log.index(("train", 3))
    assert log.index(("told", 4)) > log.index(("train", 5))
    assert [(r, state) for r, _, state in after] == [(1, 1), (2, 2), (3, 3), (5, 5)]


def test_a_round_is_told_though_the_next_one_breaks():
    log = []
    with pytest.raises(RuntimeError, match="the engine broke"):
        run(later=True, fail_in=3, log=log)
    assert log[-2:] == [("asked", 2), ("told", 2)]
