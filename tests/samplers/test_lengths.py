"""The length of a trajectory: a slope that is a derivative, a search that finds what it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from fedmomentum.samplers import run, window_adaptation
from fedmomentum.samplers.diagnostics import ess
from fedmomentum.samplers.lengths import COST, LEAST, MOST, ROUND, LengthSearch, chees_slope
from fedmomentum.samplers.targets import gaussian
from fedmomentum.streams import torch_stream

GENERATOR = torch_stream(0, "points")
Y, P = torch.randn(2, 500, 3, generator=GENERATOR, dtype=torch.float64)
SCALES = torch.tensor([1.0, 0.4, 2.0], dtype=torch.float64)


def end(time: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow three springs of unlike frequencies exactly."""
    angle = SCALES * time
    return Y * angle.cos() + P / SCALES * angle.sin(), P * angle.cos() - SCALES * Y * angle.sin()


def criterion(log_length: float, share: float, weights: torch.Tensor) -> float:
    length = np.exp(log_length)
    gain = end(share * length)[0].square().sum(-1) - Y.square().sum(-1)
    return float((weights * gain.square()).sum() / weights.sum() / (4 * length**COST))


def test_the_slope_is_the_derivative_of_the_criterion() -> None:
    """Against a central difference, with weights, for a trajectory that takes a share of the length."""
    weights = torch.rand(500, generator=GENERATOR, dtype=torch.float64)
    log, share, h = 0.4, 0.7, 1e-5
    y, p = end(share * np.exp(log))
    found = chees_slope(Y, y, p, weights, time=share * np.exp(log)) / np.exp(COST * log)
    up, down = criterion(log + h, share, weights), criterion(log - h, share, weights)
    assert found == pytest.approx((up - down) / (2 * h), rel=1e-6)
    y[0] = torch.nan  # a trajectory that exploded
    weights[0] = 0.0
    assert np.isfinite(chees_slope(Y, y, p, weights, time=1.0))
    assert np.isnan(chees_slope(Y, y, p, torch.zeros(500), time=1.0))


def test_the_search_climbs_and_keeps_what_it_settled_on() -> None:
    """On a hill with its top at ``log l = 1``, from either side; slopes that are no numbers change nothing."""
    for start in (-1.0, 2.5):
        search = LengthSearch(start)
        for t in range(400):
            search = search.update(1.0 - search.log_length, settled=t >= 200)
        assert search.total / search.summed == pytest.approx(1.0, abs=0.06)
        assert search.final(0.5) == np.ceil(np.exp(search.total / search.summed) / 0.5)
        assert search.update(float("nan")) == search
    assert LengthSearch(0.0).steps(1e-9) == MOST and LengthSearch(0.0).final(10.0) == 1


def test_round_targets_take_two_thirds_of_half_a_period() -> None:
    """``E g^2`` of a standard Gaussian, over the cost, is largest at :data:`ROUND`; and the warm-up finds that."""
    best = optimize.minimize_scalar(lambda t: -(1 - np.sin(2 * t) / (2 * t)) / t**COST, bounds=(1, 3)).x
    assert pytest.approx(best, abs=0.03) == ROUND
    root = torch.randn(6, 6, generator=torch_stream(1, "root"), dtype=torch.float64)
    target = gaussian(torch.ones(6), root @ root.T + 0.1 * torch.eye(6))
    start = {"x": torch.randn(24, 6, generator=torch_stream(2, "start"), dtype=torch.float64)}
    made = window_adaptation(target.field, start, seed=0, warmup=400, mass="dense", steps=None)
    step = float(made.step_size[0])
    assert 0.75 * ROUND < made.steps * step < 1.4 * ROUND + step
    draws = run(made.kernel, made.position, 150, seed=1)
    x = draws.samples["x"]
    for moments in (x, (x - 1.0).square()):  # 0.4 and more of independent draws, with means and with widths
        assert float(ess(moments).min()) > 0.25 * 24 * 150


def test_slow_directions_lengthen_the_trajectories() -> None:
    """Six coordinates correlated 0.98 under a diagonal mass: their sum is ``sqrt(1 + 5 x 0.98)`` times as slow."""
    covariance = torch.full((6, 6), 0.98, dtype=torch.float64) + 0.02 * torch.eye(6)
    target = gaussian(torch.zeros(6), covariance)
    start = {"x": torch.randn(24, 6, generator=torch_stream(2, "start"), dtype=torch.float64)}
    made = window_adaptation(target.field, start, seed=0, warmup=400, steps=None)
    slow = (1 + 5 * 0.98) ** 0.5
    assert made.steps * float(made.step_size[0]) / ROUND == pytest.approx(slow, rel=0.4)


def test_few_chains_cannot_find_a_length() -> None:
    target = gaussian(torch.zeros(2), torch.eye(2))
    for chains, pool in ((LEAST - 1, True), (LEAST, False)):
        start = {"x": torch.randn(chains, 2, generator=GENERATOR, dtype=torch.float64)}
        with pytest.raises(ValueError, match="give steps"):
            window_adaptation(target.field, start, seed=0, steps=None, pool=pool)
