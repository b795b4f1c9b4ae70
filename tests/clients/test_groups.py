"""Preparing for a round before its model is there: it changes no result, and is done for what is likely to come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmomentum.clients import groups
from fedmomentum.clients.library import available
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


@pytest.mark.parametrize(("hidden", "native"), [([], False), ([40], False), ([8], False), ([8], available())])
@pytest.mark.parametrize("sizes", [EQUAL, (60, 7, 20, 13, 0)])
@settings(max_examples=15, deadline=None)
@given(tasks=st.lists(TASKS, min_size=2, max_size=6))
def test_working_ahead_changes_no_bit(sizes, hidden, native, tasks):
    data, wanted = federation(sizes), spec(options={"hidden": hidden}, vectorize="on", epochs=2, native=native)
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
