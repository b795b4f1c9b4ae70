"""Folding by a tree: the mean of all clients, and the same bits however many workers share the tree."""

from __future__ import annotations

import os
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmomentum.clients.block import BlockTask
from fedmomentum.clients.collect import Collector
from fedmomentum.clients.fold import Bundle, bundles, fold, means, outcome
from fedmomentum.clients.shelf import Shelf

DTYPES = {"w": np.float32, "wide": np.float64, "count": np.int64}
SENT = {name: (9 * np.random.default_rng(99).standard_normal(70_000)).astype(kind) for name, kind in DTYPES.items()}


def model(client):
    """Give what a client has made of the model that was sent: a step that is small beside it."""
    step = np.random.default_rng(client).standard_normal(70_000) / 100
    return {name: (x + (step if x.dtype.kind == "f" else client)).astype(x.dtype) for name, x in SENT.items()}


def examples(client):
    return float(1 + client % 7)


def made(task):
    collector = Collector(reduce=True, uniform=task.uniform, origin=tensors(SENT))
    for client in task.clients if task.index % 5 != 3 else ():
        collector.add(client, {"arrays": tensors(model(client))}, examples(client), {})
    return replace(collector.result(task.index), seconds=1.0)


def tensors(arrays):
    return {name: torch.from_numpy(x) for name, x in arrays.items()}


def run(tasks, workers):
    """Do what the engine does with so many workers."""
    answers = [fold(u.leaves, lambda t: None if t is None else made(t)) for u in bundles(tasks, workers)]
    found = outcome(answers)
    mean = {name: x for _, name, x in means(answers, {"arrays": SENT}, uniform=tasks[0].uniform)}
    return len([a for a in answers if a is not None]), found, mean


def tasks(count, uniform=False):
    return [
        BlockTask(index=i, kind="train", round=1, clients=(2 * i, 2 * i + 1)[: 1 + i % 2], uniform=uniform)
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 11])
@pytest.mark.parametrize("uniform", [False, True])
def test_any_number_of_workers_gives_the_bits_of_one_and_the_mean_of_all(count, uniform):
    blocks = tasks(count, uniform)
    _, alone, mean = run(blocks, 1)
    for workers in (2, 3, 4, 8, 50):
        answers, found, same = run(blocks, workers)
        assert answers <= max(2 * workers - 1, 1)
        assert found.members == alone.members
        for name in DTYPES:
            np.testing.assert_array_equal(same[name], mean[name])
    clients = [c for task in blocks if task.index % 5 != 3 for c in task.clients]
    weights = [1.0 if uniform else examples(c) for c in clients]
    for name, kind in DTYPES.items():
        exact = np.average([model(c)[name].astype(float) for c in clients], axis=0, weights=weights)
        assert mean[name].dtype == kind
        if name == "w":  # half a unit in the last place, and what rounding does to the steps
            assert (np.abs(mean[name] - exact) <= 0.5 * np.spacing(np.abs(mean[name])) + 1e-8).all()
        np.testing.assert_allclose(mean[name], exact, atol={"w": 1e-6, "wide": 1e-14, "count": 0.5}[name])
    assert alone.seconds == count
    assert sorted(alone.members["client"]) == sorted(clients)


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_sums_that_wait_in_a_file_are_those_that_wait_in_memory(monkeypatch, room, count):
    if not room:
        monkeypatch.setattr("os.posix_fallocate", lambda *given: os.write(-1, b""))
    leaves, shelf = bundles(tasks(count), 1)[0].leaves, Shelf()
    here, there = (fold(leaves, lambda t: None if t is None else made(t), s) for s in (None, shelf))
    assert here.members == there.members
    for name, x in here.sums["arrays"].items():
        np.testing.assert_array_equal(there.sums["arrays"][name], x)
    again = fold(leaves, lambda t: None if t is None else made(t), shelf)
    np.testing.assert_array_equal(again.sums["arrays"]["w"], here.sums["arrays"]["w"])


def test_no_more_than_one_result_is_in_memory_at_a_time():
    alive = []

    def result(task):
        found = made(task)
        assert sum(ref() is not None for ref in alive) == 0
        alive.append(weakref.ref(found.sums["arrays"]["w"].base))
        return found

    fold(tasks(8)[:3] + tasks(8)[4:8] + tasks(3)[:1], result, Shelf())


def test_sums_of_other_records_begin_at_zero_and_keep_their_dtype():
    collector = Collector(reduce=True, origin=tensors(SENT))
    for client in (0, 1, 2):
        extra = {"wide": torch.full((3,), 10.0 + client, dtype=torch.float64), "w": torch.full((2,), float(client))}
        collector.add(client, {"arrays": tensors(model(client)), "extra": extra}, 1.0, {})
    found = {(r, n): x for r, n, x in means([collector.result(0)], {"arrays": SENT}, uniform=False)}
    np.testing.assert_array_equal(found["extra", "wide"], np.full(3, 11.0))
    assert found["extra", "w"].dtype == np.float32
    np.testing.assert_array_equal(found["extra", "w"], np.ones(2, np.float32))


def test_stacked_clients_and_means_of_them_count_as_single_ones_do():
    one, all_at_once = (Collector(reduce=True, origin=tensors(SENT)) for _ in range(2))
    for client in range(4):
        one.add(client, {"arrays": tensors(model(client))}, examples(client), {})
    stacked = {name: torch.stack([tensors(model(c))[name] for c in range(4)]) for name in SENT}
    weights = torch.tensor([examples(c) for c in range(4)], dtype=torch.float64)
    wide = (weights @ stacked.pop("wide")) / weights.sum()
    all_at_once.add_stacked(range(4), {"arrays": stacked}, weights.tolist(), {}, means={"arrays": {"wide": wide}})
    first, second = (
        {n: x for _, n, x in means([c.result(0)], {"arrays": SENT}, uniform=False)} for c in (one, all_at_once)
    )
    for name in ("w", "count"):
        np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_allclose(first["wide"], second["wide"], rtol=1e-14)


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_workers_answer_once_each_and_share_the_work(workers):
    units = bundles(tasks(8), workers)
    assert len(units) == workers
    assert sorted(t.index for u in units for t in u.leaves) == list(range(8))
    loads = [sum(8 - t.index for t in u.leaves) for u in units]  # falling work
    assert max(loads) - min(loads) <= (0 if workers < 8 else 7)


def test_a_read_only_answer_is_not_written_to():
    answers = [made(task) for task in tasks(2)]
    before = [{name: x.copy() for name, x in a.sums["arrays"].items()} for a in answers]
    held = [dict(a.sums["arrays"]) for a in answers]
    for sums in held:
        for x in sums.values():
            x.setflags(write=False)
    list(means(answers, {"arrays": SENT}, uniform=False))
    for sums, was in zip(held, before, strict=True):
        for name, x in was.items():
            np.testing.assert_array_equal(sums[name], x)
    assert Bundle((tasks(1)[0], None)).clients == (0,)
    assert bundles([], 2) == []
