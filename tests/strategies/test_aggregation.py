"""The mean: its order, its types, blocks of clients, and metrics that not everybody reports."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

import fedmomentum.strategies as ours
from fedmomentum.strategies.aggregation import weighted_mean
from fedmomentum.strategies.reports import Reports, mean_metrics


@pytest.mark.parametrize("accumulation", ["wide", "native"])
def test_the_order_of_arrival_does_not_change_a_bit(accumulation, grid_of, drifting, model, play, equal_bits):
    def final(arrival):
        strategy = ours.FedAvgM(server_momentum=0.9, accumulation=accumulation)
        return play(strategy, grid_of(drifting(np.float32), arrival), model(np.float32), [1, 2, 3])[-1]

    rng = np.random.default_rng(1)
    reference = final(list)
    for _ in range(5):
        assert equal_bits(final(lambda replies: [replies[i] for i in rng.permutation(len(replies))]), reference)


def test_the_wide_mean_is_the_exact_mean_rounded_once():
    rng = np.random.default_rng(0)
    size = 40_000  # more than one chunk
    replies = [{"w": rng.normal(size=size).astype(np.float32) * 10.0**k} for k in (0, 4, -4, 8)]
    weights = [1.0, 2.0, 4.0, 1.0]
    mean = weighted_mean(replies, weights, replies[0])["w"]
    for i in (0, 1, 16_383, 16_384, 32_767, 32_768, size - 1):
        exact = math.fsum(float(reply["w"][i]) * weight for reply, weight in zip(replies, weights, strict=True)) / 8.0
        assert mean[i] == np.float32(exact)
    assert mean.dtype == np.float32


@pytest.mark.parametrize(
    ("dtype", "values", "weights", "expected"),
    [
        (np.int64, [10, 13], [1, 3], 12),  # 12.25
        (np.int64, [2**52, 2**52 + 2], [1, 1], 2**52 + 1),
        (np.uint8, [0, 255], [1, 4], 204),
        (np.int64, [-10, -13], [1, 4], -12),  # -12.4
        (np.int32, [10, 13], [1, 2], 12),
        (np.int32, [10, 13], [1, 8], 13),  # 12.67
        (np.bool_, [True, False], [3, 1], True),
        (np.bool_, [True, False], [1, 3], False),
        (np.float16, [1.0, 2.0], [1, 1], 1.5),
        (np.float64, [0.1, 0.3], [1, 1], 0.1 * 0.5 + 0.3 * 0.5),
    ],
)
def test_means_keep_the_dtype(dtype, values, weights, expected):
    replies = [{"x": np.asarray(value, dtype)} for value in values]
    for accumulation in ("wide", "native"):
        mean = weighted_mean(replies, weights, replies[0], accumulation=accumulation)["x"]
        assert mean.dtype == dtype
        assert mean.shape == ()
        assert mean == expected


def test_layouts_of_memory_do_not_matter():
    x = np.arange(6.0).reshape(2, 3)
    mean = weighted_mean([{"x": np.asfortranarray(x)}, {"x": np.repeat(x, 2, axis=1)[:, ::2]}], [1, 1], {"x": x})
    np.testing.assert_array_equal(mean["x"], x)
    empty = np.zeros((0, 4), np.float32)
    assert weighted_mean([{"x": empty}], [1], {"x": empty})["x"].shape == (0, 4)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, math.inf], [math.nan, 1.0]])
def test_weights_without_a_mean_are_refused(weights):
    x = {"x": np.ones(2)}
    with pytest.raises(ValueError, match="positive finite number"):
        weighted_mean([x, x], weights, x)


def blocks_of(contents, groups):
    """Answer for each group of clients as the engine does: mean arrays, summed weight, a table of members."""
    out = []
    for group in groups:
        members = [contents[client] for client in group]
        weights = [member["metrics"]["num-examples"] for member in members]
        record = members[0]["arrays"].copy()
        names = list(record)
        for name in names:
            values = [member["arrays"][name].numpy().astype(np.float64) for member in members]
            mean = sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
            record[name] = type(record[name])(np.asarray(mean, dtype=record[name].dtype))
        losses = [float(member["metrics"]["loss"]) for member in members]
        table = {"client": list(group), "num-examples": [float(w) for w in weights], "loss": losses}
        metrics = MetricRecord(
            {"num-examples": float(sum(weights)), "loss": float(np.average(losses, weights=weights))}
        )
        out.append(RecordDict({"arrays": record, "metrics": metrics, "members": ConfigRecord(table)}))
    return out


@pytest.mark.parametrize("name", ["FedAvg", "FedAvgM", "FedAdam"])
def test_a_block_stands_for_its_members(name, content, model, answer):
    rng = np.random.default_rng(2)
    start = model(np.float32)
    contents = {
        client: content(
            {k: (x + rng.normal(size=x.shape)).astype(np.float32) for k, x in start.items()}, client, loss=1 / client
        )
        for client in range(1, 11)
    }
    options = {"server_momentum": 0.9} if name == "FedAvgM" else {}
    seen = []

    def highest(records, key):
        seen.append(sorted(next(iter(r.metric_records.values()))[key] for r in records))
        return MetricRecord({"loss": max(next(iter(r.metric_records.values()))["loss"] for r in records)})

    for custom in (None, highest):
        single = getattr(ours, name)(quorum=10, train_metrics_aggr_fn=custom, **options)
        blocked = getattr(ours, name)(quorum=10, train_metrics_aggr_fn=custom, on_missed_quorum="stop", **options)
        alone, alone_metrics = answer(single, start, contents)
        groups = [(1, 2, 3, 4, 5, 6, 7), (8,), (9, 10)]
        together, metrics = answer(blocked, start, blocks_of(contents, groups))
        for key in start:
            np.testing.assert_allclose(together[key], alone[key], rtol=0, atol=3e-7)
        assert blocked.accepted == single.accepted == 10
        assert dict(metrics) == pytest.approx(dict(alone_metrics), rel=1e-12)
    assert seen[0] == seen[1] == [float(k) for k in range(1, 11)]


def test_a_block_with_a_broken_table_is_refused_as_a_whole(content, answer):
    x = {"w": np.ones(2, np.float32)}
    good, bad = content(x, 2, loss=1.0), content({"w": np.full(2, 9.0, np.float32)}, 2, loss=1.0)
    for table, words in [
        ({"client": [1, 2], "num-examples": [1.0]}, "has 2 clients and another number of 'num-examples'"),
        ({"client": [1, 2], "num-examples": [1.0, 1.0], "loss": [1.0]}, "another number of 'loss'"),
        ({"num-examples": [1.0, 1.0]}, "lacks 'client'"),
    ]:
        bad["members"] = ConfigRecord(table)
        strategy = ours.FedAvg()
        new, _ = answer(strategy, x, [good, bad])
        assert words in strategy.rejected[0].reason
        np.testing.assert_array_equal(new["w"], x["w"])


def test_what_a_block_reports_outside_its_table_counts_for_its_weight(content, answer):
    x = {"w": np.ones(2, np.float32)}
    block, single = content(x, 4, curve=[1.0, 2.0]), content(x, 1, curve=[6.0, 7.0])
    block["members"] = ConfigRecord({"client": [1, 2], "num-examples": [3.0, 1.0]})
    _, metrics = answer(ours.FedAvg(), x, [block, single])
    assert metrics["curve"] == pytest.approx([2.0, 3.0])


def test_each_metric_is_averaged_over_those_who_report_it():
    reports = [
        (1.0, {"num-examples": 1, "loss": 1.0, "top": [1.0, 2.0]}),
        (3.0, {"num-examples": 3, "loss": 2.0, "extra": 5}),
        (4.0, {"num-examples": 4, "loss": math.nan, "top": [5.0, 6.0]}),
        (9.0, {"num-examples": 9, "top": [1.0]}),
        (0.0, {"num-examples": 0, "lonely": 4.0, "lost": math.nan}),
    ]
    metrics = mean_metrics([Reports((weight,), row) for weight, row in reports], leave_out="num-examples")
    assert metrics["loss"] == pytest.approx((1.0 + 3 * 2.0) / 4)
    assert metrics["extra"] == 5.0
    assert metrics["top"] == pytest.approx([(1 + 4 * 5) / 5, (2 + 4 * 6) / 5])
    assert metrics["lonely"] == 4.0
    assert math.isnan(metrics["lost"])
    assert "num-examples" not in metrics


def test_keys_are_honoured(grid_of, record, arrays):
    x = {"w": np.zeros(2, np.float32)}

    def client(message):
        assert set(message.content) == {"model", "settings"}
        value = 1.0 if message.metadata.dst_node_id == 1 else 4.0
        metrics = MetricRecord({"weight": value, "num-examples": 1, "loss": value})
        return RecordDict({"reply": record({"w": np.full(2, value, np.float32)}), "m": metrics})

    strategy = ours.FedAvg(weighted_by_key="weight", arrayrecord_key="model", configrecord_key="settings")
    grid = grid_of({1: client, 2: client})
    replies = grid.send_and_receive(strategy.configure_train(1, record(x), ConfigRecord(), grid))
    new, metrics = strategy.aggregate_train(1, replies)
    np.testing.assert_allclose(arrays(new)["w"], 17 / 5)
    assert dict(metrics) == pytest.approx({"num-examples": 1.0, "loss": 17 / 5})
