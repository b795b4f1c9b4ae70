"""A recurrent network multiplies: its gradients grow or die as powers, and so does its curvature.

The linear network ``h_T = w^T h_0`` has a loss whose curvature at a perfect fit is ``(T w^(T-1) h_0)^2``: flat for
small w, a cliff for large. A step size that is safe on one side explodes on the other; clipping bounds the damage,
and momentum loosens that bound by ``1/(1 - beta)``.
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
from fedmomentum.analogies.curvature import sharpness
from fedmomentum.analogies.descent import filtered, follow
from fedmomentum.analogies.gated import largest_stable, teacher
from fedmomentum.analogies.linear import Form
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.optim import Rule, chain, clip_by_norm, make_rule
from fedmomentum.streams import torch_stream
from fedmomentum.trees import Tree


@dataclass(frozen=True)
class Unrolled:
    """A linear recurrent network at a perfect fit.

    Args:
        curvature: of the loss in the weight, loss per weight^2.
        safe_lr: largest stable learning rate.
        growth: of a gradient per step back in time, ln |w|; zero is the edge.
        largest_step: of the weight with clipped gradients, lr c/(1 - beta) (ema: lr c).
    """

    curvature: float
    safe_lr: float
    growth: float
    largest_step: float


def predict(
    *,
    weight: float = 1.02,
    length: int = 30,
    momentum: float = 0.9,
    start: float = 1.0,
    lr: float = 1e-3,
    clip: float = 1.0,
    form: Form = "heavy_ball",
) -> Unrolled:
    """Give the curvature of a linear recurrent network and what it allows.

        loss (w^T h_0 - target)^2/2,   h = (T w^(T-1) h_0)^2,   lr < limit(beta)/h,   |step| <= lr c/(1 - beta)

    Args:
        weight: w, not zero.
        length: T, steps in time.
        momentum: beta, in [0, 1).
        start: h_0.
        lr: learning rate, for the largest step.
        clip: c, largest norm of a gradient.
        form: which rule.

    Raises:
        ValueError: an argument is out of its range.

    Source: arXiv:1211.5063 for cliffs and clipping.
    """
    if weight == 0 or start == 0 or length < 1 or not 0 <= momentum < 1 or not (lr > 0 and clip > 0):
        raise ValueError(
            "need weight and start other than 0, length >= 1, 0 <= momentum < 1, lr > 0 and clip > 0, not "
            f"{weight}, {start}, {length}, {momentum}, {lr}, {clip}"
        )
    curvature = (length * weight ** (length - 1) * start) ** 2
    gain = {"ema": 1.0, "heavy_ball": 1 / (1 - momentum), "nesterov": 1 / (1 - momentum)}[form]
    return Unrolled(
        curvature=curvature,
        safe_lr=linear.stability_limit(form, momentum) / curvature,
        growth=math.log(abs(weight)),
        largest_step=lr * clip * gain,
    )


def unroll(weight: Tensor, length: int, start: float = 1.0) -> Tensor:
    """Run the linear network: multiply by ``weight`` once a step (elementwise over copies)."""
    hidden = torch.full_like(weight, start)
    for _ in range(length):
        hidden = weight * hidden
    return hidden


def simulate(
    *,
    weight: float = 1.02,
    length: int = 30,
    momentum: float = 0.9,
    form: Form = "heavy_ball",
    size: int = 60,
    gain: float = 0.8,
    clip: float = 1.0,
    gru: int = 0,
    seed: int = 0,
) -> Measured:
    """Measure a network's curvature, its largest stable step, the growth of its gradients and its clipped steps.

    Args:
        weight: of the scalar network.
        length: steps in time.
        momentum: beta.
        form: which rule.
        size: units of a random network.
        gain: of the random network: its weights have variance gain^2/size, its edge of chaos is near one.
        clip: largest norm of a gradient.
        gru: units of a GRU whose largest safe learning rate is found at two momenta; none unless positive.
        seed: of the stream "recurrent".
    """
    lr = 1e-3
    expected = predict(weight=weight, length=length, momentum=momentum, lr=lr, clip=clip, form=form)
    target = weight**length

    def loss(params: Tree) -> Tensor:
        return (unroll(params["w"], length) - target).square().sum() / 2

    fit = {"w": torch.tensor([weight], dtype=torch.float64)}
    claims = [
        Claim("curvature", expected.curvature, sharpness(loss, fit).largest, 1e-9, "loss/weight^2"),
        Claim(
            "largest stable lr",
            expected.safe_lr,
            _edge(form, weight, length, momentum, expected.safe_lr),
            0.01,
            "weight^2/loss",
        ),
    ]
    matrix = torch.randn(size, size, generator=torch_stream(seed, "recurrent"), dtype=torch.float64)
    matrix = matrix * gain / math.sqrt(size)
    spectral = float(torch.linalg.eigvals(matrix).abs().max())
    claims.append(Claim("growth of |W^k| per step", spectral, _power_growth(matrix), 0.01, "per step"))
    walk = torch.randn(size, generator=torch_stream(seed, "recurrent state"), dtype=torch.float64)
    exponent = probe(lambda h: matrix @ h, walk, steps=400, wait=400)
    claims.append(Claim("exponent of the linear network", math.log(spectral), exponent, 0.01, "per step", scale=1.0))
    bent = probe(lambda h: torch.tanh(matrix @ h), walk, steps=400, wait=400)
    if spectral < 0.99:
        claims.append(Claim("exponent of the tanh network", math.log(spectral), bent, 0.02, "per step", scale=1.0))
    else:
        claims.append(
            Claim(
                "exponent of the tanh network", math.log(spectral), bent, 0.0, "per step", scale=1.0, relation="at_most"
            )
        )
    # At rest a gated unit keeps half of itself and takes half of the candidate, whose reset gate is half open too.
    gated = float((0.5 + torch.linalg.eigvals(matrix) / 4).abs().max())
    if gated < 0.99:
        measured = probe(_gated(matrix, gain, seed), walk, steps=250, wait=150)
        claims.append(Claim("exponent of a GRU", math.log(gated), measured, 0.02, "per step", scale=1.0))
    claims += _gated_edges(gru, form, momentum, seed)
    rule = chain(clip_by_norm(clip), make_rule(form, lr=lr, momentum=momentum))
    steep = torch.full((math.ceil(20 / (1 - momentum)), 1), 1e6, dtype=torch.float64)
    claims.append(
        Claim(
            "largest clipped step, gradients that agree",
            expected.largest_step,
            float(filtered(rule, steep).abs().max()),
            1e-6,
            "weight",
        )
    )
    path = _fall(rule, length, 1.35, 300)
    claims.append(
        Claim(
            "largest clipped step, off a cliff",
            expected.largest_step * (1 + 1e-12),
            float(np.abs(np.diff(path)).max()),
            0.0,
            "weight",
            relation="at_most",
        )
    )
    settings = {
        "weight": weight,
        "length": length,
        "momentum": momentum,
        "form": form,
        "size": size,
        "gain": gain,
        "clip": clip,
        "gru": gru,
        "seed": seed,
    }
    return Measured("recurrent", settings, tuple(claims), {"clipped path": path})


def _gated_edges(units: int, form: Form, momentum: float, seed: int) -> list[Claim]:
    """Compare the largest safe learning rate of a GRU with its curvature, at the given momentum and at another."""
    if units < 1:
        return []
    other = 0.5 if momentum != 0.5 else 0.0
    taught = teacher(units, seed=seed)
    ritz = taught.curvature()
    edges = largest_stable(taught, ritz, (other, momentum), form=form)
    limits = [linear.stability_limit(form, beta) / ritz.largest for beta in (other, momentum)]
    return [
        Claim(f"largest stable lr of a GRU, {word}", limit, edge, 0.02, "weight^2/loss")
        for word, limit, edge in zip((f"momentum {other:g}", "momentum as set"), limits, edges, strict=True)
    ]


def _gated(matrix: Tensor, gain: float, seed: int) -> Callable[[Tensor], Tensor]:
    """Give a step of torch's GRU without inputs and biases; ``matrix`` makes the candidate, random ones the gates."""
    size = len(matrix)
    gates = torch.randn(2 * size, size, generator=torch_stream(seed, "recurrent gates"), dtype=torch.float64)
    weights = torch.cat([gates * gain / math.sqrt(size), matrix])  # torch's order: reset, update, candidate
    nothing, inputs = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(3 * size, 1, dtype=torch.float64)
    return lambda h: torch.gru_cell(nothing, h[None], inputs, weights)[0]


def probe(
    step: Callable[[Tensor], Tensor], hidden: Tensor, *, steps: int = 100, wait: int = 20, seed: int = 0
) -> float:
    """Measure the largest Lyapunov exponent of a recurrent network: how fast its gradients grow through time.

        lambda = mean of ln |J_t v_t|,   v_{t+1} = J_t v_t/|J_t v_t|,   J_t the Jacobian of the step at h_t

    Each step costs one Jacobian-vector product. Positive: gradients explode; negative: they vanish over 1/|lambda|
    steps.

    Args:
        step: from hidden state ``[n]`` to hidden state ``[n]``; inputs, if any, are its own business.
        hidden: where to start.
        steps: over which to average.
        wait: steps before that, for state and direction to settle.
        seed: of the stream "recurrent probe".

    Returns:
        The exponent per step; minus infinity if a direction dies entirely.
    """
    v = torch.randn(hidden.shape, generator=torch_stream(seed, "recurrent probe"), dtype=torch.float64).to(hidden)
    v = v / v.norm()
    total = 0.0
    with torch.no_grad():
        for t in range(wait + steps):
            hidden, v = torch.func.jvp(step, (hidden,), (v,))[:2]
            size = float(v.norm())
            if size == 0:
                return -math.inf
            v = v / size
            # A linear network's state may itself leave the range of floating point; its Jacobian does not care.
            if not 1e-100 < float(hidden.abs().max()) < 1e100:
                hidden = torch.where(hidden.isfinite(), hidden, 0.0) / max(float(hidden.abs().max()), 1e-300)
            if t >= wait:
                total += math.log(size)
    return total / steps


def figure(folder: Path) -> None:
    """Draw ``recurrent.svg`` and ``.png``: the cliff with clipping and without, a GRU's safe rates, and gradients."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, INK, ORANGE, RED, sheet

    length, lr, momentum = 20, 1e-3, 0.9
    with sheet(folder, "recurrent", 3, width=12.0) as (_, (left, middle, right)):
        w = np.linspace(0.0, 1.1, 400)
        left.plot(w, (w**length - 1) ** 2 / 2, color=INK, lw=1.2)
        plain = make_rule("heavy_ball", lr=lr, momentum=momentum)
        for rule, colour, label in (
            (plain, RED, "heavy ball, thrown onto the plateau"),
            (chain(clip_by_norm(2.0), plain), GREEN, "clipped at 2"),
        ):
            path = _fall(rule, length, 1.05, 120)
            left.plot(path, (path**length - 1) ** 2 / 2, "o-", color=colour, ms=3, lw=0.8, label=label)
        left.set(
            title=f"The cliff of a recurrent weight, T = {length}",
            xlabel="weight w",
            ylabel="loss",
            xlim=(0.1, 1.1),
            ylim=(-0.05, 1.6),
        )
        left.legend(loc="upper left")
        taught = teacher(6)
        ritz, betas, dots = taught.curvature(), np.linspace(0, 0.98, 50), (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)
        edge = [linear.stability_limit("heavy_ball", float(b)) / ritz.largest for b in betas]
        middle.fill_between(betas, edge, color=GREEN, alpha=0.12, lw=0)
        middle.plot(betas, edge, color=INK, label="predicted: 2(1 + β)/h")
        middle.plot(dots, largest_stable(taught, ritz, dots), "o", color=BLUE, label="largest that does not diverge")
        middle.text(0.08, edge[0] / 3, f"safe\n(measured sharpness h = {ritz.largest:.3f})", fontsize=8, color=GREEN)
        middle.set(title="A GRU's safe learning rates", xlabel="momentum β", ylabel="learning rate")
        middle.set_ylim(0, edge[-1] * 1.25)
        middle.legend(loc="upper left")
        noise = torch.randn(80, 80, generator=torch_stream(0, "recurrent figure"), dtype=torch.float64)
        noise = noise / torch.linalg.eigvals(noise).abs().max()
        time = np.arange(61)
        for radius, colour in ((0.9, BLUE), (1.0, GREY), (1.1, ORANGE)):
            power, norms = torch.eye(80, dtype=torch.float64), []
            for _ in time:
                norms.append(float(torch.linalg.matrix_norm(power, 2)))
                power = noise * radius @ power
            right.plot(time, norms, "o", color=colour, ms=2.5, label=f"ρ = {radius}")
            right.plot(time, norms[-1] * radius ** (time - time[-1]), color=colour, lw=1)
        right.set(title="Gradient through time (lines: ρᵏ)", xlabel="steps back", ylabel="‖Wᵏ‖", yscale="log")
        right.legend(loc="upper left")


def _slope(length: int, target: float) -> Callable[[Tensor], Tensor]:
    """Give the gradient of the loss, through the unrolled network."""

    def gradient(w: Tensor) -> Tensor:
        leaf = w.detach().requires_grad_(True)
        with torch.enable_grad():
            loss = (unroll(leaf, length) - target).square().sum() / 2
        return torch.autograd.grad(loss, leaf)[0]

    return gradient


def _edge(form: Form, weight: float, length: int, momentum: float, guess: float, count: int = 121) -> float:
    """Find the learning rate at which a small error stops shrinking, many at once around a guess."""
    rates = guess * torch.linspace(0.7, 1.3, count, dtype=torch.float64)
    start = torch.full((count,), weight + 1e-9, dtype=torch.float64)
    rule = make_rule(form, lr=rates, momentum=momentum)
    path = (follow(rule, _slope(length, weight**length), start, 250, copies=count) - weight).abs()
    # Beyond the edge the error may settle on a cycle far from the optimum, so compare with where it started.
    grows = (~(path[-50:].amax(0) < 1e-9)).nonzero()
    if len(grows) == 0 or int(grows[0]) == 0:
        return math.nan
    first = int(grows[0])
    return float((rates[first - 1] + rates[first]) / 2)


def _power_growth(matrix: Tensor, *, first: int = 200, last: int = 600) -> float:
    """Give the growth per step of ``|W^k|`` between two powers, rescaled on the way so that it stays in range."""
    power, log = torch.eye(len(matrix), dtype=torch.float64), 0.0
    sizes: list[float] = []
    for _ in range(last):
        power = matrix @ power
        size = float(power.norm())
        power, log = power / size, log + math.log(size)
        sizes.append(log)
    return math.exp((sizes[-1] - sizes[first - 1]) / (last - first))


def _fall(rule: Rule, length: int, start: float, steps: int) -> Array:
    """Give the path of the weight that is to learn ``w^T = 1`` from the steep side."""
    return as_array(follow(rule, _slope(length, 1.0), torch.tensor([start], dtype=torch.float64), steps)[:, 0])
