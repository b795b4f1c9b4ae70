"""Where Flower's strategies are right, ours give their very numbers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import strategy as stock

import fedmomentum.strategies as ours

PAIRS = ["FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"]


@pytest.mark.parametrize("name", PAIRS)
def test_parameters_and_defaults_are_flowers(name):
    theirs = inspect.signature(getattr(stock, name)).parameters
    mine = inspect.signature(getattr(ours, name)).parameters
    assert {k: mine[k].default for k in theirs} == {k: p.default for k, p in theirs.items()}


@pytest.mark.parametrize("name", ["FedAvg", "FedAvgM"])
def test_positional_parameters_have_flowers_order(name):
    theirs = list(inspect.signature(getattr(stock, name)).parameters)
    mine = [p.name for p in inspect.signature(getattr(ours, name)).parameters.values() if p.kind != p.KEYWORD_ONLY]
    assert mine == theirs
    assert getattr(ours, name)(0.5, 0.25, 3).min_train_nodes == 3


@pytest.mark.parametrize(
    ("dtype", "accumulation"), [(np.float32, "native"), (np.float64, "wide"), (np.float64, "native")]
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FedAvg", {}),
        ("FedAvgM", {}),
        ("FedAvgM", {"server_momentum": 0.9}),
        ("FedAvgM", {"server_momentum": 0.7, "server_learning_rate": 0.3}),
        ("FedAvgM", {"server_learning_rate": 1.7}),
    ],
)
def test_averages_and_heavy_ball_have_flowers_bits(
    name, options, dtype, accumulation, grid_of, drifting, model, play, equal_bits
):
    start = model(dtype)
    # Flower adds up in the order of arrival and samples at random: let its replies arrive in the order of node ids.
    in_order = grid_of(drifting(dtype), arrival=lambda replies: sorted(replies, key=lambda m: m.metadata.src_node_id))
    theirs = play(getattr(stock, name)(**options), in_order, start, range(1, 7))
    mine = play(getattr(ours, name)(accumulation=accumulation, **options), grid_of(drifting(dtype)), start, range(1, 7))
    assert all(equal_bits(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("name", ["FedAdagrad", "FedAdam", "FedYogi"])
@pytest.mark.parametrize("options", [{}, {"eta": 0.5, "tau": 0.1}])
def test_the_flower_convention_has_flowers_numbers(name, options, grid_of, drifting, model, play):
    start = model(np.float64)
    theirs = play(getattr(stock, name)(**options), grid_of(drifting(np.float64)), start, range(1, 7))
    mine = play(getattr(ours, name)(convention="flower", **options), grid_of(drifting(np.float64)), start, range(1, 7))
    for a, b in zip(mine, theirs, strict=True):
        for key in start:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-12, atol=1e-13)
    if name != "FedAdagrad":  # Keras's Adagrad is Flower's
        other = play(
            getattr(ours, name)(convention="keras", **options), grid_of(drifting(np.float64)), start, range(1, 7)
        )
        assert not np.allclose(other[-1]["w"], theirs[-1]["w"], rtol=1e-3)


def test_metrics_are_averaged_as_flower_averages_them(grid_of, training, model, record):
    start = model(np.float32)
    clients = {
        node: training(lambda x, r: x, weight=weight, loss=loss, curve=[loss, 2 * loss])
        for node, weight, loss in [(1, 10, 0.3), (2, 1, 7.0), (3, 5, -0.1)]
    }

    def metrics(strategy):
        grid = grid_of(clients, arrival=lambda replies: sorted(replies, key=lambda m: m.metadata.src_node_id))
        replies = grid.send_and_receive(strategy.configure_train(1, record(start), ConfigRecord(), grid))
        trained = strategy.aggregate_train(1, replies)[1]
        replies = grid.send_and_receive(strategy.configure_evaluate(1, record(start), ConfigRecord(), grid))
        return dict(trained), dict(strategy.aggregate_evaluate(1, replies))

    assert metrics(ours.FedAvg()) == metrics(stock.FedAvg())


def test_flowers_start_runs_it_and_reports_the_same(grid_of, drifting, model, record, arrays, equal_bits):
    results = []
    for module, options in [(stock, {}), (ours, {"accumulation": "native"})]:
        in_order = grid_of(
            drifting(np.float32), arrival=lambda replies: sorted(replies, key=lambda m: m.metadata.src_node_id)
        )
        strategy = module.FedAvgM(server_momentum=0.5, **options)
        results.append(strategy.start(in_order, record(model(np.float32)), num_rounds=3))
    theirs, mine = results
    assert equal_bits(arrays(mine.arrays), arrays(theirs.arrays))
    assert mine.train_metrics_clientapp == theirs.train_metrics_clientapp
    assert mine.evaluate_metrics_clientapp == theirs.evaluate_metrics_clientapp
    assert len(mine.train_metrics_clientapp) == 3
