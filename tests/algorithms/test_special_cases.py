"""Where two algorithms have to be one: the special cases that their papers state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedmomentum.strategies import SlowMo

from .quadratics import PROBLEM, START, QuadraticGrid, descend

MOMENTUM = {"rule": "heavy_ball", "momentum": 0.5}

CASES = {
    "SlowMo is FedAvgM": (
        ("slowmo", {"slow_learning_rate": 0.8, "slow_momentum": 0.6}),
        ("fedavgm", {"server_learning_rate": 0.8, "server_momentum": 0.6}),
    ),
    "FedGM without its momentum is FedAvg": (("fedgm", {"nu": 0.0}), ("fedavg", {})),
    "FedGM of momentum alone is averaged FedAvgM": (
        ("fedgm", {"nu": 1.0, "server_momentum": 0.6}),
        ("fedavgm", {"form": "ema", "server_momentum": 0.6}),
    ),
    "FedGM with nu = beta is Nesterov": (
        ("fedgm", {"nu": 0.6, "server_momentum": 0.6, "server_learning_rate": 2.0}),
        ("fedavgm", {"form": "nesterov", "server_momentum": 0.6, "server_learning_rate": 2.0 * (1 - 0.6)}),
    ),
    "FedProx with mu = 0 is FedAvg": (("fedprox", {"proximal_mu": 0.0}), ("fedavg", {})),
    "FedCM with alpha = 1 is FedAvg": (("fedcm", {"alpha": 1.0}), ("fedavg", {})),
    "FedADC without local momentum is FedAvgM": (
        ("fedadc", {"server_momentum": 0.6, "local_momentum": 0.0}),
        ("fedavgm", {"server_momentum": 0.6}),
    ),
    "DOMO without fusion is FedAvgM over clients with momentum": (
        ("domo", {"fusion": 0.0, "server_momentum": 0.6, **MOMENTUM}),
        ("fedavgm", {"server_momentum": 0.6, **MOMENTUM}),
    ),
    "FedNova with equal steps is FedAvg": (("fednova", MOMENTUM), ("fedavg", MOMENTUM)),
    "FedExP with a large epsilon is FedAvg": (("fedexp", {"epsilon": 1e9}), ("fedavg", {})),
    "MimeLite without state is FedAvg": (("mimelite", {}), ("fedavg", {})),
    "FedNAG without momentum is FedAvg": (("fednag", {"rule": "nesterov", "momentum": 0.0}), ("fedavg", {})),
}


@pytest.mark.parametrize("case", CASES)
def test_coincide(case):
    (one, options), (other, like) = CASES[case]
    found, expected = descend(one, rounds=8, **options)[0], descend(other, rounds=8, **like)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("one", "options", "other", "like"),
    [
        ("slowmo", {"slow_momentum": 0.6}, "slowmo", {"slow_momentum": 0.0}),
        ("fedgm", {"nu": 0.5}, "fedgm", {"nu": 0.0}),
        ("fedprox", {"proximal_mu": 1.0}, "fedavg", {}),
        ("fedadc", {"local_momentum": 0.3}, "fedadc", {"local_momentum": 0.0}),
        ("domo", {"fusion": 0.5}, "domo", {"fusion": 0.0}),
        ("domo", {"fusion": 0.5}, "domo", {"fusion": 0.5, "spread": True}),
        ("fednag", {"rule": "nesterov", "momentum": 0.5}, "fedavg", {"rule": "nesterov", "momentum": 0.5}),
        ("scaffold", {}, "fedavg", {}),
        ("mime", {}, "mimelite", {}),
    ],
)
def test_options_do_something(one, options, other, like):
    found, expected = descend(one, rounds=3, **options)[0], descend(other, rounds=3, **like)[0]
    assert (found[-1] - expected[-1]).abs().max() > 1e-4


def test_feddyn_tends_to_uncorrected_steps_as_alpha_grows_small_at_first():
    """Nobody has kept anything in the first round: clients descend their own loss, and ``h/alpha`` doubles the way."""
    first = descend("feddyn", rounds=1, alpha=1e-9)[0][0]
    plain = descend("fedavg", rounds=1)[0][0]
    np.testing.assert_allclose(first - START, 2 * (plain - START), rtol=1e-6)


def test_feddyn_with_local_problems_solved_is_exact():
    """With enough local steps ``y_i`` solves ``(A_i + alpha) y = A_i b_i + g_i + alpha x``, as in the paper."""
    alpha, x = 2.0, START
    n = len(x)
    h, g = torch.zeros(n, dtype=torch.float64), torch.zeros(10, n, dtype=torch.float64)
    path, _ = descend("feddyn", rounds=4, steps=600, lr=0.08, alpha=alpha)
    held = PROBLEM.hessians + alpha * torch.eye(n, dtype=torch.float64)
    pull = (PROBLEM.hessians @ PROBLEM.centres.unsqueeze(-1)).squeeze(-1)
    for found in path:
        y = torch.linalg.solve(held, pull + g + alpha * x)
        g = g - alpha * (y - x)
        h = h - alpha * (y - x).mean(0)
        x = y.mean(0) - h / alpha
        np.testing.assert_allclose(found, x, rtol=1e-10, atol=1e-11)


def test_the_slow_momentum_is_in_units_of_gradients_where_the_learning_rate_falls():
    """``u`` of the first round, at learning rate 0.1, moves the model by ``0.01 beta u`` in the second, at 0.01."""
    strategy = SlowMo(slow_momentum=0.5, fraction_evaluate=0.0)
    x, arrays, u = START, ArrayRecord({"x": Array(START.numpy())}), 0.0
    for server_round, lr in ((1, 0.1), (2, 0.01)):
        grid = QuadraticGrid("local_sgd", {}, rule="sgd", lr=lr, steps=1)
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        u = 0.5 * u + PROBLEM.gradient(x)
        x = x - lr * u
        np.testing.assert_allclose(arrays["x"].numpy(), x, rtol=1e-12)
