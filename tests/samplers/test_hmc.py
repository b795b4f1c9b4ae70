"""HMC: what the leapfrog conserves, what the accept step makes exact, what the warm-up finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from fedmomentum.samplers import Dense, Diagonal, hmc, run, window_adaptation
from fedmomentum.samplers.adaptation import DualAveraging, RunningMoments, windows
from fedmomentum.samplers.diagnostics import r_hat
from fedmomentum.samplers.leapfrog import leapfrog
from fedmomentum.samplers.targets import banana, gaussian
from fedmomentum.streams import torch_stream
from fedmomentum.trees import Tree

BANANA = banana(width=0.6)


def flow(q: Tensor, p: Tensor, step_size: float, steps: int) -> tuple[Tensor, Tensor]:
    """Follow the banana's Hamiltonian with a mass that is not round."""
    metric = Dense(torch.tensor([[1.5, 0.4], [0.4, 0.7]], dtype=torch.float64))

    def gradient(x: Tensor) -> Tensor:
        return BANANA.gradient({"x": x})["x"]

    return leapfrog(gradient, metric.drift, q, p, gradient(q), step_size=step_size, steps=steps)[:2]


def energy(q: Tensor, p: Tensor) -> Tensor:
    inverse = torch.tensor([[1.5, 0.4], [0.4, 0.7]], dtype=torch.float64)
    return torch.stack([BANANA.potential({"x": x}) for x in q]) + 0.5 * (p @ inverse * p).sum(-1)


def points(n: int) -> tuple[Tensor, Tensor]:
    generator = torch_stream(0, "points")
    return BANANA.sample(generator, n)["x"], torch.randn(n, 2, generator=generator, dtype=torch.float64)  # type: ignore[misc]


def test_leapfrog_is_reversible() -> None:
    q, p = points(20)
    there = flow(q, p, 0.1, 25)
    back = flow(there[0], -there[1], 0.1, 25)
    assert float((there[0] - q).abs().max()) > 0.5
    torch.testing.assert_close(back[0], q, rtol=0, atol=1e-9)
    torch.testing.assert_close(-back[1], p, rtol=0, atol=1e-9)


def test_leapfrog_preserves_volume() -> None:
    q, p = points(5)
    for one_q, one_p in zip(q, p, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda z: torch.cat(flow(z[None, :2], z[None, 2:], 0.15, 6), -1)[0], torch.cat([one_q, one_p])
        )
        assert float(torch.det(jacobian)) == pytest.approx(1.0, abs=1e-10)
        assert float((jacobian - torch.eye(4)).abs().max()) > 0.1


def test_leapfrog_energy_error_is_second_order() -> None:
    """Over one fixed time the error of the energy falls as the square of the step."""
    q, p = points(200)
    before = energy(q, p)
    steps = np.array([20, 40, 80, 160])
    errors = [float((energy(*flow(q, p, 0.8 / n, n)) - before).abs().mean()) for n in steps]
    slope = np.polyfit(np.log(1.0 / steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("h", [0.5, 3.0])
def test_leapfrog_conserves_its_own_energy_on_a_spring(h: float) -> None:
    """``p^2 / 2 + h (1 - e^2 h / 4) q^2 / 2`` is conserved to rounding, and the trace of a step is ``2 - e^2 h``."""
    e = 0.9

    def step(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return leapfrog(lambda x: h * x, lambda x, p, e: x + e * p, q, p, h * q, step_size=e, steps=1)[:2]

    q = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    p = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    first = step(q, p)
    assert float(first[0][0] + first[1][1]) == pytest.approx(2 - e**2 * h, rel=1e-12)

    def shadow(q: Tensor, p: Tensor) -> Tensor:
        return p**2 / 2 + h * (1 - e**2 * h / 4) * q**2 / 2

    wanted = shadow(q, p)
    for _ in range(100):
        q, p = step(q, p)
    torch.testing.assert_close(shadow(q, p), wanted, rtol=1e-11, atol=1e-12)


def double_well(tree: Tree) -> Tensor:
    x = tree["x"]
    return (x**4 / 4 - x.square()).sum()


def exact_draws(n: int) -> Tensor:
    """Draw from the double well by the inverse of its distribution function on a fine grid."""
    grid = np.linspace(-5, 5, 200001)
    mass = np.cumsum(np.exp(-(grid**4) / 4 + grid**2))
    u = np.random.default_rng(3).random(n)
    return torch.from_numpy(np.interp(u, mass / mass[-1], grid)).unsqueeze(-1)


@pytest.mark.parametrize(("step_size", "steps", "random"), [(0.5, 3, False), (0.9, 2, False), (0.8, 4, True)])
def test_hmc_has_detailed_balance(step_size: float, steps: int, random: bool) -> None:
    """From exact draws there are as many transitions from bin i to bin j as back, and the law stays what it was."""
    before = exact_draws(60000)
    kernel = hmc(double_well, step_size=step_size, steps=steps, random_steps=random)
    draws = run(kernel, {"x": before}, 1, seed=1)
    after = draws.samples["x"][0]
    assert 0.3 < float(draws.info["acceptance"].mean()) < 0.97  # otherwise the accept step is not under test
    edges = np.quantile(before.numpy(), np.linspace(0, 1, 11)[1:-1])
    i, j = np.digitize(before.numpy()[:, 0], edges), np.digitize(after.numpy()[:, 0], edges)
    counts = np.zeros((10, 10))
    np.add.at(counts, (i, j), 1)
    upper = np.triu_indices(10, 1)
    there, back = counts[upper], counts.T[upper]
    busy = there + back >= 20
    chi2 = ((there - back)[busy] ** 2 / (there + back)[busy]).sum()
    assert busy.sum() > 15
    assert stats.chi2.sf(chi2, busy.sum()) > 1e-3
    assert stats.ks_2samp(before.numpy()[:, 0], after.numpy()[:, 0]).pvalue > 1e-3


def test_acceptance_is_what_the_energy_error_says() -> None:
    q = BANANA.sample(torch_stream(2, "q"), 400)  # type: ignore[misc]
    draws = run(hmc(BANANA.potential, gradient=BANANA.gradient, step_size=0.5, steps=4, temperature=2.0), q, 1, seed=4)
    moved = (draws.samples["x"][0] != q["x"]).any(-1)
    assert torch.equal(moved, draws.info["accepted"][0])
    expected, found = float(draws.info["acceptance"].sum()), float(moved.sum())
    spread = float((draws.info["acceptance"] * (1 - draws.info["acceptance"])).sum()) ** 0.5
    assert abs(found - expected) < 4 * spread


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_hmc_on_the_banana(temperature: float, agree: Callable[..., None]) -> None:
    """Mean and covariance of Rosenbrock's law; at temperature T it is the law with ``s^2`` and ``w^2`` times T."""
    wide = banana(scale=temperature**0.5, width=0.6 * temperature**0.5)
    start = wide.sample(torch_stream(5, "start"), 300)  # type: ignore[misc]
    kernel = hmc(BANANA.potential, gradient=BANANA.gradient, step_size=0.12, steps=10, temperature=temperature)
    x = run(kernel, start, 300, seed=6).samples["x"]
    assert wide.mean is not None and wide.covariance is not None
    for i in range(2):
        sd = float(wide.covariance[i, i]) ** 0.5
        agree(x[..., i], wide.mean[i], resolution=0.04 * sd)
        agree((x[..., i] - wide.mean[i]).square(), wide.covariance[i, i], resolution=0.1 * sd**2)
    agree((x - wide.mean).prod(-1), wide.covariance[0, 1], resolution=0.08 * float(wide.covariance[0, 1]))


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_a_mass_matrix_is_a_change_of_coordinates(kind: str) -> None:
    """With ``M^-1 = L L'`` HMC in x is HMC with unit mass in ``y = L^-1 x``, trajectory by trajectory."""
    covariance = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    scale = torch.diag(covariance.diagonal().sqrt()) if kind == "diagonal" else torch.linalg.cholesky(covariance)
    metric = Diagonal(covariance.diagonal()) if kind == "diagonal" else Dense(covariance)
    y = torch.randn(20, 2, generator=torch_stream(7, "y"), dtype=torch.float64)
    straight = hmc(lambda t: BANANA.potential({"x": scale @ t["x"]}), step_size=0.3, steps=5)
    bent = hmc(BANANA.potential, step_size=0.3, steps=5, metric=metric)
    a, b = run(straight, {"x": y}, 6, seed=8), run(bent, {"x": y @ scale.T}, 6, seed=8)
    torch.testing.assert_close(b.samples["x"], a.samples["x"] @ scale.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(a.info["acceptance"], b.info["acceptance"], rtol=1e-9, atol=1e-9)


def test_metrics_draw_momenta_of_covariance_m() -> None:
    inverse = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    momenta = Dense(inverse).momentum(torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(momenta.T @ momenta, torch.linalg.inv(inverse))
    with pytest.raises(ValueError, match="positive definite"):
        Dense(-inverse)
    with pytest.raises(ValueError, match="positive"):
        Diagonal(torch.tensor([1.0, 0.0]))


def test_a_trajectory_that_explodes_is_rejected_and_named() -> None:
    x = torch.full((3, 1), 2.0, dtype=torch.float64)
    draws = run(hmc(double_well, step_size=5.0, steps=20), {"x": x}, 3, seed=0)
    assert bool(draws.info["divergent"].all())
    assert torch.equal(draws.samples["x"][-1], x)


@pytest.mark.parametrize("bad", [{"step_size": 0.0}, {"steps": 0}, {"temperature": 0.0}, {"jitter": 1.0}])
def test_hmc_refuses_what_is_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="step_size > 0"):
        hmc(double_well, **({"step_size": 0.1} | bad))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [0.5, 0.8])
def test_dual_averaging_meets_its_target(target: float) -> None:
    """On a made-up acceptance ``exp(-e)`` the step that accepts a share ``target`` is ``-log target``."""
    search = DualAveraging.start(torch.tensor([0.01, 100.0], dtype=torch.float64), target)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        noise = torch.from_numpy(rng.uniform(-0.1, 0.1, 2))
        search = search.update((-search.step).exp() + noise)
    torch.testing.assert_close(
        search.final, torch.full((2,), -math.log(target), dtype=torch.float64), rtol=0.05, atol=0
    )


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("pool", [True, False])
def test_moments_are_numpys(dense: bool, pool: bool) -> None:
    x = (
        torch.randn(40, 3, 2, generator=torch_stream(0, "m"), dtype=torch.float64)
        @ torch.tensor([[2.0, 1.0], [0.0, 1.0]]).double()
    )
    moments = RunningMoments.zeros(x[0], dense=dense)
    for row in x:
        moments = moments.update(row)
    n = 120 if pool else 40
    samples = [x.reshape(-1, 2)] if pool else list(x.unbind(1))
    for c, sample in enumerate(samples):
        full = np.cov(sample.numpy().T) * (n / (n + 5)) + 5e-3 / (n + 5) * np.eye(2)
        if pool:  # the pooled estimate divides by all draws less one
            assert len(sample) == n
        found = moments.covariance(pool=pool)
        found = found if pool else found[c]
        np.testing.assert_allclose(found.numpy(), full if dense else np.diag(full), rtol=1e-10)


@pytest.mark.parametrize("warmup", [20, 100, 150, 500, 1000, 1357])
def test_windows_fill_the_warm_up(warmup: int) -> None:
    first, ends = windows(warmup)
    lengths = np.diff([first, *ends])
    assert 0 < first < ends[0] and ends[-1] <= warmup - int(0.1 * min(warmup, 150))
    assert ends[-1] == warmup - (50 if warmup >= 150 else int(0.1 * warmup))
    assert all(b >= 2 * a for a, b in pairwise(lengths))
    if warmup == 1000:
        assert (first, ends) == (75, [100, 150, 250, 450, 950])  # as in Stan's manual


@pytest.mark.parametrize("mass", ["diagonal", "dense"])
def test_warm_up_finds_the_scales(mass: str) -> None:
    """Scales that differ a hundredfold: the inverse mass comes out as the covariance, and the acceptance as asked."""
    factor = torch.tensor([[10.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.07, 0.1]], dtype=torch.float64)
    target = gaussian(torch.zeros(3), factor @ factor.T)
    start = {"x": torch.randn(6, 3, generator=torch_stream(0, "s"), dtype=torch.float64)}
    made = window_adaptation(
        target.potential,
        start,
        seed=1,
        gradient=target.gradient,
        warmup=500,
        steps=2,  # a quarter of a period: after a half the chains would only swap sides, and their widths mix badly
        mass=mass,
        target=0.85,  # type: ignore[arg-type]
    )
    assert isinstance(made.metric, Dense if mass == "dense" else Diagonal)
    found = made.metric.inverse_mass
    assert target.covariance is not None
    wanted = target.covariance if mass == "dense" else target.covariance.diagonal()
    whitened = torch.linalg.solve(target.covariance, found) if mass == "dense" else found / wanted
    low, high = torch.linalg.eigvals(whitened).real.aminmax() if mass == "dense" else whitened.aminmax()
    assert float(low) > 0.6
    assert float(high) < 1.7
    draws = run(made.kernel, made.position, 120, seed=2)
    assert float(draws.info["acceptance"].mean()) == pytest.approx(0.85, abs=0.1)
    assert float(r_hat(draws.samples["x"]).max()) < 1.05


def test_a_chain_that_adapts_alone_does_not_see_the_others() -> None:
    start = {"x": torch.randn(3, 2, generator=torch_stream(0, "s"), dtype=torch.float64)}

    def last(n: int) -> Tensor:
        made = window_adaptation(
            BANANA.potential, {"x": start["x"][:n]}, seed=1, gradient=BANANA.gradient, warmup=30, steps=3, pool=False
        )
        return torch.cat([made.step_size[:1], made.position["x"][0]])

    torch.testing.assert_close(last(1), last(3), rtol=1e-9, atol=0)


def test_random_numbers_of_steps_are_uniform_and_shared() -> None:
    """Each of 1, ..., 5 as often as the others, one number for all chains, whoever runs beside the first."""
    kernel = hmc(BANANA.field, step_size=0.05, steps=5, random_steps=True)
    start = BANANA.sample(torch_stream(5, "start"), 3)  # type: ignore[misc]
    steps = run(kernel, start, 1000, seed=6).info["steps"]
    assert torch.equal(steps, steps[:, :1].expand(1000, 3))
    assert stats.chisquare(torch.bincount(steps[:, 0], minlength=6)[1:].numpy()).pvalue > 1e-3
    alone = run(kernel, {"x": start["x"][:1]}, 50, seed=6)
    assert torch.equal(alone.info["steps"][:, 0], steps[:50, 0])


@pytest.mark.parametrize("dense", [True, False])
def test_a_number_and_a_tensor_of_step_sizes_are_one_flow(dense: bool) -> None:
    inverse = torch.tensor([[1.5, 0.4], [0.4, 0.7]], dtype=torch.float64)
    metric = Dense(inverse) if dense else Diagonal(inverse.diagonal())
    alone = type(metric)(metric.inverse_mass.expand(20, *metric.inverse_mass.shape))
    q, p = points(20)

    def end(step_size: float | Tensor, metric: Dense | Diagonal) -> Tensor:
        force = BANANA.gradient({"x": q})["x"]
        options: dict[str, Any] = {"step_size": step_size, "steps": 7}
        return torch.cat(leapfrog(lambda x: BANANA.gradient({"x": x})["x"], metric.drift, q, p, force, **options), -1)

    wanted = end(0.11, metric)
    assert float((wanted[:, :2] - q).abs().max()) > 0.3
    each = torch.full((20, 1), 0.11, dtype=torch.float64)
    for other in (end(each, metric), end(0.11, alone), end(each, alone)):
        torch.testing.assert_close(other, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dense", [True, False])
def test_kinetic_energy_is_that_of_the_normals(dense: bool) -> None:
    """``p' M^-1 p = |xi|^2``, which the transition relies on; and whitened velocities are the normals again."""
    inverse = torch.tensor([[1.5, 0.4], [0.4, 0.7]], dtype=torch.float64)
    metric = Dense(inverse) if dense else Diagonal(inverse.diagonal())
    xi = points(9)[1]
    p = metric.momentum(xi)
    torch.testing.assert_close((p * metric.velocity(p)).sum(-1), xi.square().sum(-1))
    torch.testing.assert_close(metric.whiten(metric.velocity(p)), xi)
