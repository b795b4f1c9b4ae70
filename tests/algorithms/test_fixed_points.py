"""Where each algorithm ends on ten unlike quadratics, against the linear equations that say where it must."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmomentum.strategies import UniformCohort

from .quadratics import CLIENTS, DIMENSION, PROBLEM, START, descend

LR, STEPS = 0.05, 10
EYE = torch.eye(DIMENSION, dtype=torch.float64)


def bias(name, *, rounds=300, **options):
    path, _ = descend(name, rounds=rounds, lr=LR, steps=options.pop("steps", STEPS), **options)
    assert torch.allclose(path[-1], path[-2], atol=1e-12, rtol=0)
    return path[-1] - PROBLEM.optimum


FEDAVG_BIAS = PROBLEM.fedavg_fixed_point(lr=LR, steps=STEPS) - PROBLEM.optimum

SAME_AS_FEDAVG = {
    "fedavg": {},
    "fedavgm": {"server_momentum": 0.5},
    "nesterov": {"name": "fedavgm", "server_momentum": 0.5, "form": "nesterov"},
    "slowmo": {"slow_momentum": 0.5, "slow_learning_rate": 0.7},
    "fedgm": {"server_momentum": 0.5, "nu": 0.7},
    "fedadc": {"server_momentum": 0.5, "local_momentum": 0.3},
    "fednova": {},
    "domo": {"server_momentum": 0.5, "fusion": 0.4},
    "domo spread": {"name": "domo", "server_momentum": 0.5, "fusion": 0.4, "spread": True},
}


@pytest.mark.parametrize("case", SAME_AS_FEDAVG)
def test_server_momentum_does_not_move_the_fixed_point_of_federated_averaging(case):
    options = dict(SAME_AS_FEDAVG[case])
    found = bias(options.pop("name", case), **options)
    assert FEDAVG_BIAS.norm() > 0.05
    np.testing.assert_allclose(found, FEDAVG_BIAS, atol=1e-11)


UNBIASED = {
    "scaffold": {},
    "scaffold by gradients": {"name": "scaffold", "control": "gradient"},
    "scaffold with momentum": {"name": "scaffold", "rule": "heavy_ball", "momentum": 0.5},
    "feddyn": {"alpha": 2.0},
    "mime": {"rule": "ema", "momentum": 0.5},
}


@pytest.mark.parametrize("case", UNBIASED)
def test_no_bias(case):
    options = dict(UNBIASED[case])
    name = options.pop("name", case)
    assert bias(name, rounds=600, **options).norm() < 1e-12


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_no_bias_under_partial_participation(name):
    options = {"feddyn": {"alpha": 2.0}}.get(name, {})
    found = bias(name, rounds=1500, steps=3, cohort=UniformCohort(count=5, seed=1), **options)
    assert found.norm() < 1e-11


def test_fedcm_ends_where_federated_averaging_with_alpha_times_the_learning_rate_does():
    """There ``Delta`` is zero, so the local steps are those of gradient descent scaled by alpha."""
    expected = PROBLEM.fedavg_fixed_point(lr=0.1 * LR, steps=STEPS) - PROBLEM.optimum
    found = bias("fedcm", alpha=0.1, rounds=800)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert found.norm() < FEDAVG_BIAS.norm() / 5


def test_mimelite_ends_where_its_linear_equation_says():
    """``sum_i (I - M_i^K)(x - b_i) + lr beta S_i m = 0`` with ``m`` the mean gradient at ``x``."""
    beta, lhs, rhs = 0.9, 0.0, 0.0
    mean_hessian = PROBLEM.hessians.mean(0)
    mean_pull = (PROBLEM.hessians @ PROBLEM.centres.unsqueeze(-1)).squeeze(-1).mean(0)
    for hessian, centre in zip(PROBLEM.hessians, PROBLEM.centres, strict=True):
        m = EYE - LR * (1 - beta) * hessian
        powers = [torch.linalg.matrix_power(m, j) for j in range(STEPS + 1)]
        drift, push = EYE - powers[STEPS], LR * beta * sum(powers[:STEPS])
        lhs = lhs + drift + push @ mean_hessian
        rhs = rhs + drift @ centre + push @ mean_pull
    expected = torch.linalg.solve(lhs, rhs) - PROBLEM.optimum
    found = bias("mimelite", rule="ema", momentum=beta, rounds=800)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert 0 < found.norm() < FEDAVG_BIAS.norm() / 50


@pytest.mark.parametrize("mu", [0.5, 5.0])
def test_fedprox_ends_where_its_linear_equation_says(mu):
    """``sum_i (I - M_i^K)(A_i + mu)^-1 A_i (x - b_i) = 0`` with ``M_i = I - lr (A_i + mu)``."""
    lhs, rhs = 0.0, 0.0
    for hessian, centre in zip(PROBLEM.hessians, PROBLEM.centres, strict=True):
        held = hessian + mu * EYE
        q = (EYE - torch.linalg.matrix_power(EYE - LR * held, STEPS)) @ torch.linalg.solve(held, hessian)
        lhs, rhs = lhs + q, rhs + q @ centre
    expected = torch.linalg.solve(lhs, rhs) - PROBLEM.optimum
    found = bias("fedprox", proximal_mu=mu)
    np.testing.assert_allclose(found, expected, atol=1e-11)
    assert found.norm() < FEDAVG_BIAS.norm()


UNEVEN = [1 + 3 * (i % 4) for i in range(CLIENTS)]


def heavy_ball_displacement(hessian, *, lr, momentum, steps, nesterov):
    """Give ``T`` with ``x - y = T (x - b)`` after so many steps of momentum, by powers of the companion matrix."""
    n = len(hessian)
    eye, zero = torch.eye(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    velocity = torch.cat([hessian, momentum * eye], 1)  # v <- A e + momentum v
    step = momentum * velocity + torch.cat([hessian, zero], 1) if nesterov else velocity
    away = torch.cat([eye, zero], 1) - lr * step
    return eye - torch.linalg.matrix_power(torch.cat([away, velocity]), steps)[:n, :n]


@pytest.mark.parametrize(("rule", "momentum"), [("sgd", 0.0), ("heavy_ball", 0.6), ("nesterov", 0.6)])
def test_fednova_takes_the_normalised_step(rule, momentum):
    """Clients take 1, 4, 7 or 10 steps; the normalisers are those of the paper in closed form."""
    b, x = momentum, START
    nesterov = rule == "nesterov"

    def normaliser(k):
        if nesterov:  # one more look ahead: b times the heavy ball's last velocity, and the gradient itself
            return sum(b * (1 - b ** (j + 1)) / (1 - b) + 1 for j in range(k))
        return (k - b * (1 - b**k) / (1 - b)) / (1 - b)

    a = [normaliser(k) for k in UNEVEN]
    moves = [
        heavy_ball_displacement(h, lr=LR, momentum=b, steps=k, nesterov=nesterov)
        for h, k in zip(PROBLEM.hessians, UNEVEN, strict=True)
    ]
    path, _ = descend("fednova", rounds=4, lr=LR, steps=UNEVEN, rule=rule, momentum=b or None, server_learning_rate=0.9)
    for found in path:
        steps = [t @ (x - c) / scale for t, c, scale in zip(moves, PROBLEM.centres, a, strict=True)]
        x = x - 0.9 * sum(a) / CLIENTS * sum(steps) / CLIENTS
        np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-13)


def test_fednova_is_consistent_where_clients_take_unequal_steps():
    """As the learning rate falls the bias of its fixed point vanishes in proportion; that of FedAvg stays."""
    moves = {
        lr: torch.stack(
            [EYE - torch.linalg.matrix_power(EYE - lr * h, k) for h, k in zip(PROBLEM.hessians, UNEVEN, strict=True)]
        )
        for lr in (LR, 1e-4)
    }
    nova = PROBLEM._balance(moves[LR] / torch.tensor(UNEVEN)[:, None, None])
    path, _ = descend("fednova", rounds=200, lr=LR, steps=UNEVEN)
    np.testing.assert_allclose(path[-1], nova, atol=1e-11)
    slow_nova = PROBLEM._balance(moves[1e-4] / torch.tensor(UNEVEN)[:, None, None])
    slow_avg = PROBLEM._balance(moves[1e-4])
    assert (slow_nova - PROBLEM.optimum).norm() < 0.005 * (slow_avg - PROBLEM.optimum).norm()
