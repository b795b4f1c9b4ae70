"""Records are read without copies and written with Flower's own bytes."""

from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord

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


def unread_of(arrays=ARRAYS):
    return records.unread({name: x for name, x in arrays.items() if x.dtype.isnative})


def test_numbers_become_arrays_when_somebody_looks_and_the_bytes_are_flowers():
    record, usual = unread_of(), ArrayRecord({n: Array(x) for n, x in ARRAYS.items() if x.dtype.isnative})
    assert list(record) == list(usual) and len(record) == len(usual)
    assert "matrix" in record and "nothing" not in record
    assert all(np.shares_memory(x, ARRAYS[name]) for name, x in records.views(record).items() if x.size)
    for name, x in records.views(record).items():
        assert not x.flags.writeable
        if name != "fortran":  # Flower writes it in its own order, ours is C
            assert record[name].data == usual[name].data
        np.testing.assert_array_equal(record[name].numpy(), usual[name].numpy())
        assert record[name] is record[name]
    assert {name: a.data for name, a in record.items() if name != "fortran"} == {
        name: a.data for name, a in usual.items() if name != "fortran"
    }


def test_an_unread_record_can_be_changed_copied_and_sent_like_any_other():
    record = unread_of({"matrix": ARRAYS["matrix"], "counts": ARRAYS["counts"]})
    copy = record.copy()
    record["matrix"] = Array(np.zeros(2))
    del record["counts"]
    assert {name: x.tolist() for name, x in records.views(record).items()} == {"matrix": [0, 0]}
    with pytest.raises(KeyError):
        record["counts"]
    assert list(copy) == ["matrix", "counts"]
    np.testing.assert_array_equal(records.views(copy)["matrix"], ARRAYS["matrix"])
    usual = ArrayRecord({name: Array(ARRAYS[name]) for name in copy})
    assert copy == usual and usual == copy and copy != record
    sent = pickle.loads(pickle.dumps(copy))
    assert sent == copy and type(vars(sent)["_data"]) is dict
    assert type(vars(deepcopy(copy))["_data"]) is dict
    with pytest.raises(TypeError):
        copy["matrix"] = np.zeros(2)


def test_numbers_are_made_once_and_only_those_that_somebody_looks_at():
    made = []

    def mean(column):
        made.append(column)
        return sum(column) / len(column)

    late = records.keeping(MetricRecord(), records.Late({"loss": [1.0, 2.0], "n": 3.0, "x": [5.0]}, float, mean))
    assert list(late) == ["loss", "n", "x"] and late["n"] == 3.0 and not made
    copy = late.copy()
    assert late["loss"] == late["loss"] == 1.5 and made == [[1.0, 2.0]]
    late["x"] = 7.0
    assert dict(late) == {"loss": 1.5, "n": 3.0, "x": 7.0} and len(made) == 1
    assert copy == MetricRecord({"loss": 1.5, "n": 3.0, "x": 5.0})
    assert type(vars(pickle.loads(pickle.dumps(copy)))["_data"]) is dict


def test_an_unread_record_of_no_real_numbers_is_refused_when_it_is_read():
    with pytest.raises(ValueError, match="tensor 'z' cannot be read: it holds complex128"):
        records.views(records.unread({"z": np.zeros(2, complex)}))
    assert records.views(records.unread({"big": ARRAYS["big"]}))["big"].dtype.isnative


def test_a_model_does_not_change_when_the_tensors_do_that_it_was_made_of():
    tensors = {"w": torch.ones(3)}
    record = records.record(tensors)
    tensors["w"].mul_(2.0)
    assert records.views(record)["w"].tolist() == [1, 1, 1]


def test_a_tensor_that_lies_in_an_unread_record_is_not_copied_again():
    held = unread_of()
    tensors = records.shared(records.views(held))
    again = records.record(tensors | {"counts": tensors["counts"] + 1}, held)
    assert np.shares_memory(records.views(again)["matrix"], ARRAYS["matrix"])
    assert records.views(again)["counts"].tolist() == [1, 2, 3, 4]
