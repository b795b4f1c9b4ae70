"""Single facts about single rules: exact bits, and the corners where rounding bites."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedmomentum import trees
from fedmomentum.optim import adam, heavy_ball, rmsprop, yogi
from fedmomentum.trees import Tree


def test_yogi_and_adam_correct_their_moments_alike() -> None:
    """After one step from s = 0 both have s = (1 - b2) g^2, so they take the same corrected step."""
    x = {"w": torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)}
    g = {"w": torch.tensor([0.2, -5.0, 1e-3], dtype=torch.float64)}
    ours = yogi(lr=0.1, eps=1e-3, initial_second_moment=0.0)
    torchs = adam(lr=0.1, eps=1e-3)
    a, _ = ours.update(g, ours.init(x), x)
    b, _ = torchs.update(g, torchs.init(x), x)
    for name in x:
        torch.testing.assert_close(a[name], b[name], rtol=1e-14, atol=0.0)


def test_heavy_ball_has_the_bits_of_numpy() -> None:
    """``old - lr * (beta * v + g)`` in float32, operation by operation: what a Flower server computes."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=1003).astype(np.float32)
    v = np.zeros_like(x)
    rule = heavy_ball(lr=0.3, momentum=0.97)
    ours: Tree = {"w": torch.from_numpy(x.copy())}
    state = rule.init(ours)
    for _ in range(30):
        g = rng.normal(size=x.size).astype(np.float32)
        v = 0.97 * v + g
        x = x - 0.3 * v
        updates, state = rule.update({"w": torch.from_numpy(g)}, state, ours)
        ours = trees.add(ours, updates)
        assert np.array_equal(ours["w"].numpy(), x)
        assert np.array_equal(state["velocity"]["w"].numpy(), v)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_centered_rmsprop_stays_finite_on_a_constant_gradient(momentum: float) -> None:
    """The variance of a constant is 0, which rounding must not turn into the root of a negative number."""
    rule = rmsprop(lr=1e-3, alpha=0.5, eps=1e-4, momentum=momentum, centered=True)
    x = {"w": torch.zeros(64)}
    g = {"w": torch.linspace(0.1, 3.0, 64)}
    state = rule.init(x)
    for _ in range(60):
        updates, state = rule.update(g, state, x)
        assert bool(torch.isfinite(updates["w"]).all())
