"""Examples in the order of clients: the same federation, number by number, in runs of aligned memory."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmomentum.data import Dataset, FeatureShift, FederatedData, Partition, arrange, client_order
from fedmomentum.data.client_order import ALIGNMENT
from fedmomentum.data.dataset import Array

SIZE = 60


def images(x: Array | None = None) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.random((SIZE, 1, 5, 5), np.float32) if x is None else x
    return Dataset("images", x, np.arange(len(x)) % 5, x[:5], np.arange(5), classes=5)


def scattered(sizes: list[int], seed: int = 0, dataset: Dataset | None = None, **options: Any) -> FederatedData:
    """Give clients of these sizes examples from all over the data set; those that are left belong to nobody."""
    order = np.random.default_rng(seed).permutation(SIZE)[: sum(sizes)].astype(np.int32)
    split = Partition(order, np.concatenate([[0], np.cumsum(sizes)]))
    return FederatedData.build(dataset or images(), split, seed=seed, **options)


def aligned(data: FederatedData) -> bool:
    return data.x.size == 0 or data.x.ctypes.data % ALIGNMENT == 0


def at(offset: int) -> Array:
    """Give inputs that begin so many bytes behind an aligned address."""
    room = np.zeros(SIZE * 100 + 2 * ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT + offset
    x = room[begin : begin + SIZE * 100].view(np.float32).reshape(SIZE, 1, 5, 5)
    x[...] = images().x
    return x


LENS = FeatureShift(rotation=30, noise=0.2, gain=0.3, seed=4)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    validation=st.sampled_from([0.0, 0.2, 0.7]),
    shift=st.sampled_from([None, LENS]),
)
@settings(max_examples=60, deadline=None)
def test_every_client_sees_the_same_numbers_in_the_same_order(
    sizes: list[int], seed: int, validation: float, shift: FeatureShift | None
) -> None:
    data = scattered(sizes, seed, validation=validation, shift=shift)
    arranged = arrange(data)
    assert arranged.arranged and aligned(arranged)
    assert np.array_equal(arranged.sizes, data.sizes)
    for client in range(len(sizes)):
        for one, other in (
            (data.train_arrays(client), arranged.train_arrays(client)),
            (data.validation_arrays(client), arranged.validation_arrays(client)),
            ((data.is_validation(client),) * 2, (arranged.is_validation(client),) * 2),
        ):
            for a, b in zip(one, other, strict=True):
                assert a.dtype == b.dtype and np.array_equal(a, b)
        for rows, examples in (
            (arranged.train_rows([client]), arranged.train_indices(client)),
            (arranged.validation_rows(client), arranged.validation_indices(client)),
        ):
            assert np.array_equal(np.arange(SIZE)[rows], examples)
        # the numbers of examples are those of the partition, whichever way one asks
        held, chosen = arranged.partition.indices(client), arranged.is_validation(client)
        assert np.array_equal(arranged.train_indices(client), held[~chosen])
        assert np.array_equal(arranged.validation_indices(client), held[chosen])
    if arranged.origin is not None:
        assert np.array_equal(data.x[arranged.origin], arranged.x) and np.array_equal(
            data.y[arranged.origin], arranged.y
        )
    assert arrange(arranged) is arranged


@pytest.mark.parametrize("validation", [0.0, 0.4])
def test_clients_side_by_side_are_one_run_and_others_are_rows(validation: float) -> None:
    data = scattered([5, 0, 7, 4, 6], validation=validation)
    arranged, train = arrange(data), data.sizes
    assert arranged.train_rows(range(5)) == slice(0, int(train.sum()))
    assert arranged.train_rows([0, 2]) == slice(0, int(train[0] + train[2]))  # between them is nobody's example
    for clients in ([3], [2, 3], [0, 3], [4, 0], [0, 2, 4], [4, 3, 2]):
        rows = arranged.train_rows(clients)
        wanted = np.concatenate([data.train_arrays(client)[0] for client in clients])
        assert np.array_equal(arranged.x[rows], wanted)
        assert isinstance(rows, slice) == (clients in ([3], [2, 3]))


def test_examples_of_nobody_are_left_out() -> None:
    for data in (scattered([3, 4]), FederatedData.build(images(), Partition(np.arange(7), np.array([0, 3, 7])))):
        assert len(arrange(data).x) == len(arrange(data).y) == 7


def test_what_lies_in_order_and_aligned_is_not_copied() -> None:
    split = Partition(np.arange(SIZE), np.array([0, 10, SIZE]))
    data = FederatedData.build(images(at(0)), split)
    assert arrange(data).arranged and np.shares_memory(arrange(data).x, data.x)
    for offset in (4, 16, 32):
        data = FederatedData.build(images(at(offset)), split)
        arranged = arrange(data)
        assert aligned(arranged) and np.array_equal(arranged.x, data.x)
        assert np.shares_memory(arranged.y, data.y) and arranged.origin is None


def test_without_copies_only_what_lies_in_order_is_arranged() -> None:
    split = Partition(np.arange(SIZE), np.array([0, 10, SIZE]))
    data = FederatedData.build(images(at(16)), split)
    assert arrange(data, copy=False).arranged and np.shares_memory(arrange(data, copy=False).x, data.x)
    for other in (scattered([20, 30]), FederatedData.build(images(at(0)), split, validation=0.1)):
        assert arrange(other, copy=False) is other


@pytest.mark.parametrize("how", ["memmap", "a view of a memmap", "a map of its own"])
def test_what_lies_in_a_file_is_never_read_into_memory(tmp_path: Path, how: str) -> None:
    file = tmp_path / "x.npy"
    np.save(file, images().x)
    if how == "a map of its own":
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        x: Array = np.frombuffer(mapped, np.float32, SIZE * 25, offset=128).reshape(SIZE, 1, 5, 5)
    else:
        x = np.load(file, mmap_mode="r")
        x = x if how == "memmap" else np.asarray(x)[:, :, ::1]
    data = scattered([20, 30], dataset=images(x))
    assert arrange(data) is data
    in_order = FederatedData.build(images(x[1:]), Partition(np.arange(SIZE - 1), np.array([0, 9, SIZE - 1])))
    arranged = arrange(in_order)  # not aligned, but in order
    assert arranged.arranged and np.shares_memory(arranged.x, x)


def test_large_inputs_and_many_draws_are_left_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data, held = scattered([20, 30]), scattered([20, 30], validation=0.1)
    monkeypatch.setattr(client_order, "MOST_BYTES", data.x.nbytes - 1)
    assert arrange(data) is data
    monkeypatch.setattr(client_order, "MOST_BYTES", data.x.nbytes)
    monkeypatch.setattr(client_order, "MOST_DRAWS", 1)
    assert arrange(held) is held
    assert arrange(data).arranged  # without validation there is nothing to draw


def test_arranged_data_travel_with_their_arrays_out_of_band() -> None:
    data = arrange(scattered([20, 0, 30], validation=0.2))
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(data, protocol=5, buffer_callback=buffers.append)
    assert len(small) < 2000 and data.x.nbytes in {len(buffer.raw()) for buffer in buffers}
    back = pickle.loads(small, buffers=buffers)
    assert back.arranged and np.shares_memory(back.x, data.x)
