"""SGLD, SGHMC and underdamped Langevin on laws whose discretisation is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedmomentum.samplers import Kernel, noisy, run, sghmc, sgld, underdamped_langevin
from fedmomentum.trees import Tree

CURVATURES = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64)


def quadratic(tree: Tree) -> Tree:
    return {"x": CURVATURES * tree["x"]}


def start(chains: int, size: int = 3) -> Tree:
    return {"x": torch.zeros(chains, size, dtype=torch.float64)}


def sgld_law(lr: float, heat: float) -> Tensor:
    return heat / CURVATURES / (1 - lr * CURVATURES / 2)


def sghmc_law(lr: float, friction: float, heat: float) -> Tensor:
    return heat / CURVATURES / (1 - lr * CURVATURES / (2 * (2 - friction)))


CASES: list[tuple[str, Callable[[], Kernel], Tensor]] = [
    ("sgld", lambda: sgld(gradient=quadratic, step_size=0.3), sgld_law(0.3, 1.0)),
    ("sgld hot", lambda: sgld(gradient=quadratic, step_size=0.5, temperature=3.0), sgld_law(0.5, 3.0)),
    ("sghmc", lambda: sghmc(gradient=quadratic, step_size=0.4, friction=0.3), sghmc_law(0.4, 0.3, 1.0)),
    (
        "sghmc cool",
        lambda: sghmc(gradient=quadratic, step_size=0.5, friction=0.7, temperature=0.2),
        sghmc_law(0.5, 0.7, 0.2),
    ),
    ("baoab", lambda: underdamped_langevin(gradient=quadratic, step_size=1.1, friction=0.8), 1.0 / CURVATURES),
    ("baoab hot", lambda: underdamped_langevin(gradient=quadratic, step_size=0.9, temperature=2.0), 2.0 / CURVATURES),
    ("per chain", lambda: sgld(gradient=quadratic, step_size=torch.full((1000,), 0.3)), sgld_law(0.3, 1.0)),
    (
        "scheduled",
        lambda: sgld(gradient=quadratic, step_size=lambda t: 0.3, temperature=lambda t: 2.0),
        sgld_law(0.3, 2.0),
    ),
]


@pytest.mark.parametrize(("make", "variance"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_stationary_variance_on_a_gaussian(
    make: Callable[[], Kernel], variance: Tensor, agree: Callable[..., None]
) -> None:
    x = run(make(), start(1000), 220, seed=1, burn_in=60, thin=2).samples["x"]
    agree(x, 0.0, resolution=0.04 * float(variance.max()) ** 0.5)
    for i, wanted in enumerate(variance):
        agree(x[..., i].square(), wanted, resolution=0.02 * float(wanted))


@pytest.mark.parametrize("name", ["sgld", "sghmc", "underdamped_langevin"])
def test_one_step_without_heat_is_the_method_by_hand(name: str) -> None:
    """At temperature 0 two steps are the published recursions, written out."""
    x0 = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    h, friction = 0.3, 0.4
    make = {
        "sgld": lambda: sgld(gradient=quadratic, step_size=h, temperature=0.0),
        "sghmc": lambda: sghmc(gradient=quadratic, step_size=h, friction=friction, temperature=0.0),
        "underdamped_langevin": lambda: underdamped_langevin(
            gradient=quadratic, step_size=h, friction=friction, temperature=0.0
        ),
    }[name]
    found = run(make(), {"x": x0}, 2).samples["x"][-1]
    x, v = x0, torch.zeros_like(x0)
    for _ in range(2):
        if name == "sgld":
            x = x - h * CURVATURES * x
        elif name == "sghmc":
            v = (1 - friction) * v - h * CURVATURES * x
            x = x + v
        else:
            v = v - h / 2 * CURVATURES * x
            x = x + h / 2 * v
            v = math.exp(-friction * h) * v
            x = x + h / 2 * v
            v = v - h / 2 * CURVATURES * x
    torch.testing.assert_close(found, x, rtol=1e-14, atol=0)


@pytest.mark.parametrize("corrected", [True, False])
def test_sghmc_corrects_for_gradient_noise(corrected: bool, agree: Callable[..., None]) -> None:
    """Uncorrected, the variance is ``1 + bh / al`` times too large, here 1.6 times."""
    lr, friction, noise = 0.1, 0.2, 2.4
    bh = lr * noise / 2
    kernel = sghmc(
        estimate=noisy(quadratic, noise),
        step_size=lr,
        friction=friction,
        noise_variance=noise if corrected else 0.0,
    )
    x = run(kernel, start(1000), 340, seed=2, burn_in=140, thin=2).samples["x"]
    ratio = 1.0 if corrected else 1 + bh / friction
    assert 1 + bh / friction == pytest.approx(1.6)
    for i, wanted in enumerate(sghmc_law(lr, friction, 1.0) * ratio):
        agree(x[..., i].square(), wanted, resolution=0.03 * float(wanted))


def test_sgld_feels_gradient_noise_as_predicted(agree: Callable[..., None]) -> None:
    lr, noise = 0.4, 3.0
    x = run(sgld(estimate=noisy(quadratic, noise), step_size=lr), start(1000), 160, seed=3, burn_in=40).samples["x"]
    for i, wanted in enumerate(sgld_law(lr, 1.0) * (1 + lr * noise / 2)):
        agree(x[..., i].square(), wanted, resolution=0.02 * float(wanted))


def test_sghmc_refuses_noise_that_friction_cannot_cool() -> None:
    kernel = sghmc(estimate=noisy(quadratic, 9.0), step_size=0.1, friction=0.2, noise_variance=9.0)
    with pytest.raises(ValueError, match=r"more than friction x temperature = 0\.2"):
        run(kernel, start(2), 1)
    still = sghmc(gradient=quadratic, step_size=0.1, friction=0.2, noise_variance=9.0, temperature=0.0)
    assert float(run(still, start(2), 3).samples["x"].abs().max()) == 0.0


@pytest.mark.parametrize("friction", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("heat", [0.5, 2.0])
def test_fluctuation_dissipation(friction: float, heat: float, agree: Callable[..., None]) -> None:
    """Whatever the friction, momenta have the temperature that was set, up to ``1 - h^2 w^2 / 4`` of BAOAB."""
    kernel = underdamped_langevin(gradient=lambda t: t, step_size=0.4, friction=friction, temperature=heat)
    draws = run(kernel, start(400), 160, seed=4, burn_in=40)
    wanted = heat * (1 - 0.4**2 / 4)
    agree(draws.info["kinetic_temperature"].unsqueeze(-1), wanted, resolution=0.02 * wanted)
    agree(draws.samples["x"][..., :1].square(), heat, resolution=0.04 * heat)


@pytest.mark.parametrize("friction", [0.1, 0.5, 1.0])
def test_sghmc_kinetic_temperature(friction: float, agree: Callable[..., None]) -> None:
    """The stationary covariance of (x, v) solves the Lyapunov equation of the linear map, friction by friction."""
    lr, heat = 0.05, 1.5
    move = torch.tensor([[1 - lr, 1 - friction], [-lr, 1 - friction]], dtype=torch.float64)
    noise = 2 * friction * lr * heat * torch.ones(2, 2, dtype=torch.float64)
    stationary = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - torch.kron(move, move), noise.flatten())
    draws = run(
        sghmc(gradient=lambda t: t, step_size=lr, friction=friction, temperature=heat),
        start(500),
        240,
        seed=5,
        burn_in=80,
    )
    wanted = float(stationary[3]) / lr
    agree(draws.info["kinetic_temperature"].unsqueeze(-1), wanted, resolution=0.02 * wanted)
    assert float(stationary[0]) == pytest.approx(heat / (1 - lr / (2 * (2 - friction))), rel=1e-9)


def quartic(tree: Tree) -> Tree:
    return {"x": tree["x"] ** 3}


def test_equipartition(agree: Callable[..., None]) -> None:
    """``E[x dU/dx] = T`` in every coordinate, on a law that is not Gaussian."""
    kernel = underdamped_langevin(gradient=quartic, step_size=0.2, temperature=0.7)
    x = run(kernel, start(1000, 2), 240, seed=6, burn_in=60, thin=3).samples["x"]
    agree(x**4, 0.7, resolution=0.01)


def test_baoab_is_second_order_in_the_step() -> None:
    """Half the step, a quarter of the error of ``E[s dU - s']``, ``s = sin(w x)``, which is 0 under ``exp(-U)``."""
    w = 1.5

    def gradient(tree: Tree) -> Tree:
        return {"x": tree["x"] - w * torch.sin(w * tree["x"])}

    errors = []
    for h in (0.6, 0.3):
        kernel = underdamped_langevin(gradient=gradient, step_size=h)
        x = run(kernel, start(20000, 4), int(45 / h), seed=7, burn_in=int(6 / h)).samples["x"]
        errors.append(float((torch.sin(w * x) * (x - w * torch.sin(w * x)) - w * torch.cos(w * x)).mean()))
    assert abs(errors[0]) > 0.025
    assert 1.5 < math.log2(errors[0] / errors[1]) < 2.5
