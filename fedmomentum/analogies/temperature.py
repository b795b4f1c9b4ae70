"""With a constant step an optimizer does not settle: it samples, at a temperature set by lr, momentum and noise.

Gradient noise of variance V heats the heavy ball to ``T = lr V/(2 (1 - beta))``, and its positions visit a loss U
with the frequencies of Gibbs, ``exp(-U/T)``, where lr times curvature is small. On a quadratic everything is exact,
even the equipartition of energy: the mean potential and kinetic energies are equal at every step size if the mass is
``(1 + beta)/2``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies import linear
from fedmomentum.analogies.descent import steps_of
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.optim import Rule, make_rule
from fedmomentum.streams import torch_stream


@dataclass(frozen=True)
class Bath:
    """The heat bath that noise and friction make.

    Args:
        temperature: lr V/(2 (1 - beta)), in units of the loss; the limit of small steps.
        variance: of the position on a quadratic, exact at every step size.
        kinetic: mean of (1 + beta)/2 (dx)^2/(2 lr), exact; equal to the mean of h x^2/2.
        friction: alpha = 1 - beta, that of SGHMC.
    """

    temperature: float
    variance: float
    kinetic: float
    friction: float


def predict(*, lr: float, momentum: float, noise: float, curvature: float) -> Bath:
    """Give the temperature and the stationary state of a heavy ball in gradient noise.

        T = lr V/(2 (1 - beta)),   var = lr^2 V (1 + beta)/((1 - beta) a (2 (1 + beta) - a)),   a = lr h
        equipartition: (1 + beta)/2 E[dx^2]/(2 lr) = h var/2

    Args:
        lr: learning rate, parameter^2 per loss.
        momentum: beta, in [0, 1).
        noise: V, variance of one coordinate of the gradient, (loss per parameter)^2.
        curvature: h, loss per parameter^2.

    Raises:
        ValueError: an argument is out of its range or the step unstable.

    Source: arXiv:1704.04289, with the heavy ball; arXiv:1402.4102 for the friction.
    """
    a = lr * curvature
    if not (lr > 0 and noise > 0 and curvature > 0 and 0 <= momentum < 1):
        raise ValueError(
            f"need lr, noise, curvature > 0 and 0 <= momentum < 1, not {lr}, {noise}, {curvature}, {momentum}"
        )
    if a >= linear.stability_limit("heavy_ball", momentum):
        raise ValueError(f"lr * curvature = {a:g} is unstable: there is no stationary state")
    variance = lr**2 * noise * (1 + momentum) / ((1 - momentum) * a * (2 * (1 + momentum) - a))
    return Bath(
        temperature=lr * noise / (2 * (1 - momentum)),
        variance=variance,
        kinetic=curvature * variance / 2,
        friction=1 - momentum,
    )


def simulate(
    *,
    lr: float = 0.01,
    momentum: float = 0.9,
    noise: float = 1.0,
    curvature: float = 1.0,
    chains: int = 4000,
    seed: int = 0,
) -> Measured:
    """Heat a crowd of heavy balls with gradient noise: on a quadratic, on a double well, and by minibatches.

    Args:
        lr: learning rate.
        momentum: beta.
        noise: variance of the gradient.
        curvature: of the quadratic.
        chains: optimizers that run at once.
        seed: of the streams "temperature ...".
    """
    bath = predict(lr=lr, momentum=momentum, noise=noise, curvature=curvature)
    rule = make_rule("heavy_ball", lr=lr, momentum=momentum)
    draw = torch_stream(seed, "temperature quadratic")
    size = math.sqrt(noise)

    def noisy(x: Tensor) -> Tensor:
        return curvature * x + size * torch.randn(x.shape, generator=draw, dtype=torch.float64)

    start = math.sqrt(bath.variance) * torch.randn(chains, generator=draw, dtype=torch.float64)
    radius = linear.radius("heavy_ball", lr * curvature, momentum)
    forget = math.ceil(4 / -math.log(radius))
    squares, kinetic = _moments(rule, noisy, start, wait=forget, steps=max(3 * forget, 300), lr=lr, momentum=momentum)
    claims = [
        Claim("variance", bath.variance, squares, 0.03, "parameter^2"),
        Claim("kinetic energy", bath.kinetic, kinetic, 0.03, "loss"),
        Claim("equipartition: kinetic over potential", 1.0, kinetic / (curvature * squares / 2), 0.02),
    ]
    if lr * curvature <= 0.05:
        claims.append(Claim("temperature", bath.temperature, curvature * squares, 0.03 + lr * curvature, "loss"))
    series = {}
    if lr * curvature <= 0.02:
        # A tilted double well whose wells are 2 T deep, explored at a step small beside its curvature.
        well = DoubleWell(height=2 * bath.temperature, scale=2 * math.sqrt(bath.temperature / curvature))
        draws = torch_stream(seed, "temperature wells")

        def jolted(x: Tensor) -> Tensor:
            return well.gradient(x) + size * torch.randn(x.shape, generator=draws, dtype=torch.float64)

        evenly = well.scale * torch.sign(start)
        visited = _visits(rule, jolted, evenly, wait=8 * forget, samples=12, every=max(1, forget // 2))
        edges = np.linspace(-2.2, 2.2, 25) * well.scale
        seen = np.histogram(visited, bins=edges)[0] / visited.size
        gibbs = well.gibbs(edges, bath.temperature)
        lower = float(gibbs[: len(gibbs) // 2].sum())
        apart = float(np.abs(seen - gibbs).sum() / 2)
        claims += [
            Claim("occupation of the lower well", lower, float((visited < 0).mean()), 0.05),
            Claim("distance of the histogram from Gibbs", 0.0, apart, 0.04, scale=1.0),
        ]
        series = {"bins": as_array(edges), "seen": as_array(seen), "gibbs": gibbs}
    expected, measured = _regression(momentum, seed)
    claims.append(Claim("variance from minibatches", expected, measured, 0.06, "parameter^2"))
    settings = {"lr": lr, "momentum": momentum, "noise": noise, "curvature": curvature, "chains": chains, "seed": seed}
    return Measured("temperature", settings, tuple(claims), series)


@dataclass(frozen=True)
class DoubleWell:
    """``U(x) = height ((x/scale)^2 - 1)^2 + height/4 x/scale``: two wells, the left one lower.

    Args:
        height: of the barrier, loss.
        scale: of the wells' distance from zero, parameter.
    """

    height: float = 1.0
    scale: float = 1.0

    def value(self, x: Tensor) -> Tensor:
        """Give the loss."""
        u = x / self.scale
        return self.height * ((u**2 - 1) ** 2 + u / 4)

    def gradient(self, x: Tensor) -> Tensor:
        """Give its slope."""
        u = x / self.scale
        return self.height / self.scale * (4 * u * (u**2 - 1) + 0.25)

    def gibbs(self, edges: Array, temperature: float) -> Array:
        """Give the probabilities of bins under ``exp(-U/T)``."""
        fine = np.linspace(edges[0], edges[-1], 40 * (len(edges) - 1) + 1)
        middle = (fine[1:] + fine[:-1]) / 2
        weight = np.exp(-as_array(self.value(torch.as_tensor(middle))) / temperature)
        bins = weight.reshape(len(edges) - 1, 40).sum(1)
        return as_array(bins / bins.sum())


@dataclass(frozen=True)
class Heat:
    """How hot an optimizer runs.

    Args:
        noise: variance of the gradient, mean over coordinates.
        temperature: lr V/(2 (1 - beta)), loss per coordinate.
        kinetic: mean of (1 + beta) (dx)^2/(2 lr) over coordinates and steps: the temperature of the motion.
        equilibrium: kinetic over temperature: one in equilibrium, above while there is still a way to go.
    """

    noise: float
    temperature: float
    kinetic: float
    equilibrium: float


def probe(gradients: Tensor, points: Tensor, *, lr: float, momentum: float) -> Heat:
    """Measure the temperature at which a heavy ball samples, and whether it has come to equilibrium.

        V = mean of (g_{t+1} - g_t)^2/2

    Successive differences remove the signal, so the noise is not overestimated while the model still learns.

    Args:
        gradients: ``[T, P]`` in the order of the steps.
        points: ``[T, P]`` the parameters at those steps.
        lr: of the optimizer.
        momentum: of the optimizer.

    Raises:
        ValueError: shapes differ, fewer than four steps, or gradients without noise.
    """
    if gradients.shape != points.shape or gradients.ndim != 2 or len(points) < 4:
        raise ValueError(f"need two [T, P] records with T >= 4, not {list(gradients.shape)} and {list(points.shape)}")
    noise = float((gradients.double().diff(dim=0) ** 2).mean()) / 2
    if noise == 0:
        raise ValueError("the gradients carry no noise: the temperature is zero")
    kinetic = (1 + momentum) / (2 * lr) * float((points.double().diff(dim=0) ** 2).mean())
    temperature = lr * noise / (2 * (1 - momentum))
    return Heat(noise=noise, temperature=temperature, kinetic=kinetic, equilibrium=kinetic / temperature)


def figure(folder: Path, *, lr: float = 0.01, momentum: float = 0.9, noise: float = 1.0) -> None:
    """Draw ``temperature.svg`` and ``.png``: variance against momentum, and a double well visited."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, ORANGE, RED, sheet

    with sheet(folder, "temperature", 2) as (_, (left, right)):
        betas = np.linspace(0, 0.98, 60)
        dots = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)
        for rate, colour in ((0.02, BLUE), (0.3, GREEN), (1.2, ORANGE)):
            line = [predict(lr=rate, momentum=float(b), noise=1.0, curvature=1.0) for b in betas]
            left.plot(1 - betas, [s.variance for s in line], color=colour, label=f"lr · h = {rate}")
            left.plot(1 - betas, [s.temperature for s in line], color=colour, ls=":", lw=1)
            left.plot([1 - b for b in dots], [_variance(rate, b) for b in dots], "o", color=colour)
        left.plot([], [], ":", color=GREY, label="T/h, small steps")
        left.set(
            title="How far noise carries (dots: measured)",
            xlabel="friction 1 − β",
            ylabel="variance",
            xscale="log",
            yscale="log",
        )
        left.legend(loc="upper right")
        run = simulate(lr=lr, momentum=momentum, noise=noise, chains=3000)
        edges, seen, gibbs = (run.series[name] for name in ("bins", "seen", "gibbs"))
        width = edges[1] - edges[0]
        right.bar(edges[:-1] + width / 2, seen / width, width * 0.92, color=BLUE, alpha=0.55, label="visits")
        right.step(edges[:-1] + width / 2, gibbs / width, where="mid", color=RED, label="exp(−U/T), predicted")
        right.set(title="A heavy ball samples a double well", xlabel="parameter", ylabel="density")
        right.grid(False)
        right.legend(loc="upper right")


def _moments(
    rule: Rule,
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    wait: int,
    steps: int,
    lr: float,
    momentum: float,
) -> tuple[float, float]:
    """Give the mean square of the position and the mean kinetic energy over chains and steps."""
    squares = kinetic = 0.0
    before = start
    for t, x in zip(range(wait + steps), steps_of(rule, gradient, start), strict=False):
        if t >= wait:
            squares += float((x**2).mean()) / steps
            kinetic += (1 + momentum) / 2 * float(((x - before) ** 2).mean()) / (2 * lr) / steps
        before = x
    return squares, kinetic


def _visits(
    rule: Rule, gradient: Callable[[Tensor], Tensor], start: Tensor, *, wait: int, samples: int, every: int
) -> Array:
    kept = []
    for t, x in zip(range(wait + samples * every), steps_of(rule, gradient, start), strict=False):
        if t >= wait and (t - wait) % every == 0:
            kept.append(x)
    return as_array(torch.cat(kept))


def _variance(lr: float, momentum: float) -> float:
    draw = torch_stream(1, "temperature figure")
    rule = make_rule("heavy_ball", lr=lr, momentum=momentum)
    forget = math.ceil(4 / -math.log(linear.radius("heavy_ball", lr, momentum)))
    start = torch.zeros(1000, dtype=torch.float64)
    return _moments(
        rule,
        lambda x: x + torch.randn(x.shape, generator=draw, dtype=torch.float64),
        start,
        wait=forget,
        steps=max(2 * forget, 100),
        lr=lr,
        momentum=momentum,
    )[0]


def _regression(
    momentum: float, seed: int, *, examples: int = 256, batch: int = 4, chains: int = 300
) -> tuple[float, float]:
    """Give the predicted and the measured variance of a mean learnt from minibatches, by many runs at once.

    The loss is the mean of ``(x - y_i)^2/2``: curvature one, and the gradient of a minibatch drawn with replacement has
    the variance of the data over the batch size.
    """
    draw = torch_stream(seed, "temperature batches")
    data = torch.randn(examples, generator=draw, dtype=torch.float64) * 2 + 5
    lr = 0.1 * (1 - momentum)
    rule = make_rule("heavy_ball", lr=lr, momentum=momentum)

    def gradient(x: Tensor) -> Tensor:
        pick = torch.randint(examples, (chains, batch), generator=draw)
        return x - data[pick].mean(1)

    expected = predict(lr=lr, momentum=momentum, noise=float(data.var(correction=0)) / batch, curvature=1.0)
    start = torch.full((chains,), float(data.mean()), dtype=torch.float64)
    total, count = 0.0, 0
    for t, x in zip(range(1500), steps_of(rule, gradient, start), strict=False):
        if t >= 150:
            total += float(((x - data.mean()) ** 2).mean())
            count += 1
    return expected.variance, total / count
