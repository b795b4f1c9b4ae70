"""Folding by a tree: the mean of all clients, and the same bits however many workers share the tree."""

from __future__ import annotations

import numpy as np
import pytest

from fedmomentum.clients.block import BlockResult, BlockTask
from fedmomentum.clients.fold import Bundle, bundles, fold

DTYPES = {"w": np.float32, "wide": np.float64, "count": np.int64}


def made(task):
    rng = np.random.default_rng(task.index)
    members = {"client": list(task.clients), "num-examples": [float(rng.integers(1, 9)) for _ in task.clients]}
    mean = {"arrays": {name: (9 * rng.standard_normal(70_000)).astype(kind) for name, kind in DTYPES.items()}}
    if task.index % 5 == 3:
        members, mean = {"client": [], "num-examples": []}, None
    return BlockResult(index=task.index, members=members, mean=mean, seconds=1.0)


def run(tasks, workers):
    """Do what the engine does with so many workers."""
    units = bundles(tasks, workers)
    answers = [fold(u.leaves, lambda t: None if t is None else made(t), uniform=u.uniform) for u in units]
    return len([a for a in answers if a is not None]), fold(answers, lambda a: a, uniform=tasks[0].uniform)


def tasks(count, uniform=False):
    return [
        BlockTask(index=i, kind="train", round=1, clients=(2 * i, 2 * i + 1)[: 1 + i % 2], uniform=uniform)
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 11])
@pytest.mark.parametrize("uniform", [False, True])
def test_any_number_of_workers_gives_the_bits_of_one_and_the_mean_of_all(count, uniform):
    blocks = tasks(count, uniform)
    _, alone = run(blocks, 1)
    for workers in (2, 3, 4, 8, 50):
        answers, found = run(blocks, workers)
        assert answers <= max(2 * workers - 1, 1)
        assert found.members == alone.members
        for name in DTYPES:
            np.testing.assert_array_equal(found.mean["arrays"][name], alone.mean["arrays"][name])
    results = [r for r in map(made, blocks) if r.mean]
    weights = [len(r.members["client"]) if uniform else sum(r.members["num-examples"]) for r in results]
    for name, kind in DTYPES.items():
        mean = np.average([r.mean["arrays"][name].astype(float) for r in results], axis=0, weights=weights)
        close = {"w": 3e-6, "wide": 1e-12, "count": 2.0}[name]  # a counter is rounded at each node
        assert alone.mean["arrays"][name].dtype == kind
        np.testing.assert_allclose(alone.mean["arrays"][name], mean, atol=close)
    assert alone.seconds == count
    assert sorted(alone.members["client"]) == sorted(c for r in results for c in r.members["client"])


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_workers_answer_once_each_and_share_the_work(workers):
    units = bundles(tasks(8), workers)
    assert len(units) == workers
    assert sorted(t.index for u in units for t in u.leaves) == list(range(8))
    loads = [sum(8 - t.index for t in u.leaves) for u in units]  # falling work
    assert max(loads) - min(loads) <= (0 if workers < 8 else 7)


def test_a_read_only_answer_is_not_written_to():
    a, b = made(tasks(3)[0]), made(tasks(3)[1])
    before = {name: x.copy() for name, x in a.mean["arrays"].items()}
    for x in a.mean["arrays"].values():
        x.setflags(write=False)
    fold([a, b], lambda r: r)
    for name, x in before.items():
        np.testing.assert_array_equal(a.mean["arrays"][name], x)
    assert Bundle((tasks(1)[0], None)).clients == (0,)
    assert bundles([], 2) == []
