"""Bad replies: each is refused by itself, with the client, the tensor and the fault named."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

import fedmomentum.strategies as ours

MODEL = {"a": np.zeros((2, 2), np.float32), "n": np.asarray(3, np.int64)}
GOOD = {"a": np.ones((2, 2), np.float32), "n": np.asarray(5, np.int64)}


def raw(data, dtype="float32", shape=(2, 2), stype="numpy.ndarray"):
    return Array(dtype, shape, stype, data)


def metrics(**values):
    return MetricRecord(values or {"num-examples": 1})


def reply(arrays=None, record=None, **records):
    model = ArrayRecord({k: v if isinstance(v, Array) else Array(v) for k, v in (arrays or GOOD).items()})
    return RecordDict({"arrays": model if record is None else record, "metrics": metrics(), **records})


whole = Array(GOOD["a"]).data
FAULTS = {
    "NaN": (reply({**GOOD, "a": np.full((2, 2), np.nan, np.float32)}), "tensor 'a' holds NaN"),
    "infinite": (reply({**GOOD, "a": np.full((2, 2), -np.inf, np.float32)}), "tensor 'a' holds infinite values"),
    "missing tensor": (reply({"a": GOOD["a"]}), "tensor 'n' is missing"),
    "unknown tensor": (reply({**GOOD, "z": GOOD["a"]}), "tensor 'z' is not in the model"),
    "shape": (reply({**GOOD, "a": GOOD["a"][0]}), "tensor 'a' has shape [2], the model has [2, 2]"),
    "same size": (reply({**GOOD, "a": GOOD["a"].reshape(4, 1)}), "tensor 'a' has shape [4, 1], the model has [2, 2]"),
    "float for integer": (reply({**GOOD, "n": np.asarray(5.0)}), "tensor 'n' is float64, the model has int64"),
    "integer for float": (
        reply({**GOOD, "a": np.ones((2, 2), np.int32)}),
        "tensor 'a' is int32, the model has float32",
    ),
    "too large a float": (reply({**GOOD, "a": np.full((2, 2), 1e300)}), "holds float64 values that do not fit"),
    "too large an integer": (reply({**GOOD, "n": np.asarray(2**64 - 1, np.uint64)}), "holds uint64 values that do not"),
    "complex": (reply({**GOOD, "a": np.ones((2, 2), np.complex64)}), "tensor 'a' cannot be read: it holds complex64"),
    "text": (reply({**GOOD, "a": np.full((2, 2), "x")}), "tensor 'a' cannot be read: it holds <U1"),
    "cut off": (reply({**GOOD, "a": raw(whole[:-1])}), "tensor 'a' cannot be read: 15 bytes where 16 make"),
    "too long": (reply({**GOOD, "a": raw(whole + b"0")}), "tensor 'a' cannot be read: 17 bytes where 16 make"),
    "no header": (reply({**GOOD, "a": raw(b"\x93NUMPY\x01\x00")}), "tensor 'a' cannot be read"),
    "nonsense": (reply({**GOOD, "a": raw(b"nonsense")}), "tensor 'a' cannot be read"),
    "pickle": (reply({**GOOD, "a": raw(whole.replace(b"<f4", b"|O "))}), "tensor 'a' cannot be read"),
    "other serialization": (reply({**GOOD, "a": raw(whole, stype="jpeg")}), "tensor 'a' cannot be read: Unsupported"),
    "no arrays": (RecordDict({"metrics": metrics()}), "0 ArrayRecords for the model where one is expected"),
    "two arrays": (reply(second=ArrayRecord({"a": Array(GOOD["a"])})), "2 ArrayRecords for the model where one is"),
    "no metrics": (RecordDict({"arrays": reply()["arrays"]}), "0 MetricRecords where one is expected"),
    "two metrics": (reply(second=metrics()), "2 MetricRecords where one is expected"),
    "no weight": (reply(metrics=metrics(loss=1.0)), "metric 'num-examples', the weight, is missing"),
    "weights": (reply(metrics=MetricRecord({"num-examples": [1, 2]})), "the weight, must be a number, not a list"),
    "NaN weight": (reply(metrics=metrics(**{"num-examples": np.nan})), "must be finite and at least 0, not nan"),
    "infinite weight": (reply(metrics=metrics(**{"num-examples": np.inf})), "must be finite and at least 0, not inf"),
    "negative weight": (reply(metrics=metrics(**{"num-examples": -1})), "must be finite and at least 0, not -1"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_bad_reply_is_refused_by_itself(case, answer):
    bad, words = FAULTS[case]
    strategy = ours.FedAvg()
    new, _ = answer(strategy, MODEL, {5: bad, 6: reply()})
    assert strategy.accepted == 1
    assert [(f.client, f.kind) for f in strategy.rejected] == [(5, "rejected")]
    assert words in strategy.rejected[0].reason
    for key, x in GOOD.items():
        np.testing.assert_array_equal(new[key], x)


@pytest.mark.parametrize(
    "arrays",
    [
        {**GOOD, "a": GOOD["a"].astype(np.float64)},
        {**GOOD, "a": GOOD["a"].astype(np.float16)},
        {**GOOD, "a": GOOD["a"].astype(">f4")},
        {**GOOD, "a": np.asfortranarray(GOOD["a"])},
        {**GOOD, "n": GOOD["n"].astype(np.int32)},
        {"n": GOOD["n"], "a": GOOD["a"]},
    ],
)
def test_a_dtype_or_order_that_loses_nothing_is_taken(arrays, answer):
    strategy = ours.FedAvg()
    new, _ = answer(strategy, MODEL, [reply(arrays), reply(arrays, config=ConfigRecord({"note": "hello"}))])
    assert strategy.rejected == []
    assert list(new) == ["a", "n"]
    for key, x in GOOD.items():
        assert new[key].dtype == x.dtype
        np.testing.assert_array_equal(new[key], x)


def test_when_every_reply_is_bad_the_old_model_stays(answer, caplog):
    strategy = ours.FedAvgM(server_momentum=0.9)
    new, got = answer(strategy, MODEL, [FAULTS["NaN"][0], FAULTS["shape"][0]])
    assert new is None
    assert got is None
    assert "0 of 2 replies are good, 1 are needed; the old model is kept" in caplog.text
    assert strategy.state_dict()["server"] == {}
    assert strategy.round == 1


def test_evaluation_admits_one_reply_at_a_time(grid_of):
    answers = {1: metrics(**{"num-examples": 3, "loss": 1.0}), 2: metrics(**{"num-examples": -3, "loss": 9.0})}
    grid = grid_of(
        {node: (lambda m, record=record: RecordDict({"metrics": record})) for node, record in answers.items()}
    )
    strategy = ours.FedAvg()
    messages = strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), grid)
    assert dict(strategy.aggregate_evaluate(1, grid.send_and_receive(messages))) == {"loss": 1.0}
    assert strategy.aggregate_evaluate(1, []) is None


def test_aggregation_without_a_round_says_what_is_missing():
    with pytest.raises(Exception, match="configure_train has to come first"):
        ours.FedAvg().aggregate_train(1, [])


@pytest.mark.parametrize(("longest", "refused"), [(1.9999, True), (2.0, False)])
def test_an_update_longer_than_is_allowed_is_refused_alone(longest, refused):
    """The update of GOOD is four ones: its length is 2, the integer counter not among it."""
    small = {**GOOD, "a": np.full((2, 2), 0.5, np.float32)}
    from fedmomentum.strategies.admission import Expected, _admit, _RejectedError

    expected = Expected("num-examples", MODEL, longest=longest, judged=frozenset({"a"}))
    _admit(1, reply(small), expected)
    if refused:
        with pytest.raises(_RejectedError, match="its update is 2 long, at most"):
            _admit(2, reply(), expected)
    else:
        _admit(2, reply(), expected)
