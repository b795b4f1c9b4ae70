"""Robust aggregation: Flower's own strategies, closed forms, and how far a bad reply gets."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.serverapp import strategy as stock

import fedmomentum.strategies as ours
from fedmomentum.strategies import robust

SHARED = {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0}


@pytest.mark.parametrize(
    ("aggregator", "reference"),
    [
        (robust.median(), lambda: stock.FedMedian(**SHARED)),
        (robust.trimmed_mean(fraction=0.2), lambda: stock.FedTrimmedAvg(**SHARED, beta=0.2)),
        (robust.krum(byzantine=2), lambda: stock.Krum(**SHARED, num_malicious_nodes=2)),
        (
            robust.krum(byzantine=2, keep=3),
            lambda: stock.MultiKrum(**SHARED, num_malicious_nodes=2, num_nodes_to_select=3),
        ),
    ],
)
def test_equal_to_flowers(aggregator, reference, grid_of, play, drifting, model):
    """Against the clients of equal weights: Flower's Multi-Krum weighs what it keeps."""
    start = {name: x for name, x in model(np.float64).items() if x.ndim}
    clients = drifting(np.float64)
    if "krum" in aggregator.__qualname__:
        clients = {node: equal(client) for node, client in clients.items()}
    found = play(ours.FedAvg(**SHARED, aggregator=aggregator), grid_of(clients), start, range(1, 4))
    expected = play(reference(), grid_of(clients), start, range(1, 4))
    for a, b in zip(found, expected, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-12)


def equal(client):
    def answer(message):
        content = client(message)
        content["metrics"]["num-examples"] = 1
        return content

    return answer


def replies_of(*points):
    return [{"w": np.array(p, dtype=np.float64)} for p in points], {"w": np.zeros(len(points[0]))}


def test_the_geometric_median_of_a_triangle_sees_its_sides_at_equal_angles():
    """Fermat's point: at the minimum the unit vectors to the corners sum to zero."""
    corners, like = replies_of([0.0, 0.0], [4.0, 0.0], [1.0, 3.0])
    found = robust.geometric_median(tolerance=1e-13, most_iterations=1000)(corners, [1, 1, 1], like)["w"]
    away = [c["w"] - found for c in corners]
    np.testing.assert_allclose(sum(v / np.linalg.norm(v) for v in away), 0.0, atol=1e-9)


def test_the_geometric_median_on_a_line_is_the_weighted_median():
    points, like = replies_of([0.0], [1.0], [10.0])
    found = robust.geometric_median(tolerance=1e-12, most_iterations=2000)
    assert found(points, [1.0, 1.5, 1.0], like)["w"][0] == pytest.approx(1.0, abs=1e-4)
    assert found(points, [1.0, 1.5, 4.0], like)["w"][0] == pytest.approx(10.0, abs=1e-4)


def test_replies_that_agree_are_taken_as_they_are():
    points, like = replies_of([2.0, 3.0], [2.0, 3.0], [2.0, 3.0])
    for aggregate in (robust.median(), robust.trimmed_mean(), robust.krum(byzantine=0), robust.geometric_median()):
        np.testing.assert_array_equal(aggregate(points, [1, 2, 3], like)["w"], [2.0, 3.0])


@pytest.mark.parametrize(
    "aggregator",
    [robust.median(), robust.trimmed_mean(fraction=0.2), robust.krum(byzantine=2, keep=4), robust.geometric_median()],
)
def test_two_of_ten_bad_replies_do_not_drag_the_model(aggregator, answer, content):
    rng = np.random.default_rng(0)
    model = {"w": np.zeros(20), "count": np.array(7)}
    good = [content({"w": rng.normal(size=20), "count": 9}) for _ in range(8)]
    bad = [content({"w": np.full(20, 1e6), "count": 10**9})] * 2
    found, _ = answer(ours.FedAvg(**SHARED, aggregator=aggregator), model, [*good, *bad])
    assert np.abs(found["w"]).max() < 2.0
    dragged, _ = answer(ours.FedAvg(**SHARED), model, [*good, *bad])
    assert np.abs(dragged["w"]).max() > 1e5
    assert found["w"].dtype == np.float64 and found["count"].dtype == model["count"].dtype


def test_the_server_rule_steps_from_what_was_combined(answer, content):
    strategy = ours.FedAvgM(**SHARED, server_learning_rate=0.5, server_momentum=0.9, aggregator=robust.median())
    found, _ = answer(strategy, {"w": np.zeros(1)}, [content({"w": [v]}) for v in (1.0, 2.0, 100.0)])
    np.testing.assert_allclose(found["w"], [1.0])


@pytest.mark.parametrize(("longest", "scale"), [(2.0, 0.4), (10.0, 1.0)])
def test_a_long_update_is_shortened_to_its_largest_length(answer, content, longest, scale):
    """The update (3, 4) has length 5 over both tensors; the other client's is short."""
    model = {"a": np.array([1.0]), "b": np.array([1.0]), "bn.running_var": np.array([1.0])}
    long = content({"a": [4.0], "b": [5.0], "bn.running_var": [50.0]})
    short = content({"a": [1.5], "b": [1.0], "bn.running_var": [2.0]})
    found, _ = answer(ours.FedAvg(**SHARED, clip_update=longest), model, [long, short])
    np.testing.assert_allclose(found["a"], [1.0 + (3.0 * scale + 0.5) / 2])
    np.testing.assert_allclose(found["b"], [1.0 + 4.0 * scale / 2])
    np.testing.assert_allclose(found["bn.running_var"], [26.0])


def test_too_few_replies_keep_the_old_model(answer, content):
    strategy = ours.FedAvg(**SHARED, aggregator=robust.krum(byzantine=1))
    found, metrics = answer(strategy, {"w": np.zeros(1)}, [content({"w": [1.0]}, loss=3.0)] * 4)
    assert found is None and metrics["loss"] == 3.0


def test_every_reply_is_asked_for(grid_of, training, record):
    from flwr.app import ConfigRecord

    grid = grid_of({n: training(lambda x, r: x) for n in (1, 2)})
    for options, wanted in (({"aggregator": robust.median()}, "every"), ({"clip_update": 1.0}, "every"), ({}, "mean")):
        strategy = ours.FedAvg(**SHARED, reduction="mean", **options)
        (message, _) = strategy.configure_train(1, record({"w": np.zeros(1)}), ConfigRecord(), grid)
        assert message.content["config"]["fedmomentum-reduction"] == wanted


@pytest.mark.parametrize("name", ["scaffold", "fednova", "mime", "fednag", "fedexp"])
def test_strategies_that_average_more_than_models_refuse(name):
    with pytest.raises(ValueError, match="averages more than models"):
        ours.make_strategy(name, clip_update=1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: robust.trimmed_mean(fraction=0.5),
        lambda: robust.krum(byzantine=-1),
        lambda: robust.geometric_median(smoothing=0.0),
        lambda: ours.FedAvg(clip_update=0.0),
        lambda: ours.FedAvg(weighting="equal"),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_every_client_counts_alike_where_weighting_is_uniform(answer, content):
    replies = [content({"w": [1.0]}, 1, loss=1.0), content({"w": [4.0]}, 99, loss=2.0)]
    found, _ = answer(ours.FedAvg(**SHARED, weighting="uniform"), {"w": np.zeros(1)}, replies)
    np.testing.assert_allclose(found["w"], [2.5])


def test_the_step_follows_its_schedule(play, grid_of, training):
    """A warm-up over four rounds: clients move the model by 1, the server by 1/4, 2/4, 3/4, 1."""
    strategy = ours.FedAvg(**SHARED, step_schedule=lambda done: min(1.0, (done + 1) / 4))
    grid = grid_of({n: training(lambda x, r: {"w": x["w"] + 1.0}) for n in (1, 2)})
    path = play(strategy, grid, {"w": np.zeros(1)}, range(1, 6))
    np.testing.assert_allclose([x["w"][0] for x in path], [0.25, 0.75, 1.5, 2.5, 3.5])
