"""Targets are what they say, and samplers find the posteriors of regressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from fedmomentum.samplers import Draws, minibatch, run, sghmc, window_adaptation
from fedmomentum.samplers.diagnostics import ess, mcse, r_hat
from fedmomentum.samplers.distances import sliced_wasserstein, wasserstein_to_gaussian
from fedmomentum.samplers.gradients import value_and_gradient
from fedmomentum.samplers.targets import Target, banana, funnel, gaussian, linear_regression, logistic_regression
from fedmomentum.streams import torch_stream

RNG = torch_stream(0, "features")
FEATURES = (
    torch.randn(40, 3, generator=RNG, dtype=torch.float64)
    @ torch.tensor([[1.0, 0.6, 0], [0, 1, 0], [0, 0, 3]]).double()
)
ANSWERS = FEATURES @ torch.tensor([1.0, -2.0, 0.5]).double() + torch.randn(40, generator=RNG, dtype=torch.float64)

TARGETS: dict[str, Target] = {
    "gaussian": gaussian(torch.tensor([1.0, -1.0]), torch.tensor([[2.0, 0.8], [0.8, 1.0]])),
    "banana": banana(centre=0.7, scale=1.3, width=0.4),
    "funnel": funnel(4, scale=1.0),
    "linear": linear_regression(FEATURES, ANSWERS, noise=1.5, prior=0.5),
    "logistic": logistic_regression(FEATURES, (ANSWERS > 0).double(), prior=2.0),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_field_is_that_of_the_potential(name: str) -> None:
    target = TARGETS[name]
    x = {"x": torch.randn(6, target.size, generator=torch_stream(1, "x"), dtype=torch.float64)}
    values, grads = value_and_gradient(target.potential)(x)
    found, forces = target.field.both(x)
    torch.testing.assert_close(target.gradient(x)["x"], grads["x"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(forces["x"], grads["x"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found, values, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [n for n, t in TARGETS.items() if t.sample])
def test_exact_draws_have_the_moments_and_the_potential(name: str) -> None:
    """Moments within 5 standard errors; and ``E dU = 0``, ``E x dU' = I``, which hold under ``exp(-U)`` (Stein)."""
    target = TARGETS[name]
    assert target.sample is not None and target.mean is not None and target.covariance is not None
    n = 100000
    x = target.sample(torch_stream(2, "x"), n)["x"]
    away = x - target.mean
    grads = target.gradient({"x": x})["x"]
    for values, wanted in (
        (x, target.mean),
        (away.unsqueeze(-1) * away.unsqueeze(-2), target.covariance),
        (grads, torch.zeros(target.size).double()),
        (x.unsqueeze(-1) * grads.unsqueeze(-2), torch.eye(target.size).double()),
    ):
        error = values.std(0) / n**0.5
        assert bool(((values.mean(0) - wanted).abs() < 5 * error).all())


def test_linear_regression_is_conjugate() -> None:
    """Against the normal equations solved by numpy, and the evidence-free identity ``U = quadratic + constant``."""
    target = TARGETS["linear"]
    assert target.mean is not None and target.covariance is not None
    X, y = FEATURES.numpy(), ANSWERS.numpy()
    stacked = np.vstack([X / 1.5**0.5, np.eye(3) / 0.5**0.5])
    mean = np.linalg.lstsq(stacked, np.concatenate([y / 1.5**0.5, np.zeros(3)]), rcond=None)[0]
    np.testing.assert_allclose(target.mean.numpy(), mean, rtol=1e-10)
    np.testing.assert_allclose(target.covariance.numpy(), np.linalg.inv(stacked.T @ stacked), rtol=1e-10)


def test_gaussian_refuses_what_is_not_a_covariance() -> None:
    with pytest.raises(ValueError, match="positive definite"):
        gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))


def reference(target: Target, *, chains: int = 8, steps: int = 400) -> Draws:
    """Run HMC whose trajectories are a quarter of a period: those near a half only swap sides, and widths mix badly."""
    start = {"x": 0.1 * torch.randn(chains, target.size, generator=torch_stream(3, "start"), dtype=torch.float64)}
    made = window_adaptation(
        target.potential, start, seed=4, gradient=target.gradient, warmup=200, steps=2, mass="dense"
    )
    return run(made.kernel, made.position, steps, seed=5)


def test_hmc_finds_the_posterior_of_a_linear_regression(agree: Callable[..., None]) -> None:
    target = TARGETS["linear"]
    assert target.mean is not None and target.covariance is not None
    x = reference(target).samples["x"]
    assert float(r_hat(x).max()) < 1.01
    sd = target.covariance.diagonal().sqrt()
    for i in range(3):
        agree(x[..., i], target.mean[i], resolution=0.05 * float(sd[i]))
        agree((x[..., i] - target.mean[i]).square(), sd[i] ** 2, resolution=0.06 * float(sd[i]) ** 2)
    assert wasserstein_to_gaussian(x.flatten(0, 1), target.mean, target.covariance) < 0.1 * float(sd.norm())


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Threes against eights: eight whitened principal components and an intercept."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, (3, 8))
    parts = PCA(8, whiten=True, svd_solver="full").fit_transform(images[chosen])
    features = torch.from_numpy(np.column_stack([parts, np.ones(len(parts))]))
    return features, torch.from_numpy((labels[chosen] == 8).astype(float))


@pytest.fixture(scope="module")
def long_run(digits: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    x = reference(logistic_regression(*digits), steps=700).samples["x"]
    assert float(r_hat(x).max()) < 1.01
    assert float(ess(x).min()) > 1000
    return x


def test_logistic_regression_of_digits_by_minibatches(
    digits: tuple[torch.Tensor, torch.Tensor], long_run: torch.Tensor
) -> None:
    """SGHMC on minibatches agrees with long HMC once it corrects for their noise, which widens the law else."""
    mean, spread, size = long_run.mean((0, 1)), long_run.std((0, 1)), 40

    def loss(tree: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        score = x @ tree["x"]
        return torch.nn.functional.softplus(score) - y * score

    X, y = digits
    each = ((X @ mean).sigmoid() - y).unsqueeze(-1) * X  # the gradient of every example where the posterior is
    noise = float((len(X) ** 2 / size * each.var(0, correction=0)).mean())

    def sample(noise_variance: float) -> torch.Tensor:
        kernel = sghmc(
            estimate=minibatch(loss, digits, batch_size=size, prior=lambda t: 0.5 * t["x"].square().sum()),
            step_size=2e-3,
            friction=0.15,
            noise_variance=noise_variance,
        )
        start = {"x": long_run[-1].repeat(8, 1)}
        return run(kernel, start, 600, seed=6, burn_in=100, thin=4).samples["x"]

    corrected, not_corrected = sample(noise), sample(0.0)
    error = (mcse(corrected).square() + mcse(long_run).square()).sqrt()
    assert bool((error < 0.1 * spread).all())
    assert float(((corrected.mean((0, 1)) - mean) / spread).abs().max()) < 0.3
    widths = [float((x.std((0, 1)) / spread).mean()) for x in (corrected, not_corrected)]
    assert widths[0] == pytest.approx(1.0, abs=0.05)
    assert widths[1] > 1.12
    near, far = (sliced_wasserstein(x.flatten(0, 1), long_run.flatten(0, 1)) for x in (corrected, not_corrected))
    assert near < 0.8 * far


def test_logistic_regression_of_digits_against_blackjax(
    digits: tuple[torch.Tensor, torch.Tensor], long_run: torch.Tensor
) -> None:
    """NUTS of an outside implementation and our HMC agree in means and deviations, within the errors of both."""
    blackjax = pytest.importorskip("blackjax")
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    X, y = (jnp.asarray(a.numpy(), jnp.float32) for a in digits)

    def log_density(w):  # type: ignore[no-untyped-def]
        score = X @ w
        return jnp.sum(y * score - jax.nn.softplus(score)) - 0.5 * w @ w

    first, second = jax.random.split(jax.random.key(0))
    warm = blackjax.window_adaptation(blackjax.nuts, log_density)
    (state, parameters), _ = warm.run(first, jnp.zeros(X.shape[1]), num_steps=300)
    step = blackjax.nuts(log_density, **parameters).step
    _, states = jax.lax.scan(lambda s, k: (step(k, s)[0],) * 2, state, jax.random.split(second, 1500))
    theirs = torch.from_numpy(np.array(states.position)).double().unsqueeze(1)
    for f in (lambda x: x, lambda x: (x - long_run.mean((0, 1))).square()):
        a, b = f(long_run), f(theirs)
        error = (mcse(a).square() + mcse(b).square()).sqrt()
        assert bool(((a.mean((0, 1)) - b.mean((0, 1))).abs() < 4.5 * error).all())
        assert bool((error < 0.1 * a.mean((0, 1)).abs().clamp(min=float(long_run.std()))).all())
