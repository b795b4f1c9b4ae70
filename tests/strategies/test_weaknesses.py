"""Each fault of Flower 1.41's strategies that ours must not have: the first half of a test shows it, the second not."""

from __future__ import annotations

import random
from logging import WARNING

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error
from flwr.serverapp import strategy as stock

import fedmomentum.strategies as ours

NORM = {
    "fc.weight": np.ones((3, 2), np.float32),
    "bn.running_mean": np.zeros(3, np.float32),
    "bn.running_var": np.ones(3, np.float32),
    "bn.num_batches_tracked": np.asarray(10, np.int64),
}


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdam"])
def test_batch_norm_buffers_stay_out_of_the_optimizer(name, grid_of, training, play):
    options = {"server_momentum": 0.9} if name == "FedAvgM" else {"eta": 0.5}

    def shrink(x, server_round):  # a variance that falls to 0.05 and stays there
        return {**x, "bn.running_var": np.full(3, 0.05, np.float32), "fc.weight": x["fc.weight"] - np.float32(0.1)}

    def history(strategy):
        return play(strategy, grid_of({1: training(shrink), 2: training(shrink)}), NORM, range(1, 6))

    assert min(x["bn.running_var"].min() for x in history(getattr(stock, name)(**options))) < 0.0
    mine = history(getattr(ours, name)(**options))
    for x in mine:
        np.testing.assert_array_equal(x["bn.running_var"], np.full(3, 0.05, np.float32))
    assert mine[-1]["fc.weight"].max() < 1.0 - 5 * 0.1  # and the weights do go through it


@pytest.mark.parametrize("name", ["FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"])
def test_every_tensor_keeps_its_dtype(name, answer, content):
    counts = [content({**NORM, "bn.num_batches_tracked": np.asarray(n, np.int64)}, 1) for n in (10, 13)]
    theirs, _ = answer(getattr(stock, name)(), NORM, counts)
    assert theirs["bn.num_batches_tracked"].dtype == np.float64
    if name == "FedAdam":
        assert theirs["fc.weight"].dtype == np.float64
    mine, _ = answer(getattr(ours, name)(), NORM, counts)
    assert {k: x.dtype for k, x in mine.items()} == {k: x.dtype for k, x in NORM.items()}
    assert mine["bn.num_batches_tracked"] == 12  # 11.5, rounded to even


def test_the_seed_alone_draws_the_cohort(grid_of, training, model, record):
    ids = [int(i) for i in np.random.default_rng(0).integers(1, 2**63, 20)]

    def cohorts(strategy, order):
        grid = grid_of({node: training(lambda x, r: x) for node in order})
        return [
            sorted(
                m.metadata.dst_node_id
                for m in strategy.configure_train(r, record(model(np.float32)), ConfigRecord(), grid)
            )
            for r in range(1, 6)
        ]

    assert cohorts(stock.FedAvg(0.3), ids) != cohorts(stock.FedAvg(0.3), ids)
    before = random.getstate()
    first = cohorts(ours.FedAvg(0.3, seed=4), ids)
    assert random.getstate() == before
    random.seed(99)
    np.random.seed(99)
    assert cohorts(ours.FedAvg(0.3, seed=4), ids[::-1]) == first
    assert cohorts(ours.FedAvg(0.3, seed=5), ids) != first
    assert all(len(cohort) == 6 for cohort in first)
    assert len({tuple(cohort) for cohort in first}) == 5


X = {"w": np.zeros((2, 3), np.float32)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["FedAvg", "FedAvgM", "FedAdam"])
def test_one_poisoned_reply_does_not_poison_the_model(name, bad, answer, content, caplog):
    options = {"server_momentum": 0.9} if name == "FedAvgM" else {}
    poison = np.ones((2, 3), np.float32)
    poison[1, 2] = bad
    answers = {3: content({"w": np.ones((2, 3), np.float32)}), 7: content({"w": poison})}
    theirs, _ = answer(getattr(stock, name)(**options), X, answers)
    assert not np.isfinite(theirs["w"]).all()
    strategy = getattr(ours, name)(**options)
    with caplog.at_level(WARNING, logger="flwr"):
        mine, _ = answer(strategy, X, answers)
    assert np.isfinite(mine["w"]).all()
    assert (mine["w"] > 0).all()
    words = "NaN" if np.isnan(bad) else "infinite values"
    assert [(f.client, f.reason, f.kind) for f in strategy.rejected] == [(7, f"tensor 'w' holds {words}", "rejected")]
    assert strategy.accepted == 1
    assert f"node 7: tensor 'w' holds {words}" in caplog.text


def test_weights_of_zero_keep_the_old_model(answer, content, caplog):
    answers = [content({"w": np.ones((2, 3), np.float32)}, 0), content({"w": np.ones((2, 3), np.float32)}, 0)]
    with pytest.raises(ZeroDivisionError):
        answer(stock.FedAvg(), X, answers)
    mine, _ = answer(ours.FedAvg(), X, answers)
    assert mine is None
    assert "the weights sum to 0.0; the old model is kept" in caplog.text


def test_a_negative_weight_is_refused(answer, content):
    answers = [content({"w": np.full((2, 3), k, np.float32)}, w) for k, w in [(1.0, 3), (5.0, -2)]]
    theirs, _ = answer(stock.FedAvg(), X, answers)
    np.testing.assert_allclose(theirs["w"], -7.0)  # outside the range of what the clients sent
    strategy = ours.FedAvg()
    mine, _ = answer(strategy, X, answers)
    np.testing.assert_array_equal(mine["w"], np.ones((2, 3), np.float32))
    assert "must be finite and at least 0, not -2" in strategy.rejected[0].reason


def test_a_shape_that_would_broadcast_is_refused(answer, content):
    answers = [content({"w": np.ones((2, 3), np.float32)}), content({"w": np.ones((1, 3), np.float32)})]
    theirs, _ = answer(stock.FedAvg(), X, answers)
    assert theirs["w"].shape == (2, 3)  # half of it from a client that never sent that shape
    strategy = ours.FedAvg()
    answer(strategy, X, answers)
    assert strategy.rejected[0].reason == "tensor 'w' has shape [1, 3], the model has [2, 3]"


def test_nesterov_is_there(grid_of, training, play):
    with pytest.raises(TypeError):
        stock.FedAvgM(form="nesterov")
    clients = {node: training(lambda x, r: {"w": x["w"] - np.float32(1)}) for node in (1, 2)}
    steps = play(ours.FedAvgM(server_momentum=0.5, form="nesterov"), grid_of(clients), X, [1, 2])
    # D = 1 each round: the first step is D + beta D, the second D + beta (1 + beta) D
    np.testing.assert_array_equal(steps[0]["w"], np.full((2, 3), -1.5, np.float32))
    np.testing.assert_array_equal(steps[1]["w"], np.full((2, 3), -1.5 - 1.75, np.float32))


def test_adams_bias_correction_counts_rounds_from_one(grid_of, training, play):
    def first_steps(strategy):
        clients = {node: training(lambda x, r: {"w": x["w"] - 1.0}) for node in (1, 2)}
        history = [np.zeros(1), *(h["w"] for h in play(strategy, grid_of(clients), {"w": np.zeros(1)}, [1, 2, 3]))]
        return np.diff(np.concatenate(history))

    # A constant pseudo-gradient of 1: the textbook's corrected steps are exactly eta.
    np.testing.assert_allclose(first_steps(stock.FedAdam(eta=1.0, tau=0.0)), [-0.742, -0.857, -0.908], atol=1e-3)
    np.testing.assert_allclose(first_steps(ours.FedAdam(eta=1.0, tau=0.0, convention="keras")), [-1.0] * 3, rtol=1e-12)


@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_waiting_for_nodes_ends(phase, grid_of, training, model, record, monkeypatch):
    class Waited(BaseException):
        pass

    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) > 100:
            raise Waited

    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", nap)
    grid = grid_of({1: training(lambda x, r: x)})
    with pytest.raises(Waited):
        getattr(stock.FedAvg(), f"configure_{phase}")(1, record(model(np.float32)), ConfigRecord(), grid)

    strategy = ours.FedAvg(min_available_nodes=3, node_timeout=0.05)
    with pytest.raises(TimeoutError, match=r"1 nodes are connected and 3 are needed; waited 0\.05 s"):
        getattr(strategy, f"configure_{phase}")(1, record(model(np.float32)), ConfigRecord(), grid)


def test_nodes_that_come_late_are_waited_for(grid_of, training, model, record, monkeypatch):
    grid = grid_of({1: training(lambda x, r: x)})
    monkeypatch.setattr("time.sleep", lambda seconds: grid.clients.update({2: grid.clients[1]}))
    messages = ours.FedAvg().configure_train(1, record(model(np.float32)), ConfigRecord(), grid)
    assert [m.metadata.dst_node_id for m in messages] == [1, 2]


def test_a_reused_strategy_forgets_its_momentum(grid_of, drifting, model, record, arrays, equal_bits):
    def runs(strategy):
        return [
            arrays(strategy.start(grid_of(drifting(np.float64)), record(model(np.float64)), num_rounds=3).arrays)
            for _ in range(2)
        ]

    first, second = runs(stock.FedAvgM(server_momentum=0.9))
    assert not np.allclose(first["w"], second["w"])
    first, second = runs(ours.FedAvgM(server_momentum=0.9))
    assert equal_bits(first, second)


def test_the_callers_config_is_left_alone(grid_of, training, model, record):
    grid = grid_of({1: training(lambda x, r: x), 2: training(lambda x, r: x)})
    config = ConfigRecord({"lr": 0.1})
    stock.FedAvg().configure_train(1, record(model(np.float32)), config, grid)
    assert "server-round" in config
    config = ConfigRecord({"lr": 0.1})
    strategy = ours.FedAvg()
    train = strategy.configure_train(4, record(model(np.float32)), config, grid)
    evaluate = strategy.configure_evaluate(4, record(model(np.float32)), config, grid)
    assert dict(config) == {"lr": 0.1}
    assert dict(train[0].content["config"]) == {"lr": 0.1, "server-round": 4, "fedmomentum-reduction": "every"}
    assert dict(evaluate[0].content["config"]) == {"lr": 0.1, "server-round": 4}
    assert train[0].content is train[1].content


def test_clients_that_never_answer_are_named(answer, content):
    strategy = ours.FedAvg()
    mine, _ = answer(
        strategy, X, {4: None, 5: content({"w": np.ones((2, 3), np.float32)}), 6: Error(3, "out of memory")}
    )
    np.testing.assert_array_equal(mine["w"], np.ones((2, 3), np.float32))
    assert [(f.client, f.kind) for f in strategy.rejected] == [(6, "error"), (4, "late")]
    assert strategy.rejected[0].reason == "out of memory"
