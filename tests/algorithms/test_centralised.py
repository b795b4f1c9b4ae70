"""One local step and every client: each algorithm equals its centralised counterpart, step by step.

The counterparts are written out on the gradient of the mean loss, and share no code with the algorithms.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .quadratics import PROBLEM, START, descend

LR, ROUNDS = 0.05, 12
gradient = PROBLEM.gradient


def descent(x, s):
    return x - LR * gradient(x), s


def heavy_ball(beta, eta=1.0):
    def step(x, v):
        v = beta * v + gradient(x)
        return x - eta * LR * v, v

    return step


def nesterov(beta):
    def step(x, v):
        g = gradient(x)
        v = beta * v + g
        return x - LR * (g + beta * v), v

    return step


def averaged(beta, eta=1.0):
    def step(x, v):
        v = beta * v + (1 - beta) * gradient(x)
        return x - eta * LR * v, v

    return step


def quasi_hyperbolic(beta, nu, eta):
    def step(x, d):
        g = gradient(x)
        d = beta * d + (1 - beta) * g
        return x - eta * LR * ((1 - nu) * g + nu * d), d

    return step


def looking_ahead(beta):
    def step(x, m):
        m = beta * m + gradient(x - beta * LR * m)
        return x - LR * m, m

    return step


def dynamic(alpha):
    def step(x, h):
        way = -LR * (gradient(x) - h)
        h = h - alpha * way
        return x + way - h / alpha, h

    return step


def adam(beta1, beta2, eps=1e-8):
    def step(x, state):
        m, v, t = state if isinstance(state, tuple) else (0.0, 0.0, 0)
        g, t = gradient(x), t + 1
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        return x - LR * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps), (m, v, t)

    return step


EMA = {"rule": "ema", "momentum": 0.9}
TABLE = {
    "fedavg": ("fedavg", {}, descent),
    "fedprox": ("fedprox", {"proximal_mu": 3.0}, descent),
    "slowmo": ("slowmo", {"slow_momentum": 0.7, "slow_learning_rate": 0.8}, heavy_ball(0.7, 0.8)),
    "fedgm": (
        "fedgm",
        {"server_momentum": 0.9, "nu": 0.4, "server_learning_rate": 1.3},
        quasi_hyperbolic(0.9, 0.4, 1.3),
    ),
    "scaffold": ("scaffold", {}, descent),
    "scaffold by gradients": ("scaffold", {"control": "gradient"}, descent),
    "fedcm": ("fedcm", {"alpha": 0.2, "server_learning_rate": 1.0}, averaged(0.8)),
    "mimelite": ("mimelite", EMA, averaged(0.9)),
    "mime": ("mime", {**EMA, "server_learning_rate": 1.0}, averaged(0.9)),
    "mime with the heavy ball": ("mime", {"rule": "heavy_ball", "momentum": 0.7}, heavy_ball(0.7)),
    "mime with Nesterov": ("mime", {"rule": "nesterov", "momentum": 0.7}, nesterov(0.7)),
    "mime with Adam": ("mime", {"rule": "adam"}, adam(0.9, 0.999)),
    "feddyn": ("feddyn", {"alpha": 5.0}, dynamic(5.0)),
    "fednova": ("fednova", {}, descent),
    "fedadc": ("fedadc", {"server_momentum": 0.8, "local_momentum": 0.3}, heavy_ball(0.8)),
    "fednag": ("fednag", {"rule": "nesterov", "momentum": 0.8}, nesterov(0.8)),
    "domo": ("domo", {"server_momentum": 0.8, "fusion": 0.8}, looking_ahead(0.8)),
    "domo spread": ("domo", {"server_momentum": 0.8, "fusion": 0.8, "spread": True}, heavy_ball(0.8)),
}


@pytest.mark.parametrize("case", TABLE)
def test_equals_its_centralised_counterpart_step_by_step(case):
    name, options, step = TABLE[case]
    path, _ = descend(name, rounds=ROUNDS, lr=LR, steps=1, **options)
    x, state = START, torch.zeros_like(START)
    for found in path:
        x, state = step(x, state)
        np.testing.assert_allclose(found, x, rtol=1e-11, atol=1e-12)
    assert (x - START).norm() > 0.1


def test_fedexp_with_one_step():
    """``eta = max(1, mean |g_i|^2 / (2 (|mean g_i|^2 + eps / lr^2)))``: first 1, later more."""
    path, strategy = descend("fedexp", rounds=ROUNDS, lr=LR, steps=1, epsilon=1e-2)
    x, sizes = START, []
    for found in path:
        each = PROBLEM.client_gradients(x.expand(10, -1)) * LR
        mean = each.mean(0)
        sizes.append(max(1.0, float(each.square().sum(1).mean() / (2 * (mean.square().sum() + 1e-2)))))
        x = x - sizes[-1] * mean
        np.testing.assert_allclose(found, x, rtol=1e-11, atol=1e-12)
    assert sizes[0] == 1.0 and max(sizes) > 2.0
    assert strategy.step_size == pytest.approx(sizes[-1])
