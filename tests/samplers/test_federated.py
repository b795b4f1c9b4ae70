"""Federated samplers: each recursion, run for long, has the law that its closed form says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmomentum.samplers import federated as fed
from fedmomentum.samplers import sghmc
from fedmomentum.samplers.draws import run
from fedmomentum.samplers.noise import chain_keys, integers
from fedmomentum.streams import stream, torch_stream
from fedmomentum.trees import Tree

H = torch.tensor([[0.5, 2.0], [1.0, 0.3], [2.5, 1.2]], dtype=torch.float64)  # curvatures [K, P]
B = torch.tensor([[1.0, -1.0], [-2.0, 0.5], [0.3, 2.0]], dtype=torch.float64)  # modes [K, P]
MODE = (H * B).sum(0) / H.sum(0)


def normal(*shape: int, name: str = "n") -> Tensor:
    return torch.from_numpy(stream(0, name).standard_normal(shape))


def moments_agree(x: Tensor, moments: fed.Moments, *, rtol: float) -> None:
    """Hold independent draws ``[n, P]`` against moments: the mean in standard errors, the variance relatively."""
    z = (x.mean(0) - moments.mean) / (moments.variance / len(x)).sqrt()
    assert float(z.abs().max()) < 4.5
    assert rtol > 4 * (2 / len(x)) ** 0.5
    torch.testing.assert_close(x.var(0), moments.variance, rtol=rtol, atol=0)


# --- FSGLD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [True, False])
def test_conducive_gradients_vanish_on_average_and_remove_the_variance(dense: bool) -> None:
    """With exact surrogates every shard's corrected estimate is the gradient of the whole posterior."""
    factors = normal(3, 2, 2)
    precisions = factors @ factors.mT + torch.eye(2) if dense else H
    f, x = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), torch.tensor([0.7, -0.4], dtype=torch.float64)

    def score(s: int) -> Tensor:
        return precisions[s] @ (B[s] - x) if dense else precisions[s] * (B[s] - x)

    conducive = fed.fsgld_conducive(x, B, precisions, f)
    torch.testing.assert_close((f[:, None] * conducive).sum(0), torch.zeros(2).double(), rtol=0, atol=1e-13)
    estimates = torch.stack([score(s) / f[s] for s in range(3)])
    whole = score(0) + score(1) + score(2)
    torch.testing.assert_close(estimates + conducive, whole.expand(3, 2), rtol=1e-12, atol=1e-12)
    assert float(estimates.var(0).min()) > 0.1
    with pytest.raises(ValueError, match="sum to one"):
        fed.fsgld_conducive(x, B, precisions, 2 * f)


# --- FALD -------------------------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("local_steps", [1, 5])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_fald(local_steps: int, correlation: float) -> None:
    lr, heat, n = 0.25, 0.7, 20000
    rng = torch_stream(1, "fald")
    x = torch.zeros(n, 1, 2, dtype=torch.float64)
    for _ in range(60 // local_steps):
        y = x.expand(n, 3, 2)
        for _ in range(local_steps):
            shared, own = (torch.randn(n, k, 2, generator=rng, dtype=torch.float64) for k in (1, 3))
            y = fed.fald_step(
                y, H * (y - B), WEIGHTS, lr=lr, temperature=heat, correlation=correlation, shared=shared, own=own
            )
        x = torch.vmap(fed.fald_average, (0, None))(y, WEIGHTS)[:, None]
    wanted = fed.fald_moments(H, B, WEIGHTS, lr=lr, temperature=heat, correlation=correlation, local_steps=local_steps)
    moments_agree(x[:, 0], wanted, rtol=0.05)


def test_fald_with_one_local_step_is_sgld() -> None:
    """Whatever the correlation, the mean of the noises has variance ``2 eta tau``."""
    P = (WEIGHTS[:, None] * H).sum(0)
    for correlation in (0.0, 0.5, 1.0):
        found = fed.fald_moments(H, B, WEIGHTS, lr=0.3, temperature=2.0, correlation=correlation, local_steps=1)
        torch.testing.assert_close(found.mean, (WEIGHTS[:, None] * H * B).sum(0) / P)
        torch.testing.assert_close(found.variance, 2.0 / P / (1 - 0.3 * P / 2))
    far = fed.fald_moments(H, B, WEIGHTS, lr=0.3, temperature=2.0, correlation=0.5, local_steps=10)
    assert float((far.mean - (WEIGHTS[:, None] * H * B).sum(0) / P).abs().min()) > 0.05  # drift of the clients


# --- DG-LMC -----------------------------------------------------------------------------------------------------------


def test_dglmc_with_exact_clients() -> None:
    """Gibbs between model and clients: the model has precision ``sum 1 / (1/h_i + rho)``."""
    rho, n = 0.4, 20000
    rng = torch_stream(2, "dglmc")
    x = torch.zeros(n, 2, dtype=torch.float64)
    tight = H + 1 / rho
    for _ in range(60):
        centre = (H * B + x[:, None] / rho) / tight
        z = centre + torch.randn(n, 3, 2, generator=rng, dtype=torch.float64) / tight.sqrt()
        x = fed.dglmc_server(z.transpose(0, 1), torch.randn(n, 2, generator=rng, dtype=torch.float64), tolerance=rho)
    moments_agree(x, fed.dglmc_moments(H, B, tolerance=rho), rtol=0.05)


def test_dglmc_client_has_the_law_of_its_tie() -> None:
    """Langevin steps of one client at a fixed model: mean ``(h b + x / rho) / P``, ``P = h + 1 / rho``."""
    rho, lr, n = 0.4, 0.1, 20000
    rng = torch_stream(3, "client")
    x, z = torch.tensor([0.5, -0.5]).double(), torch.zeros(n, 2, dtype=torch.float64)
    for _ in range(80):
        z = fed.dglmc_local(
            z, H[0] * (z - B[0]), x, torch.randn(n, 2, generator=rng, dtype=torch.float64), lr=lr, tolerance=rho
        )
    P = H[0] + 1 / rho
    moments_agree(z, fed.Moments((H[0] * B[0] + x / rho) / P, 1 / P / (1 - lr * P / 2)), rtol=0.05)


def test_dglmc_without_a_tie_is_the_posterior() -> None:
    found = fed.dglmc_moments(H, B, tolerance=0.0)
    torch.testing.assert_close(found.mean, MODE)
    torch.testing.assert_close(found.variance, 1 / H.sum(0))


# --- QLSD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_sparsify_is_unbiased_with_its_variance(keep: float) -> None:
    v = torch.tensor([1.0, -2.0, 0.5]).double()
    c = fed.sparsify(chain_keys(torch_stream(4, "c"), 100000), v.expand(100000, 3), keep=keep)
    error = ((1 / keep - 1) * v.square() / 100000).sqrt()
    assert bool(((c.mean(0) - v).abs() <= 4.5 * error).all())
    torch.testing.assert_close((c - v).square().mean(0), (1 / keep - 1) * v.square(), rtol=0.02, atol=0)


@pytest.mark.parametrize("star", [True, False])
def test_qlsd(star: bool) -> None:
    lr, keep, n = 0.1, 0.25, 20000
    at_mode = H * (MODE - B)
    rng = torch_stream(5, "qlsd")
    x = torch.zeros(n, 2, dtype=torch.float64)
    for t in range(60):
        gradients = H * (x[:, None] - B) - (at_mode if star else 0.0)
        keys = chain_keys(torch_stream(6, "keys", step=t), 3 * n).reshape(n, 3)
        messages = fed.sparsify(keys, gradients, keep=keep).transpose(0, 1)
        noise = torch.randn(n, 2, generator=rng, dtype=torch.float64)
        x = fed.qlsd_step(x, messages, noise, lr=lr, anchor=at_mode.sum(0) if star else None)
    variance = fed.qlsd_variance(H, at_mode, lr=lr, omega=1 / keep - 1, star=star)
    moments_agree(x, fed.Moments(MODE, variance), rtol=0.07)


def test_qlsd_without_compression_is_sgld_and_with_too_much_has_no_law() -> None:
    P = H.sum(0)
    found = fed.qlsd_variance(H, H * (MODE - B), lr=0.2, omega=0.0)
    torch.testing.assert_close(found, 1 / P / (1 - 0.2 * P / 2))
    with pytest.raises(ValueError, match="no stationary law"):
        fed.qlsd_variance(H, H * (MODE - B), lr=0.2, omega=50.0)


# --- FedPA ------------------------------------------------------------------------------------------------------------


def dense_delta(anchor: Tensor, samples: Tensor, rho: float) -> Tensor:
    """Solve with the matrix that the recursion never builds."""
    number, size = samples.shape
    shrink = 1 / (1 + (number - 1) * rho)
    covariance = np.cov(samples.numpy().T) if number > 1 else np.zeros((size, size))
    matrix = shrink * np.eye(size) + (1 - shrink) * covariance
    return torch.from_numpy(np.linalg.solve(matrix, (anchor - samples.mean(0)).numpy()))


@pytest.mark.parametrize("rho", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("number", [1, 2, 5, 30])
def test_fedpa_recursion_is_the_dense_solve(number: int, rho: float) -> None:
    samples: Tree = {"w": normal(number, 2, 3, name="w"), "b": normal(number, 4, name="b")}
    anchor: Tree = {"w": normal(2, 3, name="a"), "b": normal(4, name="c")}
    found = fed.fedpa_delta(anchor, samples, rho=rho)
    flat = torch.cat([samples["w"].flatten(1), samples["b"]], 1)
    wanted = dense_delta(torch.cat([anchor["w"].flatten(), anchor["b"]]), flat, rho)
    error = torch.cat([found["w"].flatten(), found["b"]]) - wanted
    assert float(error.norm() / wanted.norm()) < 1e-14


def test_fedpa_without_shrinkage_is_fedavg() -> None:
    samples, anchor = normal(7, 3), normal(3, name="a")
    found = fed.fedpa_delta({"x": anchor}, {"x": samples}, rho=0.0)["x"]
    torch.testing.assert_close(found, anchor - samples.mean(0), rtol=1e-14, atol=1e-15)


def test_fedpa_finds_the_global_mode_where_fedavg_does_not() -> None:
    """With exact moments the fixed point is the mode of the product of the clients' posteriors.

    The samples are made so that ``r I + (1 - r) C`` is the client's covariance, to rounding.
    """
    rho, number = 0.5, 6
    shrink = 1 / (1 + (number - 1) * rho)
    basis = np.linalg.qr(np.column_stack([np.ones(number), stream(1, "q").standard_normal((number, 2))]))[0][:, 1:]
    clients = []
    for c in range(3):
        factor = stream(c, "factor").standard_normal((2, 2))
        covariance = factor @ factor.T + (shrink + 0.1) * np.eye(2)
        root = np.linalg.cholesky((covariance - shrink * np.eye(2)) / (1 - shrink))
        clients.append((covariance, torch.from_numpy(B[c].numpy() + (number - 1) ** 0.5 * basis @ root.T)))
    precisions = [np.linalg.inv(s) for s, _ in clients]
    mode = np.linalg.solve(sum(precisions), sum(p @ b for p, b in zip(precisions, B.numpy(), strict=True)))

    def fixed_point(rho: float) -> Tensor:
        x = torch.zeros(2, dtype=torch.float64)
        for _ in range(400):
            x = x - 0.2 * sum(fed.fedpa_delta({"x": x}, {"x": s}, rho=rho)["x"] for _, s in clients)
        return x

    np.testing.assert_allclose(fixed_point(rho).numpy(), mode, atol=1e-12)
    assert float((fixed_point(0.0) - torch.from_numpy(mode)).norm()) > 0.1


def test_fedpa_refuses() -> None:
    with pytest.raises(ValueError, match="'x' have shape"):
        fed.fedpa_delta({"x": torch.zeros(3)}, {"x": torch.zeros(5, 2)}, rho=0.1)
    with pytest.raises(ValueError, match="at least one sample"):
        fed.fedpa_delta({"x": torch.zeros(3)}, {"x": torch.zeros(0, 3)}, rho=0.1)


# --- client sampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cohort", [1, 2, 4, 5])
def test_client_sampling_variance_is_that_over_all_cohorts(cohort: int) -> None:
    """Against every cohort of S out of 5 clients, enumerated."""
    gradients = normal(5, 3)
    estimates = torch.stack([5 / cohort * gradients[list(c)].sum(0) for c in itertools.combinations(range(5), cohort)])
    torch.testing.assert_close(estimates.mean(0), gradients.sum(0))
    wanted = estimates.var(0, correction=0)
    torch.testing.assert_close(fed.client_sampling_variance(gradients, cohort), wanted, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="not possible"):
        fed.client_sampling_variance(gradients, 6)


def test_sghmc_over_client_cohorts_samples_the_posterior_once_corrected() -> None:
    """Rounds of 2 of 3 clients: the variance of exact gradients, or ``1 + bh / al`` times it if not corrected."""
    h, b = torch.full((3, 1), 1.0).double(), torch.tensor([[4.0], [-2.0], [-2.0]]).double()
    lr, friction = 0.01, 0.3
    noise = float(fed.client_sampling_variance(h * (0 - b), 2))
    cohorts = torch.tensor(list(itertools.combinations(range(3), 2)))

    def cohort_gradient(tree: Tree, keys: Tensor) -> Tree:
        chosen = cohorts[integers(keys, 1, 3).squeeze(-1)]
        return {"x": 1.5 * (h[chosen] * (tree["x"].unsqueeze(1) - b[chosen])).sum(1)}

    for correct in (True, False):
        kernel = sghmc(
            estimate=cohort_gradient, step_size=lr, friction=friction, noise_variance=noise if correct else 0.0
        )
        x = run(kernel, {"x": torch.zeros(20000, 1, dtype=torch.float64)}, 150, seed=1, burn_in=149).samples["x"]
        exact = 1 / 3 / (1 - lr * 3 / (2 * (2 - friction)))
        ratio = 1.0 if correct else 1 + lr * noise / 2 / friction
        assert float(x.var()) == pytest.approx(exact * ratio, rel=0.04)
    assert lr * noise / 2 / friction > 0.1
