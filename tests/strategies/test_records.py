"""Records are read without copies and written with Flower's own bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from fedmomentum.strategies import records

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.asarray(2.5),
    "empty": np.zeros((0, 3), np.float16),
    "counts": np.arange(4, dtype=np.int64),
    "flags": np.array([True, False]),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big": np.arange(3, dtype=">f8"),
}


def test_reading_gives_what_flower_gives():
    record = ArrayRecord({name: Array(x) for name, x in ARRAYS.items()})
    for name, x in records.views(record).items():
        np.testing.assert_array_equal(x, record[name].numpy())
        assert x.shape == ARRAYS[name].shape
        assert x.dtype == ARRAYS[name].dtype.newbyteorder("=")


def test_reading_copies_nothing():
    array = Array(ARRAYS["matrix"])
    x = records.view(array)
    assert np.shares_memory(x, np.frombuffer(array.data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        x[0, 0] = 1.0


def test_writing_gives_flowers_bytes():
    tensors = {name: torch.from_numpy(x.copy(order="C")) for name, x in ARRAYS.items() if x.dtype.isnative}
    mine, theirs = records.record(tensors), ArrayRecord(tensors)
    assert list(mine) == list(theirs)
    for name in theirs:
        assert mine[name] == theirs[name]
        assert mine[name].object_id == theirs[name].object_id


def test_trees_own_their_memory():
    record = ArrayRecord({"matrix": Array(ARRAYS["matrix"])})
    tree = records.tree(records.views(record))
    tree["matrix"].zero_()
    np.testing.assert_array_equal(record["matrix"].numpy(), ARRAYS["matrix"])


def test_a_tensor_that_lies_in_an_array_is_not_copied_again():
    held = ArrayRecord({"matrix": Array(ARRAYS["matrix"]), "counts": Array(ARRAYS["counts"])})
    tensors = records.shared(records.views(held))
    again = records.record(tensors | {"counts": tensors["counts"] + 1}, held)
    assert again["matrix"] is held["matrix"]
    np.testing.assert_array_equal(again["counts"].numpy(), ARRAYS["counts"] + 1)
    turned = records.record({"matrix": tensors["matrix"].reshape(3, 2)}, held)
    assert turned["matrix"].shape == (3, 2)
