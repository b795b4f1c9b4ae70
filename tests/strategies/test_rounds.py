"""A whole round: quorum, extra records, cohorts of the caller's, Flower's wrappers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as stock
from flwr.serverapp.exception import AggregationError

import fedmomentum.strategies as ours
from fedmomentum import protocol

X = {"w": np.zeros(3, np.float32), "bn.running_mean": np.zeros(3, np.float32)}


def poison(x):
    return {**x, "w": np.full(3, np.nan, np.float32)}


@pytest.mark.parametrize(
    ("quorum", "good", "reached"),
    [(None, 1, True), (None, 0, False), (3, 3, True), (3, 2, False), (0.6, 3, True), (0.6, 2, False), (1.0, 4, False)],
)
@pytest.mark.parametrize("on_missed_quorum", ["keep", "stop"])
def test_quorum(quorum, good, reached, on_missed_quorum, content, answer, caplog):
    ones = {k: x + 1 for k, x in X.items()}
    strategy = ours.FedAvg(quorum=quorum, on_missed_quorum=on_missed_quorum)
    answers = [content(ones if node < good else poison(ones)) for node in range(5)]
    if not reached and on_missed_quorum == "stop" and quorum is not None:
        with pytest.raises(AggregationError, match=f"round 1: {good} of 5 replies are good, "):
            answer(strategy, X, answers)
        assert strategy.round == 0  # the round may be tried again
        return
    new, _ = answer(strategy, X, answers)
    assert (new is not None) == reached
    assert strategy.round == 1
    assert strategy.accepted == good
    assert len(strategy.rejected) == 5 - good
    if not reached:
        assert f"round 1: {good} of 5 replies are good" in caplog.text


def test_a_round_tried_again_keeps_the_momentum(grid_of, training, play):
    clients = {node: training(lambda x, r: {k: v - 1 for k, v in x.items()}) for node in (1, 2)}
    strategy = ours.FedAvgM(server_momentum=0.5, quorum=2, on_missed_quorum="stop")
    (first,) = play(strategy, grid_of(clients), X, [1])
    with pytest.raises(AggregationError):
        play(strategy, grid_of({**clients, 2: lambda message: None}), first, [2])
    (second,) = play(strategy, grid_of(clients), first, [2])
    np.testing.assert_array_equal(second["w"], -1.0 - 1.5 * np.ones(3))


@dataclass(eq=False, repr=False)
class Control(ours.ServerOptimizer):
    """Sends a record of its own, gets one back, and keeps what it got."""

    def __post_init__(self):
        super().__post_init__()
        self.control = {"w": torch.full((3,), 0.5)}

    def server_rule(self):
        return None

    def extra_to_clients(self, params):
        assert list(params) == ["w"]
        return {"control": self.control}

    def extra_in_replies(self, params):
        return {"control": dict(params)}

    def server_update(self, old, mean, extras):
        assert list(old) == list(mean) == ["w"]
        self.control = extras["control"]
        return {"w": mean["w"] + 100.0}


class UniformControl(Control):
    extra_weighting = "uniform"


@pytest.mark.parametrize(("cls", "expected"), [(Control, (1 * 1.5 + 3 * 3.5) / 4), (UniformControl, 2.5)])
def test_extra_records_travel_both_ways(cls, expected, grid_of, content, record, arrays):
    def client(message):
        got = arrays(message.content["control"])["w"]
        node = message.metadata.dst_node_id
        reply = content({k: x + 1 for k, x in X.items()}, node)
        reply["control"] = record({"w": got + np.float32(node)})
        return reply

    strategy = cls()
    grid = grid_of({1: client, 3: client})
    messages = strategy.configure_train(1, record(X), ConfigRecord({protocol.REDUCTION: protocol.MEAN}), grid)
    new, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
    np.testing.assert_allclose(strategy.control["w"], expected)
    np.testing.assert_array_equal(arrays(new)["w"], np.full(3, 101.0, np.float32))
    np.testing.assert_array_equal(arrays(new)["bn.running_mean"], np.ones(3, np.float32))
    reduction = protocol.EVERY if cls is UniformControl else protocol.MEAN
    assert messages[0].content["config"][protocol.REDUCTION] == reduction


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("control"), "ArrayRecord 'control' is missing"),
        (lambda r: r.update(other=r["control"]), "2 ArrayRecords for the model where one is expected"),
        (lambda r: r.update(control=ArrayRecord({"v": Array(np.ones(3))})), "control: tensor 'w' is missing"),
        (lambda r: r.update(control=ArrayRecord({"w": Array(np.ones(4))})), "control: tensor 'w' has shape [4]"),
        (lambda r: r.update(control=ArrayRecord({"w": Array(np.full(3, np.nan))})), "control: tensor 'w' holds NaN"),
        (lambda r: r.update(wrong=r.pop("arrays")), "ArrayRecord 'wrong' is not expected; the model's is 'arrays'"),
    ],
)
def test_replies_hold_exactly_the_expected_records(change, words, content, answer, record):
    def reply():
        out = content({k: x + 1 for k, x in X.items()})
        out["control"] = record({"w": np.ones(3, np.float32)})
        return out

    bad = reply()
    change(bad)
    strategy = Control()
    answer(strategy, X, {1: reply(), 2: bad})
    assert [f.client for f in strategy.rejected] == [2]
    assert words in strategy.rejected[0].reason


def test_a_reduction_in_the_callers_config_has_the_last_word(grid_of, training, record):
    grid = grid_of({node: training(lambda x, r: x) for node in (1, 2)})

    def asked(strategy, **config):
        return strategy.configure_train(1, record(X), ConfigRecord(config), grid)[0].content["config"]

    assert asked(ours.FedAvg())[protocol.REDUCTION] == protocol.EVERY  # somebody else drives: it may be a wrapper
    assert asked(ours.FedAvg(reduction="mean"))[protocol.REDUCTION] == protocol.MEAN
    assert asked(ours.FedAvg(reduction="every"))[protocol.REDUCTION] == protocol.EVERY
    assert asked(ours.FedAvg(), **{protocol.REDUCTION: protocol.EVERY})[protocol.REDUCTION] == protocol.EVERY
    assert protocol.BUFFERS not in asked(ours.FedAvg())
    assert asked(ours.FedAvg(buffers=["w", "bn.running_mean"]))[protocol.BUFFERS] == "bn.running_mean\nw"


def test_buffers_by_name(grid_of, training, play, record):
    clients = {node: training(lambda x, r: {k: v - 1 for k, v in x.items()}) for node in (1, 2)}
    strategy = ours.FedAvgM(server_learning_rate=2.0, buffers=["w"])
    (new,) = play(strategy, grid_of(clients), {**X, "n": np.asarray(5)}, [1])
    np.testing.assert_array_equal(new["w"], -np.ones(3))
    np.testing.assert_array_equal(new["bn.running_mean"], -2 * np.ones(3))
    assert new["n"] == 4
    with pytest.raises(ValueError, match=r"buffers names 'bn\.mean', which is not in the model"):
        ours.FedAvg(buffers=["bn.mean"]).configure_train(1, record(X), ConfigRecord(), grid_of(clients))


def test_half_precision_survives_a_square(grid_of, training, play):
    """D^2 = 1e-8 is zero in float16; the adaptive step must not divide by the root of that."""
    clients = {node: training(lambda x, r: {"w": x["w"] - np.float16(1e-4)}) for node in (1, 2)}
    start = {"w": np.zeros(3, np.float16)}
    for dtype in (np.float16, np.float64):
        strategy = ours.FedAdam(eta=0.1, beta_1=0.0, beta_2=0.0, tau=1e-6, convention="flower")
        (new,) = play(strategy, grid_of(clients), {"w": start["w"].astype(dtype)}, [1])
        assert new["w"].dtype == dtype
        np.testing.assert_allclose(new["w"], -0.1 * 1e-4 / (1e-4 + 1e-6), rtol=2e-3)


class Chosen:
    def __init__(self, *nodes):
        self.nodes = list(nodes)

    def choose(self, server_round, node_ids):
        assert list(node_ids) == sorted(node_ids)
        return self.nodes


def test_a_cohort_of_ones_own(grid_of, training, record, caplog):
    grid = grid_of({node: training(lambda x, r: x) for node in (30, 10, 20)})

    def nodes(cohort):
        messages = ours.FedAvg(cohort=cohort).configure_train(1, record(X), ConfigRecord(), grid)
        return [m.metadata.dst_node_id for m in messages]

    assert nodes(Chosen(20, 10)) == [20, 10]
    with pytest.raises(ValueError, match="round 1: the cohort chose node 40, which is not connected"):
        nodes(Chosen(10, 40))
    with pytest.raises(ValueError, match="round 1: the cohort chose node 10 twice"):
        nodes(Chosen(10, 20, 10))
    strategy = ours.FedAvg(cohort=Chosen(), quorum=2, on_missed_quorum="stop")
    assert not strategy.configure_train(1, record(X), ConfigRecord(), grid)
    assert strategy.aggregate_train(1, []) == (None, None)
    assert "the cohort is empty" in caplog.text


def test_fractions_of_zero_skip(grid_of, record):
    grid = grid_of({})
    strategy = ours.FedAvg(fraction_train=0.0, fraction_evaluate=0.0)
    assert not strategy.configure_train(1, record(X), ConfigRecord(), grid)
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.configure_evaluate(1, record(X), ConfigRecord(), grid) == []


@pytest.mark.parametrize("accumulation", ["wide", "native"])
def test_it_works_inside_flowers_differential_privacy(accumulation, grid_of, training, record, arrays, equal_bits):
    """Without noise and with a clip that binds, the wrapper around ours gives what it gives around Flower's."""
    start = {"w": np.zeros(4, np.float32), "v": np.zeros((2, 2), np.float32)}
    clients = {
        node: training(lambda x, r, node=node: {k: v + np.float32(node) for k, v in x.items()}) for node in (1, 2, 3)
    }
    results = []
    for module, options in [(stock, {}), (ours, {"accumulation": accumulation, "reduction": "every"})]:
        wrapped = stock.DifferentialPrivacyServerSideFixedClipping(
            module.FedAvg(**options), noise_multiplier=0.0, clipping_norm=1.0, num_sampled_clients=3
        )
        results.append(arrays(wrapped.start(grid_of(clients), record(start), num_rounds=3).arrays))
    theirs, mine = results
    for key in start:
        np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-6)
    np.testing.assert_allclose(
        np.sqrt(sum(np.sum(x**2) for x in mine.values())), 3.0, rtol=1e-6
    )  # three steps of norm 1
    noisy = stock.DifferentialPrivacyServerSideFixedClipping(ours.FedAvgM(server_momentum=0.5), 1.0, 1.0, 3)
    assert np.isfinite(arrays(noisy.start(grid_of(clients), record(start), num_rounds=2).arrays)["w"]).all()


def test_the_pseudo_gradient_is_relative_to_what_was_sent(grid_of, training, record, arrays):
    """Something between two rounds moved the model (noise, projection): the next step starts from there."""
    grid = grid_of({node: training(lambda x, r: {k: v - 1 for k, v in x.items()}) for node in (1, 2)})
    strategy = ours.FedAvgM(server_learning_rate=0.5)
    for server_round, start in [(1, 0.0), (2, 50.0)]:
        sent = record({"w": np.full(3, start, np.float32)})
        replies = grid.send_and_receive(strategy.configure_train(server_round, sent, ConfigRecord(), grid))
        new, _ = strategy.aggregate_train(server_round, replies)
        np.testing.assert_array_equal(arrays(new)["w"], np.full(3, start - 0.5, np.float32))


def test_summary_shows_own_settings_and_changed_ones(caplog):
    with caplog.at_level("INFO", logger="flwr"):
        ours.FedAvgM(server_momentum=0.9, quorum=3).summary()
    assert "FedAvgM: server_learning_rate=1.0, server_momentum=0.9, form=heavy_ball" in caplog.text
    assert "Shared settings: quorum=3" in caplog.text
