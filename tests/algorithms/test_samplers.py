"""Federated samplers through strategies and client halves: each has the law that its closed form says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import linalg

from fedmomentum.samplers import federated as law
from fedmomentum.samplers import federated_laws
from fedmomentum.samplers.linear_chain import LinearChain
from fedmomentum.samplers.quadratics import Quadratics
from fedmomentum.strategies import UniformCohort, make_strategy
from fedmomentum.streams import stream
from tests.algorithms.gaussians import MODE, PRECISION, B, H, agree, sample

EVEN = torch.full((3,), 1 / 3, dtype=torch.float64)
HEAT = 0.7


@pytest.mark.parametrize(("steps", "correlation"), [(1, 0.0), (5, 0.6)])
def test_fald_has_the_moments_of_its_closed_form(steps: int, correlation: float) -> None:
    draws, _ = sample(
        "fald", rounds=60 // steps, chains=8000, lr=0.25, steps=steps, temperature=HEAT, correlation=correlation
    )
    wanted = law.fald_moments(H, B, EVEN, lr=0.25, temperature=HEAT, correlation=correlation, local_steps=steps)
    agree(draws[-1], *wanted, rtol=0.07)


def test_the_bias_of_fald_grows_with_the_local_steps() -> None:
    """At temperature 0 the chain is deterministic, so the drift of the clients is seen to rounding."""
    far = []
    for steps in (1, 2, 4, 8):
        draws, _ = sample("fald", rounds=200, chains=1, lr=0.2, steps=steps, temperature=0.0)
        wanted = law.fald_moments(H, B, EVEN, lr=0.2, temperature=0.0, correlation=0.0, local_steps=steps).mean
        torch.testing.assert_close(draws[-1, 0], wanted, rtol=1e-10, atol=1e-12)
        far.append(float((draws[-1, 0] - MODE).norm()))
    assert far[0] < 1e-10 and far[1] > 0.01 and far == sorted(far)


def test_fald_keeps_its_temperature_where_few_take_part() -> None:
    """Clients of one loss, one of them a round: no gradient noise, so the variance is that of SGLD."""
    h, b = torch.tensor([[1.5]] * 4).double(), torch.tensor([[0.5]] * 4).double()
    draws, _ = sample(
        "fald", rounds=40, chains=8000, lr=0.3, temperature=HEAT, curvatures=h, modes=b, start=b[0],
        cohort=UniformCohort(count=2, seed=1),
    )  # fmt: skip
    agree(draws[-1], b[0], HEAT / h[0] / (1 - 0.3 * h[0] / 2), rtol=0.07)


@pytest.mark.parametrize("cohort", [1, 2])
def test_fsgld_with_surrogates_is_sgld_on_the_whole_whatever_the_local_steps(cohort: int) -> None:
    """Surrogates of quadratics become exact as clients see more points; all have taken part after some rounds."""
    lr, rounds = 0.25, 60
    for steps in (1, 4):
        draws, _ = sample(
            "fsgld", rounds=rounds, chains=4000, lr=lr, steps=steps, temperature=HEAT, last=10,
            cohort=UniformCohort(count=cohort, seed=3),
        )  # fmt: skip
        agree(draws[-1], MODE, HEAT / PRECISION / (1 - lr * PRECISION / 2), rtol=0.1)


def shuffled(modes: torch.Tensor, chains: int) -> torch.Tensor:
    """Deal the clients' modes anew for every chain ``[N, C]``: chains that share a cohort then differ in its noise."""
    order = torch.from_numpy(stream(0, "shuffle").random((len(modes), chains))).argsort(0)
    return modes.squeeze(1)[order]


def test_without_surrogates_the_variance_between_clients_stays() -> None:
    """DSGLD with one client a round: the gradient noise of client sampling widens the law, and not by little."""
    modes = torch.tensor([[3.0], [-1.0], [-2.0]]).double()
    lr, exact, chains = 0.1, HEAT / (1 - 0.1 / 2), 600
    noise = float((0 - modes).var(correction=0))
    for conducive in (False, True):
        draws, _ = sample(
            "fsgld", rounds=350, last=300, chains=1, lr=lr, temperature=HEAT, curvatures=torch.ones(3, chains).double(),
            modes=shuffled(modes, chains), start=torch.zeros(chains).double(), conducive=conducive,
            cohort=UniformCohort(count=1, seed=4),
        )  # fmt: skip
        wanted = exact if conducive else exact + lr * noise / 2 / (1 - lr / 2)
        assert float(draws.var()) == pytest.approx(wanted, rel=0.1)
    assert lr * noise / 2 > 0.3 * exact


def dglmc_law(lr: float, tolerance: float, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve for the stationary mean and variance of the model: ``(x, z)`` is a linear Gaussian chain of N + 1 numbers."""
    means, variances = [], []
    for p in range(H.shape[1]):
        h, b, n = H[:, p], B[:, p], len(H)
        tie = lr * HEAT * n / tolerance
        keep = 1 - lr * h - tie
        power = keep**steps
        total = (1 - power) / (1 - keep)
        heat = 2 * lr * HEAT * n * (1 - keep ** (2 * steps)) / (1 - keep**2)
        # z' = power z + total (lr h b + tie x) + N(0, heat);  x' = mean z' + N(0, rho / n)
        a = torch.zeros(n + 1, n + 1, dtype=torch.float64)
        a[1:, 0], a[1:, 1:] = total * tie, torch.diag(power)
        a[0] = a[1:].mean(0)
        c = torch.cat([(total * lr * h * b).mean().reshape(1), total * lr * h * b])
        q = torch.zeros(n + 1, n + 1, dtype=torch.float64)
        q[1:, 1:] = torch.diag(heat)
        q[0, 1:] = q[1:, 0] = heat / n
        q[0, 0] = heat.sum() / n**2 + tolerance / n
        means.append(torch.linalg.solve(torch.eye(n + 1).double() - a, c)[0])
        variances.append(torch.from_numpy(linalg.solve_discrete_lyapunov(a.numpy(), q.numpy()))[0, 0])
    return torch.stack(means), torch.stack(variances)


@pytest.mark.parametrize("steps", [1, 6])
def test_dglmc_has_the_law_of_its_linear_chain(steps: int) -> None:
    draws, strategy = sample("dglmc", rounds=70, chains=8000, lr=0.1, steps=steps, temperature=HEAT, tolerance=0.8)
    agree(draws[-1], *dglmc_law(0.1, 0.8, steps), rtol=0.07)
    assert float(strategy.carried("count", {})["count"]) == 3


def test_dglmc_law_is_the_papers_where_clients_are_exact() -> None:
    """Many small steps between two rounds: precision ``sum 1 / (1/h_i + rho)`` in units of the clients' potentials."""
    mean, variance = dglmc_law(0.002, 0.8, 4000)
    wanted = law.dglmc_moments(H / 3 / HEAT, B, tolerance=0.8)
    torch.testing.assert_close(mean, wanted.mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(variance, wanted.variance, rtol=5e-3, atol=0)


def test_dglmc_counts_a_variable_from_the_round_in_which_it_is_new() -> None:
    """The model is the mean over those that have taken part: with no heat and a stiff tie it ends at the mode."""
    _, strategy = sample(
        "dglmc", rounds=6, chains=50, lr=0.1, temperature=HEAT, tolerance=0.8, cohort=UniformCohort(count=1, seed=1)
    )
    seen = {UniformCohort(count=1, seed=1).choose(r, range(3))[0] for r in range(1, 7)}
    assert float(strategy.carried("count", {})["count"]) == len(seen)


@pytest.mark.parametrize("star", [False, True])
def test_qlsd_has_the_variance_of_its_closed_form(star: bool) -> None:
    """Half of the coordinates are sent, so the compressor's variance is 1; QLSD* refers to the mode, where it starts."""
    lr, n = 0.1, 3
    draws, _ = sample("qlsd", rounds=60, chains=8000, lr=lr, temperature=HEAT, keep=0.5, star=star)
    # in units of potentials p_i f_i / T, whose step size is lr T
    variance = law.qlsd_variance(H / n / HEAT, H * (MODE - B) / n / HEAT, lr=lr * HEAT, omega=1.0, star=star)
    agree(draws[-1], MODE, variance, rtol=0.08)


def test_qlsd_star_needs_no_compression_where_it_refers_to() -> None:
    """At temperature 0 and the mode QLSD* stands still to rounding; QLSD does not."""
    still, _ = sample("qlsd", rounds=5, chains=10, lr=0.1, temperature=0.0, keep=0.3, star=True)
    moves, _ = sample("qlsd", rounds=5, chains=10, lr=0.1, temperature=0.0, keep=0.3)
    assert float((still[-1] - MODE).abs().max()) < 1e-14 < 0.01 < float((moves[-1] - MODE).abs().max())


def test_qlsd_star_renews_its_reference_point() -> None:
    """From far away the compressed differences shrink as the reference point follows: it ends at the mode to rounding."""
    start = torch.tensor([3.0, -3.0]).double()
    found, _ = sample(
        "qlsd", rounds=300, chains=3, lr=0.1, temperature=0.0, keep=0.5, star=True, refresh=5, start=start
    )
    assert float((found[-1] - MODE).abs().max()) < 1e-9


def test_the_prior_of_qlsd_is_not_compressed() -> None:
    """One client of no curvature: only the prior pulls, and the law is that of SGLD on it to the bit of its noise."""
    zero = torch.zeros(2, 2, dtype=torch.float64)
    draws, _ = sample(
        "qlsd", rounds=50, chains=8000, lr=0.2, temperature=HEAT, keep=0.1, weight_decay=2.0, curvatures=zero,
        modes=zero, start=zero[0],
    )  # fmt: skip
    agree(draws[-1], zero[0], torch.full((2,), HEAT / 2.0 / (1 - 0.2)).double(), rtol=0.07)


# --- FedPA ------------------------------------------------------------------------------------------------------------


def test_fedpa_moves_to_the_global_mode_where_clients_sample_and_fedavg_does_not() -> None:
    """Clients of unlike curvature draw by SGLD: shrinkage and number of draws say where the server ends, and how surely.

    Without the covariance (rho = 0) that is the mean of the clients' modes, 0; with more of it, nearer to the global mode.
    The error of the mean of correlated rounds is the law's own; what is told apart is ten of them and more.
    """
    h, b = torch.tensor([[0.8], [4.0]]).double(), torch.tensor([[-1.0], [1.0]]).double()
    of = Quadratics(h.numpy()[:, :, None], (h * b).numpy(), np.ones(2))
    mode, rounds, found = float((h * b).sum() / h.sum()), 20, []
    settings = {"lr": 0.2, "steps": 200, "samples": 50, "averaged": False}
    for rho in (0.05, 1.0):
        law = federated_laws.fedpa(
            of, of.shares(), client_temperature=1.0, shrinkage=rho, server_lr=0.2, momentum=0.0, **settings
        )
        mean, error = float(law.law.mean[0]), mean_error(law, rounds)
        draws, _ = sample(
            "fedpa", burn_in=20, shrinkage=rho, server_learning_rate=0.2, curvatures=h, modes=b, rule="sgld",
            rounds=rounds + 15, last=rounds, chains=1, start=b.mean(0), **settings,
        )  # fmt: skip
        assert float(draws.mean()) == pytest.approx(mean, abs=4.5 * error)
        assert 4.5 * error < 0.14
        found.append(mean)
    assert 0.3 < found[0] < found[1] - 0.1 < mode - 0.1  # where each must be, so that the others are ruled out


def mean_error(law: LinearChain, draws: int) -> float:
    """Give the standard deviation of the mean of so many draws of a chain of one number."""
    lags = law.covariances(draws, 1)[:, 0, 0]
    weights = (draws - np.arange(draws)) * np.where(np.arange(draws) == 0, 1.0, 2.0)
    return float((weights @ lags) ** 0.5 / draws)


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("name", ["sgd", "heavy_ball"])
def test_fedpa_is_the_dense_solve_of_its_draws(name: str, averaged: bool) -> None:
    """The draws of gradient descent are known to the last digit: windows of 3 steps after 2 + 1 that fill none."""
    lr, rho, steps, beta = 0.1, 0.4, 15, 0.9 if name == "heavy_ball" else 0.0
    start = torch.tensor([2.0, -1.0]).double()
    found, _ = sample(
        "fedpa", rounds=1, chains=1, lr=lr, steps=steps, rule=name, start=start, samples=4, burn_in=2, shrinkage=rho,
        averaged=averaged,
    )  # fmt: skip
    total = torch.zeros(2, dtype=torch.float64)
    for h, b in zip(H, B, strict=True):
        y, v, path = start, torch.zeros(2).double(), []
        for _ in range(steps):
            v = beta * v + h * (y - b)
            y = y - lr * v
            path.append(y)
        windows = torch.stack(path[3:]).reshape(4, 3, 2)
        draws = windows.mean(1) if averaged else windows[:, -1]
        shrink = 1 / (1 + 3 * rho)
        matrix = shrink * torch.eye(2).double() + (1 - shrink) * torch.cov(draws.T)
        total += torch.linalg.solve(matrix, start - draws.mean(0)) / 3
    torch.testing.assert_close(found[-1, 0], start - total, rtol=1e-12, atol=1e-12)


def test_fedpa_begins_as_server_momentum() -> None:
    settings = dict(rounds=3, chains=2, lr=0.1, steps=6, start=torch.tensor([2.0, -1.0]).double())
    pa, _ = sample("fedpa", server_momentum=0.5, burn_in_rounds=3, shrinkage=1.0, **settings)
    avgm, _ = sample("fedavgm", server_momentum=0.5, **settings)
    assert torch.equal(pa, avgm)
    later, _ = sample("fedpa", server_momentum=0.5, burn_in_rounds=2, shrinkage=1.0, **settings)
    assert not torch.equal(later, avgm)


# --- SGHMC on the server ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_fedsghmc_has_the_variance_of_sghmc(scale: float) -> None:
    lr, friction = 0.1, 0.3
    draws, _ = sample(
        "fedsghmc", rounds=90, chains=8000, lr=lr, temperature=HEAT, friction=friction, server_learning_rate=scale
    )
    eta = scale * lr
    agree(draws[-1], MODE, HEAT / PRECISION / (1 - eta * PRECISION / (2 * (2 - friction))), rtol=0.07)


def test_fedsghmc_without_heat_is_server_momentum() -> None:
    start = torch.tensor([2.0, -1.0]).double()
    settings = dict(rounds=8, chains=1, lr=0.1, steps=3, start=start, server_learning_rate=0.7)
    cold, _ = sample("fedsghmc", temperature=0.0, friction=0.2, correction="none", **settings)
    avgm, _ = sample("fedavgm", server_momentum=0.8, **settings)
    torch.testing.assert_close(cold, avgm, rtol=1e-12, atol=1e-13)


SPLIT_H = torch.ones(6, 1, dtype=torch.float64)
SPLIT_B = torch.tensor([[4.0], [-2.0], [-2.0], [3.0], [-4.0], [1.0]], dtype=torch.float64)


@pytest.mark.parametrize("correction", ["coordinate", "mean", "none"])
def test_fedsghmc_corrects_for_the_noise_of_sampling_clients(correction: str) -> None:
    """Two of six clients a round: variance ratio 1 once corrected, ``1 + bh / (al T)`` if not."""
    lr, friction, heat, chains = 0.05, 0.3, 0.4, 600
    noise = float(law.client_sampling_variance(SPLIT_H * (0 - SPLIT_B), 2)) / 36  # of the mean in place of the sum
    draws, strategy = sample(
        "fedsghmc", rounds=400, last=300, chains=1, lr=lr, temperature=heat, friction=friction, correction=correction,
        memory=0.97, curvatures=SPLIT_H.expand(6, chains), modes=shuffled(SPLIT_B, chains),
        start=torch.zeros(chains).double(), cohort=UniformCohort(count=2, seed=5),
    )  # fmt: skip
    exact = heat / (1 - lr / (2 * (2 - friction)))
    excess = lr * noise / 2 / (friction * heat)
    assert excess > 0.4
    assert float(draws.var()) == pytest.approx(exact * (1 + excess if correction == "none" else 1.0), rel=0.1)
    assert strategy.excess_heat < 0.1


def test_the_variance_that_fedsghmc_measures_is_that_over_all_cohorts() -> None:
    """The mean of what cohorts of 2 of 6 say of V, over all fifteen, is the variance of their means: no bias."""
    strategy = make_strategy("fedsghmc", temperature=1.0, memory=0.0)
    gradients = SPLIT_H * (0.5 - SPLIT_B)
    strategy.population, strategy.accepted, found, means = 6, 2, [], []
    for chosen in itertools.combinations(range(6), 2):
        some = gradients[list(chosen)]
        strategy.reset()
        strategy.accepted = 2
        update, squares = {"x": 0.1 * some.mean(0)}, {"squares": {"x": (0.1 * some).square().mean(0)}}
        found.append(strategy._variance(update, squares, 0.1)["x"])
        means.append(some.mean(0))
    torch.testing.assert_close(torch.stack(found).mean(0), torch.stack(means).var(0, correction=0))


def test_fedsghmc_says_when_the_clients_alone_are_too_hot() -> None:
    _, strategy = sample(
        "fedsghmc", rounds=20, chains=5, lr=0.5, temperature=1e-3, curvatures=SPLIT_H, modes=SPLIT_B,
        start=SPLIT_B.mean(0), cohort=UniformCohort(count=2, seed=5),
    )  # fmt: skip
    assert strategy.excess_heat > 10


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fald", {"correlation": 2.0}),
        ("fald", {"temperature": -1.0}),
        ("fald", {"examples": 0.0}),
        ("dglmc", {"tolerance": 0.0}),
        ("qlsd", {"keep": 0.0}),
        ("qlsd", {"refresh": -1}),
        ("fedpa", {"samples": 0}),
        ("fedsghmc", {"friction": 0.0}),
        ("fedsghmc", {"memory": 1.0}),
        ("fedsghmc", {"correction": "some"}),
    ],
)
def test_what_is_out_of_range_is_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make_strategy(name, **options)
