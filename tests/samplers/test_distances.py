"""Distances against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from fedmomentum.samplers.distances import (
    gaussian_wasserstein,
    sliced_wasserstein,
    wasserstein_1d,
    wasserstein_to_gaussian,
)
from fedmomentum.streams import stream


def draws(n: int, p: int = 3, name: str = "a") -> torch.Tensor:
    return torch.from_numpy(stream(0, name).standard_normal((n, p)))


def test_gaussians_in_one_dimension_and_along_axes() -> None:
    """``sqrt(|m_a - m_b|^2 + sum (s_a - s_b)^2)`` when the covariances commute."""
    a, b = torch.diag(torch.tensor([4.0, 9.0])), torch.diag(torch.tensor([1.0, 16.0]))
    found = gaussian_wasserstein(torch.tensor([1.0, 0.0]), a, torch.tensor([0.0, 2.0]), b)
    assert found == pytest.approx((1 + 4 + 1 + 1) ** 0.5, rel=1e-12)


def test_gaussians_that_do_not_commute() -> None:
    """Against the optimal map ``T = A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2``: it pushes A to B and moves ``E|x - Tx|^2``."""
    f, g = draws(3, name="f").numpy(), draws(3, name="g").numpy()
    a, b = f @ f.T + np.eye(3), g @ g.T + np.eye(3)
    half = np.real(linalg.sqrtm(a))
    inverse = np.linalg.inv(half)
    transport = inverse @ np.real(linalg.sqrtm(half @ b @ half)) @ inverse
    np.testing.assert_allclose(transport @ a @ transport.T, b, rtol=1e-8)
    moved = np.eye(3) - transport
    zero = torch.zeros(3)
    found = gaussian_wasserstein(zero, torch.from_numpy(a), zero, torch.from_numpy(b))
    assert found == pytest.approx(np.trace(moved @ a @ moved.T) ** 0.5, rel=1e-8)
    back = gaussian_wasserstein(zero, torch.from_numpy(b), zero, torch.from_numpy(a))
    assert back == pytest.approx(found, rel=1e-8)
    assert gaussian_wasserstein(zero, torch.from_numpy(a), zero, torch.from_numpy(a)) == pytest.approx(0.0, abs=1e-6)


def test_draws_against_a_gaussian() -> None:
    x = draws(100000)
    assert wasserstein_to_gaussian(x, torch.zeros(3), torch.eye(3)) < 0.02
    assert wasserstein_to_gaussian(2 * x + 1, torch.zeros(3), torch.eye(3)) == pytest.approx(6**0.5, rel=0.01)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (40, 60), (7, 100), (1, 5)])
def test_one_dimension_against_scipy(n: int, m: int) -> None:
    a, b = draws(n, 4), 1.5 * draws(m, 4, "b") + 0.3
    found = wasserstein_1d(a, b, order=1.0)
    wanted = [stats.wasserstein_distance(a[:, i].numpy(), b[:, i].numpy()) for i in range(4)]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10)


def test_one_dimension_of_second_order() -> None:
    """A shift by d is d apart; equal numbers of draws pair up in order, unequal ones as if each were repeated."""
    a, b = draws(60, 1)[:, 0], draws(40, 1, "b")[:, 0]
    assert float(wasserstein_1d(a, a + 0.7)) == pytest.approx(0.7, rel=1e-12)
    paired = (a.repeat_interleave(2).sort().values - b.repeat_interleave(3).sort().values).square().mean() ** 0.5
    assert float(wasserstein_1d(a, b)) == pytest.approx(float(paired), rel=1e-12)


def test_slices() -> None:
    """A shift by d is ``|u.d|`` apart along u: ``|d| / sqrt(P)`` in root mean square. One law is near itself."""
    a, shift = draws(500), torch.tensor([1.0, -2.0, 2.0]).double()
    assert sliced_wasserstein(a, a + shift, directions=4000) == pytest.approx(3 / 3**0.5, rel=0.03)
    assert sliced_wasserstein(a, draws(500, name="b")) < 0.15
    assert sliced_wasserstein(a, 1.5 * draws(700, name="b")) > 0.4
