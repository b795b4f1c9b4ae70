"""Halves with what is not ours around them: Flower's privacy wrappers and mods, and the other half from elsewhere."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, arrays_size_mod, fixedclipping_mod
from flwr.serverapp import strategy as stock

import fedmomentum.strategies as ours
from fedmomentum.clients.app import client_app
from fedmomentum.clients.network import Network
from fedmomentum.simulation.executor import InlineExecutor
from fedmomentum.simulation.flower import to_arrays, to_record
from fedmomentum.simulation.foreign import AppGrid, AppWorker
from fedmomentum.simulation.loop import run_rounds
from tests.algorithms.quadratics import CLIENTS, PROBLEM, START
from tests.algorithms.test_partial_participation import COHORT, LR, ROUNDS, STEPS, scaffold
from tests.clients.federation import SIZES, federation, spec


def start(wanted):
    return to_record({n: t.detach().numpy() for n, t in Network(wanted.model).tree().items()})


def run(strategy, app, arrays, *, nodes=6, rounds=3):
    return run_rounds(strategy, AppGrid(InlineExecutor(partial(AppWorker, app)), nodes), arrays, rounds)


def test_flowers_clipping_on_clients_is_our_clipping_on_the_server():
    wanted, data = spec(), federation()
    app = client_app(wanted, data, mods=[arrays_size_mod, fixedclipping_mod])
    inner = ours.FedAvgM(server_momentum=0.9, fraction_evaluate=0.0, reduction="every")
    wrapped = stock.DifferentialPrivacyClientSideFixedClipping(inner, 0.0, 0.05, num_sampled_clients=len(SIZES))
    theirs = run(wrapped, app, start(wanted))
    mine = run(
        ours.FedAvgM(server_momentum=0.9, fraction_evaluate=0.0, clip_update=0.05),
        client_app(wanted, data),
        start(wanted),
    )
    unclipped = run(ours.FedAvgM(server_momentum=0.9, fraction_evaluate=0.0), client_app(wanted, data), start(wanted))
    for name, value in to_arrays(mine.arrays).items():
        np.testing.assert_allclose(to_arrays(theirs.arrays)[name], value, rtol=1e-4, atol=1e-6)
    assert any(np.abs(x - to_arrays(mine.arrays)[name]).max() > 1e-3 for name, x in to_arrays(unclipped.arrays).items())


@pytest.mark.parametrize(
    ("wrap", "mods"),
    [
        (
            partial(
                stock.DifferentialPrivacyClientSideAdaptiveClipping,
                noise_multiplier=0.1,
                num_sampled_clients=len(SIZES),
            ),
            [adaptiveclipping_mod],
        ),
        (
            partial(
                stock.DifferentialPrivacyServerSideAdaptiveClipping,
                noise_multiplier=0.1,
                num_sampled_clients=len(SIZES),
            ),
            [],
        ),
        (lambda strategy: strategy, [LocalDpMod(clipping_norm=1.0, sensitivity=1e-3, epsilon=10.0, delta=1e-5)]),
    ],
    ids=["adaptive clipping on clients", "adaptive clipping on the server", "local noise"],
)
def test_every_reply_comes_through_flowers_wrappers_and_mods(wrap, mods):
    wanted = spec()
    inner = ours.FedAvgM(server_momentum=0.5, fraction_evaluate=0.0, reduction="every")
    result = run(wrap(inner), client_app(wanted, federation(), mods=mods), start(wanted), rounds=2)
    assert result.failures == [] and inner.rejected == [] and inner.accepted == len(SIZES)
    before, after = to_arrays(start(wanted)), to_arrays(result.arrays)
    assert all(np.isfinite(after[name]).all() and (after[name] != before[name]).any() for name in after)


def test_our_client_half_under_flowers_own_strategy_keeps_its_state():
    """FedDyn's clients need nothing of the server but the model: under Flower's FedAvg they remember all the same."""
    wanted, data = spec(method="feddyn", method_options={"alpha": 0.5}), federation()
    plain = {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0}

    def after(rounds):
        grid = AppGrid(InlineExecutor(partial(AppWorker, client_app(wanted, data))), len(SIZES))
        result = stock.FedAvg(**plain).start(grid, start(wanted), num_rounds=rounds)
        return result, grid

    result, grid = after(2)
    kept = grid._context(0).state.array_records
    assert [name for name in kept if "control" in name]
    uniform = run(ours.FedAvg(fraction_evaluate=0.0), client_app(wanted, data), start(wanted), rounds=2)
    for name, value in to_arrays(result.arrays).items():
        np.testing.assert_allclose(value, to_arrays(uniform.arrays)[name], rtol=1e-4, atol=1e-6)


def by_hand():
    """A Flower app that has never heard of this package: SCAFFOLD's client, for one quadratic a node."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        node = context.node_config["partition-id"]
        hessian, centre = PROBLEM.hessians[node].numpy(), PROBLEM.centres[node].numpy()
        x, c = (message.content[name]["x"].numpy() for name in ("arrays", "control"))
        own = context.state["own"]["x"].numpy() if "own" in context.state else np.zeros_like(x)
        y = x
        for _ in range(STEPS):
            y = y - LR * (hessian @ (y - centre) - own + c)
        new = own - c + (x - y) / (STEPS * LR)
        context.state["own"] = ArrayRecord({"x": Array(new)})
        reply = {"arrays": {"x": Array(y)}, "control": {"x": Array(new - own)}}
        content = RecordDict({name: ArrayRecord(arrays) for name, arrays in reply.items()})
        content["metrics"] = MetricRecord({"num-examples": 1.0})
        return Message(content, reply_to=message)

    return app


def test_our_server_half_over_clients_written_by_hand():
    """What travels are named records: a plain Flower app takes part in SCAFFOLD, to the paper's lines."""
    strategy = ours.Scaffold(server_learning_rate=0.8, cohort=COHORT, fraction_evaluate=0.0)
    arrays = ArrayRecord({"x": Array(START.numpy())})
    *_, expected = scaffold()
    found = run(strategy, by_hand(), arrays, nodes=CLIENTS, rounds=ROUNDS)
    assert found.failures == []
    np.testing.assert_allclose(to_arrays(found.arrays)["x"], expected, rtol=1e-11, atol=1e-12)
