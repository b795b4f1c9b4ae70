"""Preparing for a round before its model is there: it changes no result, and is done for what is likely to come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmomentum.clients import groups
from fedmomentum.clients.worker import Worker

from .federation import federation, records, spec, train_task

EQUAL = (16, 16, 16, 16, 0)
BLOCKS = st.sampled_from([(0, 1, 2), (2, 1, 0), (3,), (0, 1, 4)])
TASKS = st.fixed_dictionaries(
    {
        "clients": BLOCKS,
        "uniform": st.booleans(),
        "reduce": st.booleans(),
        "effort": st.sampled_from([None, 0.5]),
        "skip": st.sampled_from([1, 1, 1, 2]),
        "ahead": st.booleans(),
    }
)


def rounds_of(tasks):
    """Give tasks of rounds, most of which follow each other, and whether the worker works ahead after each."""
    number = 0
    for task in tasks:
        number += task["skip"]
        effort = task["effort"] and (task["effort"],) * len(task["clients"])
        wanted = {name: task[name] for name in ("clients", "uniform", "reduce")}
        yield train_task(**wanted, effort=effort, round=number), task["ahead"]


@pytest.mark.parametrize("hidden", [[], [40], [8]])
@pytest.mark.parametrize("sizes", [EQUAL, (60, 7, 20, 13, 0)])
@settings(max_examples=15, deadline=None)
@given(tasks=st.lists(TASKS, min_size=2, max_size=6))
def test_working_ahead_changes_no_bit(sizes, hidden, tasks):
    data, wanted = federation(sizes), spec(options={"hidden": hidden}, vectorize="on", epochs=2)
    eager, lazy, sent = Worker(wanted, data), Worker(wanted, data), records(wanted)
    for task, ahead in rounds_of(tasks):
        ours, theirs = eager.run(task, sent), lazy.run(task, sent)
        assert ours.members == theirs.members and ours.failures == theirs.failures
        for given_, due in zip(ours.each or [ours.mean], theirs.each or [theirs.mean], strict=True):
            for name, x in (due or {}).get("arrays", {}).items():
                np.testing.assert_array_equal(given_["arrays"][name], x)
        if ahead:
            eager.ahead()


def test_it_is_done_for_a_block_that_has_come_twice(monkeypatch):
    drawn = []
    plans = groups.plans

    def counted(*args, round, **kwargs):
        drawn.append(round)
        return plans(*args, round=round, **kwargs)

    monkeypatch.setattr(groups, "plans", counted)
    wanted = spec(options={"hidden": []}, vectorize="on")
    worker, sent = Worker(wanted, federation(EQUAL)), records(wanted)
    for number, clients in enumerate([(0, 1), (2, 3), (2, 3), (2, 3), (0, 1)], 1):
        worker.run(train_task(clients, round=number, reduce=True), sent)
        seen = list(drawn)
        worker.ahead()
        worker.ahead()  # once is enough
        drawn_ahead = drawn[len(seen) :]
        assert drawn_ahead == ([number + 1] if number in (3, 4) else [])
    assert drawn == [1, 2, 3, 4, 5, 5]  # round 4 as prepared; for round 5 somebody else came


WIDE = {"shape": (1, 8, 8)}
LATE = groups.PACKED_FROM


@pytest.fixture
def packed(monkeypatch):
    """Note how many examples are packed at a time."""
    seen = []
    pack = groups.Packed

    def counted(x, units):
        seen.append(len(x))
        return pack(x, units)

    monkeypatch.setattr(groups, "Packed", counted)
    return seen


def trained(worker, task, sent):
    result = worker.run(task, sent)
    return {name: x.copy() for name, x in result.mean["arrays"].items()}


@pytest.mark.parametrize("sizes", [(16, 16, 16), (60, 7, 20, 13, 0, 1)])
@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("uniform", [False, True])
def test_packed_inputs_train_as_the_plain_loop_does(packed, sizes, epochs, uniform):
    data = federation(sizes, **WIDE)
    everybody = tuple(range(len(sizes)))
    task = train_task(everybody, round=LATE, reduce=True, uniform=uniform, everyone=True)
    found = {}
    for way in ("on", "off"):
        wanted = spec(options={"hidden": []}, vectorize=way, epochs=epochs, **WIDE)
        found[way] = trained(Worker(wanted, data), task, records(wanted))
    assert sum(packed) == sum(sizes)
    for name, x in found["off"].items():
        np.testing.assert_allclose(found["on"][name], x, atol=2e-6)


def test_packing_depends_on_the_round_alone_and_is_done_once(packed):
    data, wanted = federation(EQUAL, **WIDE), spec(options={"hidden": []}, vectorize="on", **WIDE)
    worker, sent = Worker(wanted, data), records(wanted)
    for number in range(LATE - 2, LATE + 4):
        task = train_task(range(5), round=number, reduce=True, everyone=True)
        ours = trained(worker, task, sent)
        packed_before = list(packed)
        theirs = trained(Worker(wanted, data), task, sent)  # one that begins here, as after a resume
        for name, x in theirs.items():
            np.testing.assert_array_equal(ours[name], x)
        assert packed_before.count(64) == len(packed_before)
        assert (len(packed) > len(packed_before)) == (number >= LATE)
        worker.ahead()
    assert len(packed) == 1 + 4  # once by the worker that stays, once by each of the others


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ({"round": LATE - 1}, {}),
        ({"everyone": False}, {}),
        ({}, {"gram_memory": 0.0}),
        ({}, {"gram_memory": 2 * 4 * 64 * 64 / 2**20 - 1e-6}),
        ({}, {"classes": groups.PACKED_UNITS + 1}),
        ({}, {"options": {"hidden": [8]}}),
        ({}, {"shape": (1, 7, 9)}),
    ],
)
def test_inputs_stay_as_they_are_where_packing_does_not_pay(packed, task, changes):
    options = {"options": {"hidden": []}, **WIDE, **changes}
    layout = {name: options[name] for name in ("shape", "classes") if name in options}
    wanted = spec(vectorize="on", **options)
    everybody = train_task(range(5), **{"round": LATE, "reduce": True, "everyone": True, **task})
    trained(Worker(wanted, federation(EQUAL, **layout)), everybody, records(wanted))
    assert not packed


def test_the_smallest_layer_for_which_packing_pays_is_packed(packed):
    changes = {"classes": groups.PACKED_UNITS, **WIDE}
    limit = (2 * 4 * 64 * 64 + 4 * 4 * 16**2 + 5 * 700) / 2**20
    wanted = spec(options={"hidden": []}, vectorize="on", gram_memory=limit, **changes)
    task = train_task(range(5), round=LATE, reduce=True, everyone=True)
    trained(Worker(wanted, federation(EQUAL, **changes)), task, records(wanted))
    assert packed == [64]
