"""Federated algorithms on quadratic losses as linear chains: their diagonal case is the papers', a simulation obeys them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from fedmomentum.samplers import federated as papers
from fedmomentum.samplers import federated_laws as laws
from fedmomentum.samplers.linear_chain import LinearChain
from fedmomentum.samplers.quadratics import Quadratics
from fedmomentum.streams import stream

H = np.array([[0.5, 2.0], [1.0, 0.3], [2.5, 1.2]])
B = np.array([[1.0, -1.0], [-2.0, 0.5], [0.3, 2.0]])
SHARES = np.array([0.5, 0.3, 0.2])
EVEN = np.full(3, 1 / 3)
HEAT = 0.7


def diagonal(shares: np.ndarray = SHARES) -> Quadratics:
    return Quadratics(np.stack([np.diag(h) for h in H]), H * B, shares * 100)


def turned(of: Quadratics, angle: float = 0.7) -> tuple[Quadratics, np.ndarray]:
    """Turn the plane: laws turn with it, but those that work coordinate by coordinate."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Quadratics(turn @ of.hessians @ turn.T, of.pulls @ turn.T, of.sizes), turn


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(H), torch.from_numpy(B)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_fald_is_the_closed_form_whichever_way_the_axes_point(steps: int, correlation: float) -> None:
    settings = {"lr": 0.25, "temperature": HEAT, "correlation": correlation}
    wanted = papers.fald_moments(*tensors(), torch.from_numpy(SHARES), **settings, local_steps=steps)
    of, turn = turned(diagonal())
    law = laws.fald(of, SHARES, **settings, steps=steps).law
    np.testing.assert_allclose(law.mean, turn @ wanted.mean.numpy(), rtol=1e-10)
    np.testing.assert_allclose(law.covariance, turn @ np.diag(wanted.variance) @ turn.T, rtol=1e-9, atol=1e-12)


def test_fedavg_ends_where_fald_does_whatever_the_servers_momentum() -> None:
    of = diagonal()
    mean = laws.fald(of, SHARES, lr=0.2, steps=4, temperature=HEAT, correlation=0.0).law.mean
    for server_lr, momentum in ((1.0, 0.0), (0.5, 0.8)):
        chain = laws.fedavg(of, SHARES, lr=0.2, steps=4, server_lr=server_lr, momentum=momentum)
        np.testing.assert_allclose(chain.law.mean, mean, rtol=1e-10)
        x = v = np.zeros(2)
        for _ in range(300):  # v <- beta v + x - mean(y), x <- x - s v
            y = B + (1 - 0.2 * H) ** 4 * (x - B)
            v = momentum * v + x - SHARES @ y
            x = x - server_lr * v
        np.testing.assert_allclose(x, mean, rtol=1e-8)
    mode = of.posterior(SHARES, 1.0).mean
    assert np.linalg.norm(mean - mode) > 0.1
    one = laws.fedavg(of, SHARES, lr=0.2, steps=1, server_lr=1.0, momentum=0.0)
    np.testing.assert_allclose(one.law.mean, mode, rtol=1e-10)


@pytest.mark.parametrize("star", [False, True])
def test_qlsd_is_the_closed_form_where_coordinates_are_kept_one_by_one(star: bool) -> None:
    """One coordinate alone: the compressor of the paper, with its variance."""
    h, b = H[:, :1], B[:, :1]
    of = Quadratics(h[:, :, None], h * b, np.full(3, 10.0))
    mode = of.posterior(EVEN, 1.0).mean
    for keep, lr in ((1.0, 0.2), (0.5, 0.1)):
        # a pair of equal problems of which one coordinate is sent: omega = 1, and no cross terms in the variance
        pair = Quadratics(np.stack([np.eye(2) * x for x in h[:, 0]]), np.repeat(h * b, 2, axis=1), np.full(3, 10.0))
        reference = np.repeat(mode, 2) if star else None
        chain = laws.qlsd(pair, EVEN, lr=lr, temperature=HEAT, kept=round(2 * keep), reference=reference)
        at_mode = torch.from_numpy(h * (mode - b)) / 3 / HEAT
        wanted = papers.qlsd_variance(
            torch.from_numpy(h) / 3 / HEAT, at_mode, lr=lr * HEAT, omega=1 / keep - 1, star=star
        )
        np.testing.assert_allclose(chain.law.mean, np.repeat(mode, 2), rtol=1e-10)
        np.testing.assert_allclose(np.diag(chain.law.covariance), float(wanted), rtol=1e-9)


def test_dglmc_is_the_papers_where_clients_are_exact() -> None:
    of, turn = turned(diagonal(EVEN))
    chain = laws.dglmc(of, EVEN, lr=0.002, steps=4000, temperature=HEAT, tolerance=0.8)
    wanted = papers.dglmc_moments(torch.from_numpy(H / 3 / HEAT), torch.from_numpy(B), tolerance=0.8)
    np.testing.assert_allclose(chain.law.mean, turn @ wanted.mean.numpy(), rtol=1e-6)
    covariance = turn @ np.diag(wanted.variance) @ turn.T
    np.testing.assert_allclose(chain.law.covariance, covariance, rtol=5e-3, atol=1e-3)


def test_fedsghmc_is_the_closed_form() -> None:
    of, turn = turned(diagonal())
    lr, friction = 0.1, 0.3
    settings = {"lr": lr, "steps": 1, "server_lr": 0.5, "friction": friction, "temperature": HEAT}
    law = laws.fedsghmc(of, SHARES, **settings, cohort=3, corrected=True).law
    precision = SHARES @ H
    wanted = HEAT / precision / (1 - 0.5 * lr * precision / (2 * (2 - friction)))
    np.testing.assert_allclose(law.covariance, turn @ np.diag(wanted) @ turn.T, rtol=1e-9, atol=1e-12)


def test_fedsghmc_is_hotter_by_the_choice_of_clients_unless_it_is_corrected_for() -> None:
    """Clients of one curvature: ``1 + bh / (al T)`` uncorrected, 1 corrected, in each coordinate."""
    of = Quadratics(np.stack([np.eye(2)] * 3), B, np.full(3, 10.0))
    lr, friction, cohort = 0.05, 0.3, 1
    exact = HEAT / (1 - lr / (2 * (2 - friction)))
    spread = papers.client_sampling_variance(-torch.from_numpy(B), cohort).numpy() / 9  # of the mean
    settings = {"lr": lr, "steps": 1, "server_lr": 1.0, "friction": friction, "temperature": HEAT, "cohort": cohort}
    for corrected, wanted in ((True, 1.0), (False, 1 + lr * spread / 2 / (friction * HEAT))):
        law = laws.fedsghmc(of, EVEN, **settings, corrected=corrected).law
        np.testing.assert_allclose(np.diag(law.covariance), exact * wanted, rtol=1e-9)


def test_fsgld_is_sgld_on_the_whole_and_without_surrogates_it_drifts() -> None:
    of = diagonal()
    target = of.posterior(SHARES, HEAT)
    precision = SHARES @ H
    for steps in (1, 4):
        law = laws.fsgld(of, SHARES, lr=0.2, steps=steps, temperature=HEAT, conducive=True).law
        np.testing.assert_allclose(law.mean, target.mean, rtol=1e-10)
        np.testing.assert_allclose(np.diag(law.covariance), HEAT / precision / (1 - 0.1 * precision), rtol=1e-9)
    without = laws.fsgld(of, SHARES, lr=0.2, steps=4, temperature=HEAT, conducive=False).law
    assert np.linalg.norm(without.mean - target.mean) > 0.1


def simulated(chain: LinearChain, draws: int, every: int, runs: int) -> np.ndarray:
    """Run many chains of one law from a draw of it; ``[draws, runs, P]``."""
    rng = stream(0, "chains")
    mean, covariance = chain.state
    root = np.linalg.cholesky(chain.noise)
    state = mean + rng.standard_normal((runs, len(mean))) @ np.linalg.cholesky(covariance).T
    kept = []
    for _ in range(draws):
        for _ in range(every):
            state = state @ chain.transition.T + chain.drift + rng.standard_normal(state.shape) @ root.T
        kept.append(state[:, : chain.size])
    return np.stack(kept)


@pytest.mark.parametrize("every", [1, 3])
def test_moments_of_few_draws_scatter_as_predicted(every: int) -> None:
    """Two thousand runs of 150 draws each: means and deviations of both statistics, correlated draws and a bias."""
    noise = np.array([[1.0, 0.3], [0.3, 0.5]])
    chain = LinearChain(np.array([[0.8, 0.2], [-0.1, 0.6]]), np.array([1.0, -0.5]), noise, 2)
    whiten, centre = np.array([[1.2, 0.1], [0.1, 0.8]]), chain.law.mean + np.array([0.3, -0.2])
    draws = simulated(chain, 150, every, 2000) @ whiten.T
    off = np.square(draws.mean(0) - whiten @ centre).sum(1) / 2
    spread = draws.var(0, ddof=1).sum(1) / 2
    for seen, wanted in zip((off, spread), chain.moments(150, every=every, whiten=whiten, centre=centre), strict=True):
        assert seen.mean() == pytest.approx(wanted.value, abs=4.5 * seen.std() / 2000**0.5)
        assert seen.std() == pytest.approx(wanted.error, rel=0.1)  # terms of order 1 / draws are left out


def test_a_chain_that_runs_away_has_no_law() -> None:
    with pytest.raises(ValueError, match="spectral radius"):
        LinearChain(np.eye(1), np.zeros(1), np.eye(1), 1)
    with pytest.raises(ValueError, match="grows faster"):
        _ = LinearChain(0.9 * np.eye(1), np.zeros(1), lambda mean, covariance: np.eye(1) + 0.5 * covariance, 1).law


def paths(draws: int, rho: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw FedPA's deltas of one client many times, by the recursion that clients use; and the law's slope and noise."""
    h, lr, steps, heat, copies = np.array([1.5, 0.6]), 0.4, 60 + 4 * draws, 1.0, 4000
    axes = linalg.expm(np.array([[0.0, 0.4], [-0.4, 0.0]]))
    curvature, mode, x = axes @ np.diag(h) @ axes.T, np.array([0.5, -1.0]), np.array([0.2, 0.3])
    of = Quadratics(curvature[None], (curvature @ mode)[None], np.ones(1))
    chain = laws.fedpa(
        of, np.ones(1), lr=lr, steps=steps, client_temperature=heat, samples=draws, shrinkage=rho, averaged=True,
        server_lr=0.1, momentum=0.0,
    )  # fmt: skip
    rng, y, total, windows = stream(0, "clients"), np.tile(x, (copies, 1)), 0.0, []
    length = steps // draws
    for t in range(steps):
        y = y - lr * (y - mode) @ curvature + np.sqrt(2 * lr * heat) * rng.standard_normal(y.shape)
        total = total + y
        if (t + 1 - (steps - length * draws)) % length == 0:
            windows.append(total / length)
            total = 0.0
    anchors = torch.from_numpy(np.tile(x, (copies, 1)))
    samples = torch.from_numpy(np.stack(windows[-draws:], 1))
    found = papers.fedpa_deltas({"x": anchors}, {"x": samples}, rho=rho, leading=1)["x"].numpy()
    drift = chain.transition[2:, :2] @ x + chain.drift[2:]  # the velocity's: E D(x)
    assert callable(chain.noise)
    noise = chain.noise(np.concatenate([x, x]), np.zeros((4, 4)))[2:, 2:]
    return found, drift, noise


@pytest.mark.parametrize("rho", [0.02, 0.5])
def test_fedpas_deltas_have_the_mean_and_the_noise_of_their_law(rho: float) -> None:
    """Forty draws of two weights: the law leaves out terms of the order of two in forty, squared."""
    found, mean, noise = paths(40, rho)
    error = found.std(0) / len(found) ** 0.5
    np.testing.assert_allclose(found.mean(0), mean, rtol=0.02, atol=4.5 * error.max())
    np.testing.assert_allclose(np.cov(found.T), noise, rtol=0.25, atol=0.1 * np.diag(noise).max())
