from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedmomentum.analogies import linear
from fedmomentum.analogies.descent import follow

BETAS = (0.0, 0.3, 0.81, 0.95)
CASES = [(form, a, beta) for form in linear.FORMS for a in (1e-3, 0.04, 0.5, 1.7) for beta in BETAS]


def torch_path(form: linear.Form, a: float, beta: float, steps: int) -> np.ndarray:
    """x_t of torch.optim.SGD, an implementation of its own."""
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    lr = a * (1 - beta) if form == "ema" else a
    # With the rate scaled, torch's heavy ball is the ema: both buffers start from the first gradient.
    options = {"momentum": beta, "nesterov": form == "nesterov" and beta > 0}
    optimizer = torch.optim.SGD([x], lr=lr, **options)
    path = [1.0]
    for _ in range(steps):
        optimizer.zero_grad()
        (x**2 / 2).sum().backward()
        optimizer.step()
        path.append(x.item())
    return np.array(path)


@pytest.mark.parametrize(("form", "a", "beta"), CASES)
def test_path_is_torchs(form: linear.Form, a: float, beta: float) -> None:
    known = torch_path(form, a, beta, 60)
    np.testing.assert_allclose(linear.path(form, a, beta, 60), known, rtol=0, atol=1e-9 * np.abs(known).max())


# at beta = 0 and a = 1 the path is one exponential, which does not determine two coefficients
@pytest.mark.parametrize(("form", "a", "beta"), [case for case in CASES if case[2] != 0.0 and case[1] != 1.0])
def test_fit_inverts_path(form: linear.Form, a: float, beta: float) -> None:
    p, q = linear.fit(linear.path(form, a, beta, 40))
    assert (p, q) == pytest.approx(linear.coefficients(form, a, beta), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("form", linear.FORMS)
@pytest.mark.parametrize("beta", BETAS)
def test_stability_limit_divides_shrinking_from_growing(form: linear.Form, beta: float) -> None:
    limit = linear.stability_limit(form, beta)
    assert linear.radius(form, limit * 0.999, beta) < 1 < linear.radius(form, limit * 1.001, beta)
    inside, outside = (np.abs(torch_path(form, limit * factor, beta, 700)) for factor in (0.98, 1.02))
    assert inside[-1] < 1e-2 and outside[-1] > 1e2


@pytest.mark.parametrize(("form", "best"), [("heavy_ball", 0.81), ("ema", (0.99 / 1.01) ** 2), ("nesterov", 0.9 / 1.1)])
def test_critical_momentum_is_the_fastest(form: linear.Form, best: float) -> None:
    a = 0.01
    assert linear.critical_momentum(form, a) == pytest.approx(best, rel=1e-12)
    betas = np.linspace(0, 0.999, 4001)
    radii = [linear.radius(form, a, float(b)) for b in betas]
    assert betas[int(np.argmin(radii))] == pytest.approx(best, abs=5e-4)
    p, q = linear.coefficients(form, a, best)
    assert p * p / 4 == pytest.approx(q, rel=1e-12)  # the roots have met


def test_critical_radius() -> None:
    a = 0.09
    assert linear.radius("heavy_ball", a, linear.critical_momentum("heavy_ball", a)) == pytest.approx(0.7, abs=1e-6)
    assert linear.radius("nesterov", a, linear.critical_momentum("nesterov", a)) == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize("form", linear.FORMS)
def test_momentum_zero_is_plain_descent(form: linear.Form) -> None:
    np.testing.assert_allclose(linear.path(form, 0.3, 0.0, 20), 0.7 ** np.arange(21), rtol=1e-9)
    assert linear.stability_limit(form, 0.0) == 2.0


def test_double_roots_do_not_divide_by_zero() -> None:
    a = 0.25
    beta = linear.critical_momentum("heavy_ball", a)
    np.testing.assert_allclose(
        linear.path("heavy_ball", a, beta, 50), torch_path("heavy_ball", a, beta, 50), atol=1e-12
    )
    np.testing.assert_allclose(linear.path("heavy_ball", 1.0, 0.0, 3), [1, 0, 0, 0], atol=1e-15)


@pytest.mark.parametrize("momentum", [-1.0, 1.0, 1.5, math.nan])
def test_momentum_out_of_range(momentum: float) -> None:
    with pytest.raises(ValueError, match="momentum"):
        linear.coefficients("heavy_ball", 0.1, momentum)


def test_names_and_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="heavy_ball, ema, nesterov"):
        linear.coefficients("polyak", 0.1, 0.9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="critical damping"):
        linear.critical_momentum("heavy_ball", 1.5)
    with pytest.raises(ValueError, match="four points"):
        linear.fit(np.zeros(10))


def test_follow_stacks_copies_of_hyperparameters() -> None:
    from fedmomentum.optim import make_rule

    betas = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    start = torch.ones(3, dtype=torch.float64)
    together = follow(make_rule("heavy_ball", lr=0.1, momentum=betas), lambda x: x, start, 30, copies=3)
    for k, beta in enumerate(betas):
        alone = follow(make_rule("heavy_ball", lr=0.1, momentum=float(beta)), lambda x: x, start[0], 30)
        assert torch.equal(together[:, k], alone)
