"""Pictures of what the samplers do; matplotlib is imported when one is drawn.

Each function samples, holds what it measured against what theory predicts, and gives a figure: ``.savefig(path)``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedmomentum.samplers.cyclical import Cyclical
from fedmomentum.samplers.draws import run
from fedmomentum.samplers.gradients import noisy
from fedmomentum.samplers.hmc import hmc
from fedmomentum.samplers.leapfrog import Time, leapfrog
from fedmomentum.samplers.sghmc import sghmc
from fedmomentum.samplers.sgld import sgld
from fedmomentum.samplers.targets import banana, gaussian
from fedmomentum.streams import torch_stream
from fedmomentum.trees import Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, INK, GREY = "#2a6fbb", "#d9691e", "#3a8f5c", "#222222", "#9a9a9a"


def _sheet(title_left: str, title_right: str, *, widths: tuple[float, float] = (1.0, 1.0)) -> tuple[Figure, Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=widths)
    for axes, title in ((left, title_left), (right, title_right)):
        axes.set_title(title, fontsize=10.5, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5, colors=INK)
    return figure, left, right


def _ellipse(covariance: Tensor, *, deviations: float) -> tuple[Tensor, Tensor]:
    angle = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    x, y = deviations * torch.linalg.cholesky(covariance) @ circle
    return x, y


def figure_gaussian_sghmc(*, seed: int = 0) -> Figure:
    """Draw SGHMC on a Gaussian with noisy gradients: too wide by ``1 + bh / al``, or right once corrected."""
    covariance = torch.tensor([[2.0, 1.2], [1.2, 1.5]], dtype=torch.float64)
    target = gaussian(torch.zeros(2), covariance)
    lr, friction = 0.02, 0.1

    def cloud(noise: float, *, correct: bool) -> Tensor:
        kernel = sghmc(
            estimate=noisy(target.gradient, noise),
            step_size=lr,
            friction=friction,
            noise_variance=noise if correct else 0.0,
        )
        start = {"x": torch.zeros(1000, 2, dtype=torch.float64)}
        return run(kernel, start, 420, seed=seed, burn_in=150, thin=3).samples["x"].flatten(0, 1)

    figure, left, right = _sheet("Two deviations, gradient noise V = 8", "How much too wide", widths=(1.05, 1.0))
    for correct, colour, label in ((False, ORANGE, "uncorrected"), (True, BLUE, "corrected")):
        draws = cloud(8.0, correct=correct)
        left.scatter(*draws[::100].T, s=5, color=colour, alpha=0.35, lw=0)
        left.plot(*_ellipse(torch.cov(draws.T), deviations=2), color=colour, lw=2, label=label)
    left.plot(*_ellipse(covariance, deviations=2), color=INK, lw=1.4, ls="--", label="target")
    left.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=(-5.5, 5.5), ylim=(-4.6, 4.6))
    left.legend(fontsize=8.5, frameon=False, loc="upper left")
    noises = [0.0, 2.0, 4.0, 6.0, 8.0]
    line = np.linspace(0, 0.85, 50)
    right.plot(line, 1 + line, color=ORANGE, lw=1.2, label="predicted, $1 + b_h / α$")
    right.axhline(1.0, color=BLUE, lw=1.2)
    for correct, colour in ((False, ORANGE), (True, BLUE)):
        ratios = [float(torch.trace(torch.cov(cloud(v, correct=correct).T)) / torch.trace(covariance)) for v in noises]
        label = "corrected" if correct else "uncorrected"
        right.plot(
            [lr * v / 2 / friction for v in noises], ratios, "o", color=colour, ms=5.5, label=f"measured, {label}"
        )
    right.set(xlabel="heat of the gradient noise over friction, $b_h / α$", ylabel="variance over that of the target")
    right.set(ylim=(0.9, 1.95))
    right.legend(fontsize=8.5, frameon=False, loc="upper left")
    return figure


def figure_hmc_banana(*, seed: int = 0) -> Figure:
    """Draw HMC in Rosenbrock's valley: draws, one trajectory, and the energy error, which falls as the step squared."""
    target = banana(width=0.4)
    assert target.sample is not None
    start = target.sample(torch_stream(seed, "start"), 60)
    kernel = hmc(target.potential, gradient=target.gradient, step_size=0.12, steps=12)
    draws = run(kernel, start, 100, seed=seed, burn_in=50, thin=2).samples["x"].flatten(0, 1)
    figure, left, right = _sheet(
        "1500 draws, and one trajectory of 60 steps", "Energy error over a fixed time", widths=(1.15, 1.0)
    )
    x, y = torch.meshgrid(torch.linspace(-2.6, 4, 300).double(), torch.linspace(-2, 12, 300).double(), indexing="xy")
    grid = torch.stack([x, y], -1).reshape(-1, 2)
    height = torch.func.vmap(target.potential)({"x": grid}).reshape(300, 300)
    left.contour(x, y, height, levels=[0.5, 2, 4.5, 8], colors=GREY, linewidths=0.9)
    left.scatter(*draws.T, s=5, color=BLUE, alpha=0.4, lw=0)
    q, p = torch.tensor([[-1.1, 1.2]], dtype=torch.float64), torch.tensor([[-1.91, -0.59]], dtype=torch.float64)
    path = [q]
    for _ in range(60):
        q, p, _ = leapfrog(_flat(target.gradient), _drift, q, p, _flat(target.gradient)(q), step_size=0.06, steps=1)
        path.append(q)
    line = torch.cat(path)
    left.plot(*line.T, "-o", color=ORANGE, lw=1.3, ms=2.4)
    left.plot(*line[0], "o", color=INK, ms=6)
    left.annotate("start", (float(line[0, 0]), float(line[0, 1])), (-1.95, 0.5), fontsize=9, color=INK)
    left.set(xlabel="$x$", ylabel="$y$", xlim=(-2.6, 4), ylim=(-2, 12))
    steps = np.array([8, 16, 32, 64, 128, 256])
    q = target.sample(torch_stream(seed, "points"), 400)["x"]
    p = torch.randn(400, 2, generator=torch_stream(seed, "momenta"), dtype=torch.float64)

    def energy(q: Tensor, p: Tensor) -> Tensor:
        total: Tensor = torch.func.vmap(target.potential)({"x": q}) + 0.5 * p.square().sum(-1)
        return total

    errors = []
    for n in steps:
        end = leapfrog(_flat(target.gradient), _drift, q, p, _flat(target.gradient)(q), step_size=0.8 / n, steps=int(n))
        errors.append(float((energy(end[0], end[1]) - energy(q, p)).abs().median()))
    right.loglog(0.8 / steps, errors, "o", color=BLUE, ms=6, label="measured (median of 400)")
    right.loglog(0.8 / steps, errors[-1] * (steps[-1] / steps) ** 2.0, color=ORANGE, lw=1.2, label="slope 2")
    right.set(xlabel="leapfrog step", ylabel="|change of energy|")
    right.legend(fontsize=8.5, frameon=False, loc="upper left")
    return figure


def _flat(gradient: Any) -> Any:
    return lambda x: gradient({"x": x})["x"]


def _drift(position: Tensor, momentum: Tensor, time: Time) -> Tensor:
    return position + time * momentum


def figure_cyclical(*, seed: int = 0) -> Figure:
    """Draw cyclical SGLD on a law with two modes against a constant step that stays in the one where it began."""

    def gradient(tree: Tree) -> Tree:
        return {"x": tree["x"] - 4 * torch.tanh(4 * tree["x"])}

    start = {"x": torch.full((1, 1), 4.0, dtype=torch.float64)}
    cycle = Cyclical(peak=1.9, steps=2000, cycles=10, exploration=0.0)
    both = run(sgld(gradient=gradient, step_size=cycle), start, 2000, seed=seed)
    stuck = run(sgld(gradient=gradient, step_size=0.05), start, 2000, seed=seed).samples["x"].flatten()
    x, late = both.samples["x"].flatten(), torch.tensor([t % cycle.length >= 0.7 * cycle.length for t in range(2000)])
    figure, left, right = _sheet("One chain, ten cycles", "What is kept: the last 30% of each cycle", widths=(1.3, 1.0))
    left.plot(np.arange(2000)[~late], x[~late], ".", color=GREY, ms=2.5, label="exploring")
    left.plot(np.arange(2000)[late], x[late], ".", color=BLUE, ms=3.5, label="kept")
    left.set(xlabel="step", ylabel="$x$", ylim=(-16, 16))
    left.legend(fontsize=8.5, frameon=False, loc="upper right", ncols=2, markerscale=2.5)
    size = left.twinx()
    size.plot([cycle(t) for t in range(2000)], color=ORANGE, lw=1.2)
    size.set_ylim(0, 15)
    size.set_yticks([0, 2], ["0", "2"])
    size.set_ylabel("step size", color=ORANGE, fontsize=9, loc="bottom")
    size.tick_params(labelsize=8.5, colors=ORANGE)
    size.spines[["top", "left"]].set_visible(False)
    bins = np.linspace(-8, 8, 49)
    right.hist(stuck.numpy(), bins=bins, density=True, color=GREY, alpha=0.5, label="constant step 0.05")
    right.hist(x[late].numpy(), bins=bins, density=True, color=BLUE, alpha=0.6, label="cyclical")
    at = np.linspace(-8, 8, 400)
    density = (np.exp(-((at - 4) ** 2) / 2) + np.exp(-((at + 4) ** 2) / 2)) / (2 * math.sqrt(2 * math.pi))
    right.plot(at, density, color=INK, lw=1.3, ls="--", label="target")
    right.set(xlabel="$x$", ylabel="density", ylim=(0, 0.6))
    right.legend(fontsize=8.5, frameon=False, loc="upper left")
    return figure
