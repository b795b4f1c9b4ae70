"""Inner products that are kept from round to round change no bit of a result, and are kept within their limit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedmomentum.clients import dual as dual_form
from fedmomentum.clients.dual import Dual
from fedmomentum.clients.examples import Examples
from fedmomentum.clients.gram import Grams, most_kept
from fedmomentum.clients.worker import Worker
from fedmomentum.data import Dataset, FeatureShift, FederatedData, Partition, arrange
from fedmomentum.data.client_order import ALIGNMENT

from .federation import SIZES, federation, records, spec, train_task

EVERYONE = range(len(SIZES))


def same_bits(a, b):
    for name, x in a.mean["arrays"].items():
        np.testing.assert_array_equal(x, b.mean["arrays"][name], err_msg=name)
    assert a.members == b.members


def data_at(offset):
    """Give the federation of the tests with inputs that begin so many bytes behind an aligned address."""
    data = federation()
    room = np.zeros(data.x.nbytes + 2 * ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT + offset
    x = room[start : start + data.x.nbytes].view(np.float32).reshape(data.x.shape)
    x[:] = data.x
    dataset = Dataset(name="moved", x=x, y=data.y, test_x=x[:2], test_y=data.y[:2], classes=data.classes)
    return FederatedData.build(dataset, data.partition)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("hidden", [[], [8]])
def test_what_was_kept_before_changes_no_bit(epochs, hidden):
    wanted, data = spec(options={"hidden": hidden}, vectorize="on", epochs=epochs), federation()
    task = train_task(EVERYONE, reduce=True)
    fresh = Worker(wanted, data)
    used = Worker(wanted, data)
    for clients in ((3,), (2, 1), EVERYONE):  # alone, in another order, in another block
        used.run(train_task(clients, reduce=True, round=7), records(wanted))
    first = fresh.run(task, records(wanted))
    same_bits(first, used.run(task, records(wanted)))
    same_bits(first, fresh.run(task, records(wanted)))


@pytest.mark.parametrize("offset", [4, 16, 32])
def test_where_the_data_lie_changes_no_bit(offset):
    wanted, task = spec(vectorize="on"), train_task(EVERYONE, reduce=True)
    aligned, moved = (Worker(wanted, data_at(o)).run(task, records(wanted)) for o in (0, offset))
    same_bits(aligned, moved)


def test_products_are_those_of_inputs_with_a_one_behind_them():
    data = federation()
    held = Grams(Examples(data, "cpu"), bias=True, most=20)
    few = [client for client in EVERYONE if SIZES[client] <= 20]
    for clients in (EVERYONE, few, [2, 0], EVERYONE):  # all of them have one who is too large to be kept
        numbers, starts = held.of(clients)
        for client, start in zip(clients, starts, strict=True):
            n = SIZES[client]
            x = data.train_arrays(client)[0].reshape(n, -1).astype(np.float64)
            x = np.hstack([x, np.ones((n, 1))])
            found = numbers[start : start + n * n].view(n, n)
            np.testing.assert_allclose(found, x @ x.T, rtol=1e-5, atol=1e-5)
    assert max(SIZES) > 20 and few
    again, before = held.of(few), held.of(EVERYONE)
    assert again.numbers is held.of(few).numbers  # kept ones stay where they are, the others are made anew
    assert before.numbers is not held.of(EVERYONE).numbers


@pytest.mark.parametrize("shape", [(2, 8), (3, 5)], ids=["every row is aligned", "few rows are"])
def test_own_inputs_lie_client_by_client(shape):
    order = np.array([5, 1, 2, 9, 0, 7])  # 1, 2 is a run of the data set, the rest is not
    x = np.random.default_rng(0).standard_normal((10, *shape), dtype=np.float32)
    dataset = Dataset(name="t", x=x, y=np.arange(10) % 2, test_x=x, test_y=np.arange(10) % 2, classes=2)
    for shift in (None, FeatureShift(noise=0.5, seed=3)):
        data = FederatedData.build(dataset, Partition(order, np.array([0, 1, 3, 6])), shift=shift)
        examples, arranged = Examples(data, "cpu"), Examples(arrange(data), "cpu")
        for clients, moved in itertools.product(([0], [1], [2, 1], [0, 2], [0, 1, 2]), (False, True)):
            x, y, starts = (arranged if moved else examples).own(clients)
            for client, start in zip(clients, starts, strict=True):
                arrays = data.train_arrays(client)
                for own, expected in zip((x, y), arrays, strict=True):
                    np.testing.assert_array_equal(own[start : start + len(arrays[1])], expected)
            assert len(x) == len(y) == sum(data.sizes[clients])
            assert x.data_ptr() % ALIGNMENT == 0
    arranged = Examples(arrange(FederatedData.build(dataset, Partition(order, np.array([0, 1, 3, 6])))), "cpu")
    assert arranged.own([2, 0, 1])[0].data_ptr() == arranged._x.data_ptr()  # nothing moves if it need not
    assert (arranged.own([2, 1])[0].data_ptr() == arranged._x[1:].data_ptr()) == (shape == (2, 8))


def test_the_rule_counts_clients_that_are_small_enough():
    most = 90 + 15
    assert most_kept(np.array([most] * 64), 10, 64 * (4 * most**2 + 700) / 2**20) == most
    assert most_kept(np.array([most] * 65), 10, 64 * (4 * most**2 + 700) / 2**20) == 0
    assert most_kept(np.full(1_000_000, 2), 10, 512.0) == 0  # a million tensors of four numbers
    assert most_kept(np.array([most, 10**6]), 10, 1.0) == most  # the large one has none to keep
    assert most_kept(np.array([5]), 10, 0.0) == 0


def test_the_limit_decides_for_all_clients_alike(monkeypatch):
    used = []
    train = Dual.train
    monkeypatch.setattr(
        Dual, "train", lambda self, *a, **k: (used.append(type(a[1]).__name__), train(self, *a, **k))[1]
    )
    data, limit = federation((40, 40, 40)), 3 * (4 * 40**2 + 700) / 2**20
    for memory, kind in ((limit, "Own"), (0.99 * limit, "Seen")):
        used.clear()
        wanted = spec(options={"hidden": [40]}, vectorize="on", gram_memory=memory)
        Worker(wanted, data).run(train_task(range(3), reduce=True), records(wanted))
        assert used == [kind]


def test_a_second_pass_takes_all_products_at_once(monkeypatch):
    monkeypatch.setattr(dual_form, "LEAST_UNITS", 1)
    wanted = spec(vectorize="on", epochs=2, gram_memory=0.0, options={"hidden": [40]})
    made = Worker(wanted, federation((30, 30))).run(train_task(range(2), reduce=True), records(wanted))
    kept = spec(vectorize="on", epochs=2, options={"hidden": [40]})
    same_bits(made, Worker(kept, federation((30, 30))).run(train_task(range(2), reduce=True), records(kept)))
