"""Advice against problems whose best setting is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmomentum.advising import Findings, Setting, Side, advise, tuned
from fedmomentum.advising.advice import pulled
from fedmomentum.analogies import linear
from fedmomentum.optim.problems import FederatedQuadratic
from tests.algorithms.quadratics import descend

CURVATURES = torch.logspace(-1.5, 0.5, 6, dtype=torch.float64)
LR, STEPS = 0.1, 4


def quadratic_federation() -> FederatedQuadratic:
    """Five clients with one Hessian and their own optima; its spectrum, and so the server's, is known."""
    draw = torch.Generator().manual_seed(3)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64))
    hessian = turn @ torch.diag(CURVATURES) @ turn.T
    centres = torch.randn(5, 6, generator=draw, dtype=torch.float64)
    return FederatedQuadratic(hessian.expand(5, 6, 6), centres, torch.full((5,), 0.2, dtype=torch.float64))


def findings(**changes: float) -> Findings:
    top, flat = float(CURVATURES[-1]), float(CURVATURES[0])
    known = Findings("", top, top, top, top, flat, noise_ratio=math.nan, sampling_ratio=0.0, coherence=1.0)
    return replace(known, **changes)


def setting(**changes: object) -> Setting:
    client = Side("sgd", "heavy_ball", LR, 0.0, STEPS)
    server = Side("fedavgm", "heavy_ball", 1.0, 0.9, 10_000)
    return replace(Setting(client, server, STEPS, 20, 5, 5, 10_000), **changes)  # type: ignore[arg-type]


def recommended(lines: list) -> dict:  # type: ignore[type-arg]
    return {path: value for line in lines for path, value in line.recommended.items()}


def rate(lr: float, momentum: float, rounds: int = 60) -> float:
    """Distance from the optimum that is left after some rounds of the real strategy."""
    problem = quadratic_federation()
    path, _ = descend(
        "fedavgm",
        rounds=rounds,
        lr=LR,
        steps=STEPS,
        problem=problem,
        start=torch.zeros(6, dtype=torch.float64),
        server_learning_rate=lr,
        server_momentum=momentum,
    )
    return float((path[-1] - problem.centres.mean(0)).norm())


def test_the_servers_best_setting_on_quadratics() -> None:
    found = recommended(advise(setting(), findings(), margin=1.0))
    lr, beta = found["strategy.server_learning_rate"], found["strategy.server_momentum"]
    q = 1 - (1 - LR * CURVATURES.numpy()) ** STEPS  # theory of federated heavy ball: a = lr q
    roots = np.sqrt(q.max()), np.sqrt(q.min())
    assert lr == pytest.approx(4 / (roots[0] + roots[1]) ** 2, rel=1e-9)
    assert beta == pytest.approx(((roots[0] - roots[1]) / (roots[0] + roots[1])) ** 2, rel=1e-9)
    best = rate(lr, beta)
    for others in ((lr, beta * 0.85), (lr * 0.8, beta), (lr * 0.8, beta * 0.9), (1.0, 0.9), (1.0, 0.0)):
        assert rate(*others) > 1.5 * best
    assert not rate(lr * 1.15, beta) < best


def test_the_clients_best_setting_on_quadratics() -> None:
    client = Side("heavy_ball", "heavy_ball", 0.01, 0.9, 10_000)
    found = recommended(advise(setting(client=client), findings(), margin=1.0))
    lr, beta = found["client.optimizer.lr"], found["client.optimizer.momentum"]

    def slowest(lr: float, beta: float) -> float:
        return max(linear.radius("heavy_ball", lr * float(h), beta) for h in CURVATURES)

    for factor in (0.9, 1.1):
        assert slowest(lr, beta) < slowest(lr * factor, beta) and slowest(lr, beta) < slowest(lr, beta * factor)


@pytest.mark.parametrize("form", linear.FORMS)
@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
def test_what_is_recommended_is_stable_by_its_margin(form: linear.Form, margin: float) -> None:
    for horizon in (1, 5, 1000):
        lr, beta = tuned(form, sharpest=7.0, flattest=0.01, horizon=horizon, margin=margin)
        assert 0 <= beta < 1
        assert lr * 7.0 <= margin * linear.stability_limit(form, beta) * (1 + 1e-9)


def test_time_noise_and_forms() -> None:
    free = tuned("heavy_ball", sharpest=4.0, flattest=0.001, horizon=1e9)
    short = tuned("heavy_ball", sharpest=4.0, flattest=0.001, horizon=5)
    once = tuned("heavy_ball", sharpest=4.0, flattest=0.001, horizon=1)
    assert free[1] > short[1] > once[1] == 0.0
    assert short[1] == pytest.approx((1 - 1 / 5) ** 2)  # remembers five steps and no more
    noisy = tuned("heavy_ball", sharpest=4.0, flattest=0.001, horizon=1e9, noise=3.0)
    assert noisy[0] == pytest.approx(free[0] / 4, rel=1e-6)
    assert noisy[0] / (1 - noisy[1]) < free[0] / (1 - free[1])
    lr, beta = tuned("ema", sharpest=4.0, flattest=0.001, horizon=1e9)
    assert (lr * (1 - beta), beta) == pytest.approx(free)  # the same motion in the other form
    with pytest.raises(ValueError, match="flattest <= sharpest"):
        tuned("ema", sharpest=1.0, flattest=2.0, horizon=1)


def test_pull_is_that_of_gradient_descent() -> None:
    assert pulled("heavy_ball", 0.1, 0.0, 2.0, 7) == pytest.approx(1 - 0.8**7)


def test_standing_is_told_in_words() -> None:
    client = Side("heavy_ball", "heavy_ball", 0.01, 0.9, 50)
    words = " ".join(line.text for line in advise(setting(client=client), findings()))
    assert "underdamped: zeta" in words and "rings with period" in words and "condition number 100" in words
    wild = Side("heavy_ball", "heavy_ball", 5.0, 0.9, 50)
    lines = advise(setting(client=wild), findings())
    assert "unstable: it grows" in " ".join(line.text for line in lines)
    assert "mend the clients first" in " ".join(line.text for line in lines)
    assert "strategy.server_momentum" not in recommended(lines) and "client.optimizer.lr" in recommended(lines)


def test_no_advice_for_rules_that_are_no_springs() -> None:
    lines = advise(setting(client=Side("adam", None, 0.01, 0.0, 4)), findings())
    assert recommended(lines) == {} and "'adam' is no spring" in " ".join(f"{line.text}" for line in lines)
    adaptive = advise(setting(server=Side("fedadam", None, 1.0, 0.0, 60)), findings())
    assert recommended(adaptive)["strategy.name"] == "fedavgm"


def test_sampling_noise_shortens_the_servers_step() -> None:
    alone, crowd = (
        recommended(advise(setting(), findings(sampling_ratio=r)))["strategy.server_learning_rate"] for r in (0.0, 1.0)
    )
    assert crowd == pytest.approx(alone / 2, rel=1e-6)
