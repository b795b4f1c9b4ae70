"""The federated view, and the lens through which each client sees its examples."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fedmomentum.data import Dataset, FeatureShift, FederatedData, Partition, partition
from fedmomentum.data.shift import rotate
from fedmomentum.errors import UserError


def images(size: int = 60, shape: tuple[int, ...] = (1, 6, 6)) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.random((size, *shape), np.float32)
    x.flags.writeable = False  # as Ray's shared memory has it
    return Dataset("images", x, np.arange(size) % 5, x[:5], np.arange(5), classes=5)


def build(clients: int = 6, **options: Any) -> FederatedData:
    data = images()
    return FederatedData.build(data, partition("quantity", labels=data.y, clients=clients, sigma=1.0), **options)


def test_without_validation_and_shift_it_is_the_partition() -> None:
    data = build()
    assert data.clients == 6
    assert data.input_shape == (1, 6, 6)
    for client in range(6):
        rows = data.partition.indices(client)
        assert np.shares_memory(data.train_indices(client), rows)
        x, y = data.train_arrays(client)
        assert np.array_equal(x, data.x[rows]) and np.array_equal(y, data.y[rows])
        assert data.sizes[client] == len(rows)
        assert len(data.validation_indices(client)) == 0
        assert data.validation_arrays(client)[0].shape == (0, 1, 6, 6)


@given(validation=st.floats(0, 0.99), clients=st.integers(1, 20), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_validation_splits_every_client_and_leaves_one_to_train(validation: float, clients: int, seed: int) -> None:
    data = build(clients, validation=validation, seed=seed)
    for client in range(clients):
        held, train, check = (f(client) for f in (data.partition.indices, data.train_indices, data.validation_indices))
        assert sorted([*train, *check]) == sorted(held)
        assert len(train) == data.sizes[client] >= 1
        assert len(check) == min(round(validation * len(held)), len(held) - 1)
        assert np.array_equal(check, data.validation_indices(client))


def test_validation_is_seeded_and_uniform() -> None:
    dataset = images()
    split = partition("iid", labels=dataset.y, clients=6)  # ten examples a client
    views = [FederatedData.build(dataset, split, validation=0.3, seed=seed) for seed in range(800)]
    assert not np.array_equal(views[0].validation_indices(2), views[1].validation_indices(2))
    places = np.searchsorted(np.sort(split.indices(2)), np.concatenate([v.validation_indices(2) for v in views]))
    assert np.bincount(places, minlength=10) / 800 == pytest.approx(np.full(10, 0.3), abs=0.08)


def test_empty_clients_stay_empty() -> None:
    dataset = images()
    data = FederatedData.build(dataset, Partition(np.arange(3), np.array([0, 0, 3])), validation=0.5)
    assert data.sizes.tolist() == [0, 1]
    assert data.train_arrays(0)[0].shape == (0, 1, 6, 6)


@pytest.mark.parametrize(
    ("order", "options", "message"),
    [
        ([0, 60], {}, "the partition has examples from 0 to 60; data set 'images' has 0 .. 59"),
        ([-1, 3], {}, "examples from -1 to 3"),
        ([4, 7, 7], {}, "gives example 7 to more than one place"),
        ([1], {"validation": 1.0}, "validation = 1.0 must be a finite number >= 0 and < 1"),
    ],
)
def test_partitions_of_something_else_are_refused(order: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        FederatedData.build(images(), Partition(np.array(order), np.array([0, len(order)])), **options)
    assert message in str(caught.value)


def test_a_million_clients_cost_eight_bytes_each_and_one_is_found_at_once() -> None:
    clients = 1_000_000
    x = np.zeros((clients, 1), np.float32)
    dataset = Dataset("many", x, np.zeros(clients, np.int64), x[:1], np.zeros(1, np.int64), classes=1)
    data = FederatedData.build(dataset, partition("iid", labels=dataset.y, clients=clients), validation=0.2)
    assert len(data.train_indices(999_999)) == 1
    assert data.partition.offsets.nbytes + data.sizes.nbytes <= 8 * clients + 8


def test_it_travels_with_its_arrays_out_of_band() -> None:
    data = build(validation=0.2, shift=FeatureShift(noise=0.1))
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(data, protocol=5, buffer_callback=buffers.append)
    assert len(small) < 2000
    back = pickle.loads(small, buffers=buffers)
    assert np.shares_memory(back.x, data.x)
    for a, b in zip(data.train_arrays(3), back.train_arrays(3), strict=True):
        assert np.array_equal(a, b)


LENSES = [{"rotation": 40.0}, {"noise": 0.3}, {"gain": 0.5}, {"rotation": 40.0, "noise": 0.3, "gain": 0.5}]


@pytest.mark.parametrize("lens", LENSES)
def test_an_example_looks_the_same_at_every_visit(lens: dict[str, float]) -> None:
    x = images().x
    shift = FeatureShift(**lens, seed=3)
    examples = np.arange(60)
    seen = shift.apply(x, client=2, examples=examples)
    some = np.array([41, 3, 17])
    assert np.array_equal(shift.apply(x[some], client=2, examples=examples[some]), seen[some])
    assert seen.dtype == np.float32
    assert not np.allclose(seen, x)
    assert not np.allclose(seen, shift.apply(x, client=3, examples=examples))
    assert not np.allclose(seen, FeatureShift(**lens, seed=4).apply(x, client=2, examples=examples))
    assert np.array_equal(x, images().x)


def test_validation_and_training_share_the_lens() -> None:
    data = build(validation=0.4, shift=FeatureShift(rotation=30, gain=0.4, seed=1))
    for client in range(data.clients):
        angle, gain = data.shift.lens(client) if data.shift else (0.0, 1.0)
        for rows, (x, y) in (
            (data.train_indices(client), data.train_arrays(client)),
            (data.validation_indices(client), data.validation_arrays(client)),
        ):
            assert x == pytest.approx(gain * rotate(data.x[rows], angle), abs=1e-6)
            assert np.array_equal(y, data.y[rows])


def test_noise_is_standard_normal_and_independent() -> None:
    x = np.zeros((300, 50), np.float32)
    noise = np.stack([FeatureShift(noise=2.0).apply(x, client=c, examples=np.arange(300)) for c in range(4)]) / 2
    assert noise.mean() == pytest.approx(0, abs=4 / np.sqrt(noise.size))
    assert noise.var() == pytest.approx(1, abs=4 * np.sqrt(2 / noise.size))
    rows = noise.reshape(1200, 50)
    overlap = rows @ rows.T / 50
    assert np.abs(overlap[~np.eye(1200, dtype=bool)]).max() < 1  # no two examples share their numbers
    assert np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1] == pytest.approx(0, abs=0.02)


def test_lenses_are_uniform_in_their_ranges_and_apart() -> None:
    lenses = np.array([FeatureShift(rotation=20, gain=0.5, seed=7).lens(c) for c in range(3000)])
    for values, low, high in ((lenses[:, 0], -20, 20), (lenses[:, 1], 0.5, 1.5)):
        assert values.min() >= low and values.max() <= high
        assert np.histogram(values, 5, (low, high))[0] / 3000 == pytest.approx(np.full(5, 0.2), abs=0.04)
    assert np.corrcoef(lenses.T)[0, 1] == pytest.approx(0, abs=0.06)
    assert [FeatureShift(rotation=20, seed=7).lens(c)[0] for c in range(5)] == lenses[:5, 0].tolist()


@pytest.mark.parametrize("shape", [(5, 5), (6, 6), (4, 7)])
@pytest.mark.parametrize("degrees", [-170.0, -33.0, 0.0, 12.5, 90.0, 180.0])
def test_rotation_is_that_of_scipy(shape: tuple[int, int], degrees: float) -> None:
    image = np.random.default_rng(1).random((3, 2, *shape)).astype(np.float32)
    theirs = ndimage.rotate(image, degrees, axes=(3, 2), reshape=False, order=1, mode="grid-constant")
    assert rotate(image, degrees) == pytest.approx(theirs, abs=1e-5)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    image = np.arange(9, dtype=np.float32).reshape(3, 3)
    assert rotate(image, 90) == pytest.approx(np.rot90(image), abs=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureShift(rotation=181), "rotation = 181 must be a finite number >= 0 and <= 180"),
        (lambda: FeatureShift(noise=-1), "noise = -1 must be"),
        (lambda: FeatureShift(gain=1), "gain = 1 must be a finite number >= 0 and < 1"),
        (lambda: FeatureShift(rotation=1).check("flat", np.zeros((3, 4))), "x of data set 'flat' is [3, 4]"),
        (lambda: FeatureShift(noise=1).check("words", np.zeros((3, 4), int)), "'words' has int64 inputs"),
    ],
)
def test_bad_lenses_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value)


def test_build_checks_the_lens() -> None:
    with pytest.raises(UserError, match="rotation needs images"):
        dataset = images(shape=(4,))
        FederatedData.build(dataset, partition("iid", labels=dataset.y, clients=2), shift=FeatureShift(rotation=5))
