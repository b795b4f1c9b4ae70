"""Tables of clients against one row a client, and their means against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st

import fedmomentum.strategies as ours
from fedmomentum.strategies.reports import Reports, added_up, column_of, mean_metrics, weights_of

numbers = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, 0.0, -0.0, math.inf]) | st.integers(-5, 5)
weights = st.floats(0, 1e6) | st.just(0.0)


@st.composite
def blocks(draw):
    """Blocks that may lack a metric, or give it once for all."""
    out = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(0, 6))
        columns = {
            name: draw(st.lists(numbers, min_size=size, max_size=size))
            for name in draw(st.sets(st.sampled_from("abc")))
        }
        common = {
            name: draw(numbers | st.lists(numbers, min_size=1, max_size=2))
            for name in draw(st.sets(st.sampled_from("bcd")))
            if name not in columns
        }
        out.append(Reports(draw(st.lists(weights, min_size=size, max_size=size)), common, columns))
    return out


def by_loop(rows, name, place):
    """Average one metric (or one place of a list) over rows, in floats, one after another."""
    first = next(metrics[name] for _, metrics in rows if name in metrics)
    total = mean = sum_ = 0.0
    known = []
    for weight, metrics in rows:
        value = metrics.get(name, math.nan)
        if isinstance(first, list) != isinstance(value, list) or (isinstance(first, list) and len(value) != len(first)):
            continue
        value = float(value if place is None else value[place])
        if not math.isnan(value):
            known.append((weight, value))
            total, sum_ = total + weight, sum_ + value
    if not known:
        return math.nan
    if total <= 0:
        return sum_ / len(known)
    for weight, value in known:
        mean += value * (weight / total)
    return mean


def bits(x):
    return np.asarray(x, np.float64).tobytes() if not math.isnan(x) else "nan"


@given(blocks())
def test_means_are_those_of_a_loop_over_clients_to_the_bit(reports):
    rows = [row for report in reports for row in report.rows()]
    means = mean_metrics(reports, leave_out="left out")
    assert list(means) == list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    for name, mean in means.items():
        for place, value in enumerate(mean) if isinstance(mean, list) else [(None, mean)]:
            assert bits(value) == bits(by_loop(rows, name, place)), (name, place)


@given(blocks())
def test_a_block_counts_as_its_clients_do(reports):
    alone = [Reports((weight,), metrics) for report in reports for weight, metrics in report.rows()]
    means, singly = (mean_metrics(r, leave_out="a") for r in (reports, alone))
    assert list(means) == list(singly)
    assert "a" not in means
    np.testing.assert_array_equal(weights_of(reports), weights_of(alone))
    assert weights_of(reports, uniform=True).tolist() == [1.0] * len(alone)
    for name in means:
        np.testing.assert_array_equal(means[name], singly[name])
    for name in "abcd":
        whole, parts = column_of(reports, name), column_of(alone, name)
        if whole is not None:  # an empty block may lack a metric that nobody else does
            np.testing.assert_array_equal(whole, parts)


def test_sums_are_those_of_a_loop():
    """Sums in pairs, and compensated ones, differ from it in the last places."""
    x = np.random.default_rng(0).normal(size=10_000)
    total = 0.0
    for value in x.tolist():
        total += value
    assert added_up(x) == total
    assert np.sum(x) != total
    assert math.fsum(x) != total


@pytest.mark.parametrize("bad", [True, "1", None])
def test_a_metric_that_is_no_number_is_no_column(bad):
    assert column_of([Reports((1.0,), {"lr": 0.1}), Reports((1.0,), {"lr": bad})], "lr") is None
    assert column_of([Reports((1.0,), {"lr": 0.1}), Reports((2.0, 3.0), {"lr": 2})], "lr").tolist() == [0.1, 2, 2]


class Needing(ours.FedAvg):
    """Goes by two metrics."""

    needs_metrics = ("lr", "steps")


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_the_mean_over_clients_of_a_product_of_their_metrics(weighting, content, answer):
    x = {"w": np.ones(2, np.float32)}
    block = content(x, 4)
    table = {"client": [1, 2], "num-examples": [3.0, 1.0], "lr": [0.1, 0.2], "steps": [5.0, 6.0]}
    block["members"] = ConfigRecord(table)
    strategy = Needing(weighting=weighting)
    answer(strategy, x, [block, content(x, 4, lr=0.5, steps=2.0)])
    w = [3, 1, 4] if weighting == "examples" else None
    assert strategy.client_mean("lr") == pytest.approx(np.average([0.1, 0.2, 0.5], weights=w))
    assert strategy.client_mean("lr", "steps") == pytest.approx(np.average([0.5, 1.2, 1.0], weights=w))
    with pytest.raises(KeyError, match="'loss' is not reported by every client"):
        strategy.client_mean("loss")


@pytest.mark.parametrize(
    ("lr", "told"),
    [([0.1, math.inf], "finite number, not inf"), ([math.nan, 0.1], "not nan"), (None, "not None"), ("x", "not None")],
)
def test_a_block_in_which_one_client_lacks_a_metric_that_is_needed_is_refused(lr, told, content, answer):
    x = {"w": np.ones(2, np.float32)}
    block = content(x, 4)
    table = {"client": [1, 2], "num-examples": [3.0, 1.0], "steps": [5.0, 6.0]}
    block["members"] = ConfigRecord(table | ({} if lr is None else {"lr": lr}))
    strategy = Needing()
    answer(strategy, x, [block, content(x, 4, lr=0.5, steps=2.0)])
    assert (strategy.accepted, len(strategy.rejected)) == (1, 1)
    assert "metric 'lr', which the strategy goes by" in strategy.rejected[0].reason
    assert told in strategy.rejected[0].reason
