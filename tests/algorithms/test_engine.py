"""Every algorithm on the engine: the same whether clients train stacked or in turn, in blocks or message by message."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fedmomentum.clients.app import client_app
from fedmomentum.clients.library import available
from fedmomentum.clients.native import Native
from fedmomentum.clients.network import Network
from fedmomentum.clients.worker import Worker
from fedmomentum.simulation.executor import InlineExecutor
from fedmomentum.simulation.flower import to_arrays, to_record
from fedmomentum.simulation.foreign import AppGrid, AppWorker
from fedmomentum.simulation.grid import SimulationGrid
from fedmomentum.simulation.loop import run_rounds
from fedmomentum.strategies import UniformCohort, make_strategy
from tests.clients.federation import SIZES, federation, spec

SGD = {"name": "sgd", "lr": 0.1}
HEAVY_BALL = {"name": "heavy_ball", "lr": 0.1, "momentum": 0.5}
EMA = {"name": "ema", "lr": 0.3, "momentum": 0.5}
ADAM = {"name": "adam", "lr": 0.01}

ALGORITHMS = {
    "fedavg, uniform": (HEAVY_BALL, {"weighting": "uniform"}),
    "fedavgm, local adam": (ADAM, {"server_momentum": 0.5}),
    "fedadam, local lion": ({"name": "lion", "lr": 0.003}, {"eta": 0.01}),
    "fedprox": (HEAVY_BALL, {"proximal_mu": 0.5}),
    "slowmo": (SGD, {}),
    "fedgm": (SGD, {}),
    "fedexp": (HEAVY_BALL, {}),
    "scaffold": (SGD, {}),
    "scaffold, momentum": (HEAVY_BALL, {}),
    "scaffold, gradient": (ADAM, {"control": "gradient"}),
    "scaffold, examples": (SGD, {"weighting": "examples"}),
    "fedcm": (SGD, {"alpha": 0.3}),
    "mimelite": (EMA, {}),
    "mimelite, adam": (ADAM, {}),
    "mime": (EMA, {}),
    "mime, examples": (HEAVY_BALL, {"weighting": "examples"}),
    "feddyn": (SGD, {"alpha": 0.5}),
    "fednova": (HEAVY_BALL, {}),
    "fedadc": (SGD, {}),
    "fednag": ({"name": "nesterov", "lr": 0.1, "momentum": 0.5}, {}),
    "domo": (HEAVY_BALL, {}),
    "domo, spread": (HEAVY_BALL, {"spread": True}),
    "fedavg, sgld": ({"name": "sgld", "lr": 0.05, "temperature": 0.01}, {}),
    "fedprox, sghmc": ({"name": "sghmc", "lr": 0.02, "temperature": 0.01}, {"proximal_mu": 0.5}),
    "fedavgm, langevin": ({"name": "underdamped_langevin", "lr": 0.02, "temperature": 0.01}, {}),
    "fald": (SGD, {"temperature": 0.01, "correlation": 0.5, "examples": float(sum(SIZES))}),
    "fsgld": (SGD, {"temperature": 0.01, "examples": float(sum(SIZES))}),
    "dglmc": (SGD, {"temperature": 0.01, "tolerance": 0.1}),
    "qlsd": (SGD, {"temperature": 0.01, "keep": 0.3}),
    "qlsd, star": (SGD, {"temperature": 0.01, "keep": 0.3, "star": True, "refresh": 2}),
    "fedpa": (SGD, {"samples": 2}),
    "fedsghmc": (SGD, {"temperature": 0.01}),
    "fedsghmc, mean": (SGD, {"temperature": 0.01, "correction": "mean"}),
}
ROUNDS = 3


def both_halves(case, **settings):
    """Give a strategy and the spec of its clients, as the builder joins them."""
    optimizer, options = ALGORITHMS[case]
    name = case.split(",")[0]
    if name.startswith("mime"):
        hyper = {k: v for k, v in optimizer.items() if k != "name"}
        options = {**options, "rule": optimizer["name"], "rule_options": hyper}
    cohort = UniformCohort(count=4, seed=2)
    strategy = make_strategy(name, fraction_evaluate=0.0, cohort=cohort, **options)
    method = {"method": strategy.client_method, "method_options": strategy.client_options()}
    return strategy, spec(optimizer=optimizer, epochs=2, **method, **settings)


def start(wanted):
    return to_record({n: t.detach().numpy() for n, t in Network(wanted.model).tree().items()})


def simulate(case, *, data=None, make=Worker, executor=None, block_size=3, rounds=ROUNDS, **settings):
    strategy, wanted = both_halves(case, **settings)
    data = data or federation()
    own = executor or InlineExecutor(partial(make, wanted), data)
    grid = SimulationGrid(own, wanted, data.sizes, block_size=block_size)
    try:
        result = run_rounds(strategy, grid, start(wanted), rounds)
    finally:
        if executor is None:
            own.close()
    assert result.failures == []
    return result


def close(a, b, tolerance=2e-5):
    a, b = to_arrays(a.arrays), to_arrays(b.arrays)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance, err_msg=name)


class StackedOnly(Worker):
    """A worker that cannot fall back to the loop."""

    def __init__(self, *args):
        super().__init__(*args)
        assert self.stacked
        self._loop = None


COMPILED = {
    *(
        "fedavg, uniform",
        "fedprox",
        "slowmo",
        "fedgm",
        "fedexp",
        "scaffold",
        "scaffold, momentum",
        "scaffold, examples",
    ),
    *("fedcm", "feddyn", "fednova", "fedadc", "fedsghmc", "fedsghmc, mean"),
}
"""Whose rule is a heavy ball on the gradient, or on what is an affine function of it."""


@pytest.mark.parametrize("case", ALGORITHMS)
def test_stacked_and_in_turn_and_by_message(case, monkeypatch):
    stacked = simulate(case, make=StackedOnly, vectorize="on")
    in_turn = simulate(case, vectorize="off")
    close(stacked, in_turn)
    seen, run = [], Native._run
    monkeypatch.setattr(Native, "_run", lambda *args, **kwargs: (seen.append(1), run(*args, **kwargs))[1])
    close(simulate(case, make=StackedOnly, vectorize="on", native=available()), in_turn)
    assert bool(seen) == (available() and case in COMPILED)
    close(simulate(case, vectorize="off", block_size=1), in_turn, 1e-6)
    strategy, wanted = both_halves(case, vectorize="off")
    app = client_app(wanted, federation())
    grid = AppGrid(InlineExecutor(partial(AppWorker, app)), len(SIZES))
    close(run_rounds(strategy, grid, start(wanted), ROUNDS), in_turn, 1e-6)


@pytest.mark.parametrize(
    "case",
    [
        "scaffold",
        "mime",
        "fedcm",
        "feddyn",
        "fedexp",
        "fednag",
        "slowmo",
        "domo",
        "fsgld",
        "dglmc",
        "qlsd, star",
        "fedsghmc",
    ],
)
def test_a_run_goes_on_where_it_was_saved(case):
    data = federation()
    through = simulate(case, data=data, rounds=4)
    strategy, wanted = both_halves(case)
    grid = SimulationGrid(InlineExecutor(partial(Worker, wanted), data), wanted, data.sizes, block_size=3)
    first = run_rounds(strategy, grid, start(wanted), 2)
    saved, memory = strategy.state_dict(), grid.state_dict()
    strategy, wanted = both_halves(case)
    grid = SimulationGrid(InlineExecutor(partial(Worker, wanted), data), wanted, data.sizes, block_size=3)
    strategy.load_state_dict(saved)
    grid.load_state_dict(memory)
    second = run_rounds(strategy, grid, first.arrays, 4, first_round=3)
    for name, value in to_arrays(through.arrays).items():
        np.testing.assert_array_equal(value, to_arrays(second.arrays)[name])


BYTES = {
    "fedavg, uniform": (1, 1, 0),
    "fedprox": (1, 1, 0),
    "feddyn": (1, 1, 0),
    "fedexp": (1, 1, 8),
    "fednova": (1, 1, 8),
    "fedcm": (2, 1, 0),
    "fedadc": (2, 1, 0),
    "domo": (2, 1, 0),
    "scaffold": (2, 2, 0),
    "fednag": (2, 2, 0),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_of_a_round_count_what_travels_beside_the_model(case):
    """Models down, models up and further bytes up, a client."""
    down, up, more = BYTES[case]
    _, wanted = both_halves(case)
    model = sum(a.nbytes for a in to_arrays(start(wanted)).values())
    row = simulate(case, rounds=1).rows[-1]
    assert row["bytes_down"] == 4 * down * model
    assert row["bytes_up"] == 4 * (up * model + more)


def test_bytes_of_compressed_replies():
    """Up: a share of 0.3 of the coordinates, and a key of 8 bytes. A reference point: a model down, a gradient up, each
    of everyone."""
    _, wanted = both_halves("qlsd")
    tensors = to_arrays(start(wanted)).values()
    model, size = sum(a.nbytes for a in tensors), sum(a.size for a in tensors)
    reply = 4 * round(0.3 * size) + 8
    row = simulate("qlsd", rounds=1).rows[-1]
    assert (row["bytes_down"], row["bytes_up"]) == (4 * model, 4 * reply)
    row = simulate("qlsd, star", rounds=1).rows[-1]
    assert row["bytes_down"] == 6 * model + 4 * 2 * model
    assert row["bytes_up"] == 6 * model + 4 * reply


def test_bytes_of_samplers():
    """Numbers of clients: 16 bytes down. DG-LMC: whether a variable is new, 8 bytes up; FSGLD: down, too."""
    _, wanted = both_halves("fald")
    model = sum(a.nbytes for a in to_arrays(start(wanted)).values())
    for case, down, up in (
        ("fald", model + 16, model),
        ("dglmc", model + 16, model + 8),
        ("fsgld", 3 * model + 24, 3 * model + 8),
        ("fedsghmc", model, 2 * model),
        ("fedsghmc, mean", model, model + 8),
        ("fedpa", model, model),
    ):
        row = simulate(case, rounds=1).rows[-1]
        assert (row["bytes_down"], row["bytes_up"]) == (4 * down, 4 * up), case


def test_bytes_of_mimes_two_exchanges():
    """Down: the model; the model, the state (a velocity and a counter of 8 bytes) and c. Up: a gradient; a model."""
    _, wanted = both_halves("mime")
    model = sum(a.nbytes for a in to_arrays(start(wanted)).values())
    row = simulate("mime", rounds=1).rows[-1]
    assert row["bytes_down"] == 4 * (4 * model + 8)
    assert row["bytes_up"] == 4 * 2 * model


@pytest.mark.parametrize("vectorize", ["on", "off"])
def test_full_gradients_are_those_of_the_whole_loss(vectorize, monkeypatch):
    import torch
    from torch.nn import functional as F

    from tests.clients.federation import records, train_task

    for module in ("looped", "stacked"):
        monkeypatch.setattr(f"fedmomentum.clients.{module}.FULL_BATCH", 16)
    data, wanted = federation(), spec(vectorize=vectorize)
    result = Worker(wanted, data).run(replace(train_task(), kind="gradient"), records(wanted))
    for client, sent in zip(result.members["client"], result.each, strict=True):
        module = Network(wanted.model).module
        x, y = data.train_arrays(int(client))
        F.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        for name, p in module.named_parameters():
            np.testing.assert_allclose(sent["gradient"][name], p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "optimizer", "words"),
    [
        ("scaffold", ADAM, "linear rule"),
        ("fednova", ADAM, "linear rule"),
        ("fednag", SGD, "velocity"),
        ("fedporx", SGD, "did you mean 'fedprox'"),
    ],
)
def test_a_rule_that_does_not_suit_a_method_is_refused(method, optimizer, words):
    from fedmomentum.clients.methods import make_local
    from fedmomentum.errors import UserError
    from fedmomentum.optim import make_rule

    hyper = dict(optimizer)
    with pytest.raises(UserError, match=words):
        make_local(method, make_rule(hyper.pop("name"), **hyper))
