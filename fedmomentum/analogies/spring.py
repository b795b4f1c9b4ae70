"""The heavy ball is a mass on a spring in oil: inertia, friction and stiffness are read off lr, momentum and curvature.

    m x'' + c x' + k x = 0,   one optimizer step lasts d = sqrt(lr),   a = lr * curvature

Matching the finite differences gives ``k = curvature``, ``c = (1 - beta)/sqrt(lr)`` and, for the mass, 1 (backward
difference, first order in d) or ``(1 + beta)/2`` (central difference, second order). Neither is needed to be exact: the
recurrence's roots are ``z = exp(s)`` of the spring's poles s, so the optimizer *is* a sampled spring.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies import linear
from fedmomentum.analogies.curvature import Loss, sharpness
from fedmomentum.analogies.descent import follow
from fedmomentum.analogies.linear import Form
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.optim import make_rule

Regime = Literal["underdamped", "critical", "overdamped", "alternating", "unstable"]


@dataclass(frozen=True)
class Spring:
    """The spring that an optimizer is, along one direction of curvature.

    Args:
        regime: ``alternating`` means a negative root: the sign flips each step, which no spring does.
        mass_backward: d^2/lr = 1 at d = sqrt(lr).
        mass_central: (1 + beta)/2.
        friction: c = (1 - beta)/sqrt(lr).
        stiffness: k, the curvature (times 1 - beta in the ema form, whose force is that much weaker).
        radius: factor of the envelope per step.
        angular_frequency: rad/step; zero without oscillation.
        period: steps; infinite without oscillation.
        damping_ratio: zeta of the sampled spring, exact; nan where alternating.
        damping_ratio_backward: c/(2 sqrt(k)).
        damping_ratio_central: c/(2 sqrt(k (1 + beta)/2)).
        critical_momentum: the momentum that would damp this curvature critically; nan where a > 1.
        stability_limit: largest stable lr * curvature.
        stability_margin: that limit over lr * curvature; below one the motion grows.
    """

    regime: Regime
    mass_backward: float
    mass_central: float
    friction: float
    stiffness: float
    radius: float
    angular_frequency: float
    period: float
    damping_ratio: float
    damping_ratio_backward: float
    damping_ratio_central: float
    critical_momentum: float
    stability_limit: float
    stability_margin: float


def damping_ratio(p: float, q: float) -> float:
    """Give the damping ratio of the spring whose samples obey ``x_{t+2} = p x_{t+1} - q x_t``.

        zeta = -(s1 + s2)/(2 sqrt(s1 s2)),   s = ln z

    Below one it rings, above one it creeps. nan where a root is not positive and so is no sampled spring.
    """
    z1, z2 = linear.roots(p, q)
    if z2 == 0 or (z1.imag == 0 and (z1.real <= 0 or z2.real <= 0)):
        return math.nan
    s1, s2 = cmath.log(z1), cmath.log(z2)
    product = (s1 * s2).real
    return math.copysign(math.inf, -(s1 + s2).real) if product == 0 else -(s1 + s2).real / (2 * math.sqrt(abs(product)))


def predict(*, lr: float, curvature: float, momentum: float, form: Form = "heavy_ball") -> Spring:
    """Give the spring that a rule is along one direction.

        underdamped iff (1 - sqrt beta)^2 < a < (1 + sqrt beta)^2 (heavy ball): then radius sqrt beta,
        w = acos((1 + beta - a)/(2 sqrt beta)),  zeta = (-1/2 ln beta)/hypot(1/2 ln beta, w)

    Args:
        lr: learning rate, parameter^2 per loss.
        curvature: Hessian eigenvalue, loss per parameter^2, positive.
        momentum: beta, in [0, 1).
        form: which rule.

    Raises:
        ValueError: lr or curvature is not positive, or the momentum is outside [0, 1).

    Source: Polyak 1964; Qian 1999.
    """
    if not (lr > 0 and curvature > 0 and 0 <= momentum < 1):
        raise ValueError(f"need lr > 0, curvature > 0, 0 <= momentum < 1, not {lr}, {curvature}, {momentum}")
    a = lr * curvature
    p, q = linear.coefficients(form, a, momentum)
    z1, _ = linear.roots(p, q)
    rings = p * p / 4 < q
    w = math.acos(max(-1.0, min(1.0, p / (2 * math.sqrt(q))))) if rings else 0.0
    zeta = damping_ratio(p, q)
    limit = linear.stability_limit(form, momentum)
    regime: Regime
    if a >= limit:
        regime = "unstable"
    elif rings:
        regime = "underdamped"
    elif math.isnan(zeta) and momentum > 0:
        regime = "alternating"
    elif abs(p * p / 4 - q) < 1e-12:
        regime = "critical"
    else:
        regime = "alternating" if momentum == 0 and a > 1 else "overdamped"
    stiffness = curvature * (1 - momentum) if form == "ema" else curvature
    friction = (1 - momentum) / math.sqrt(lr)
    if form == "nesterov":
        friction += momentum * a / math.sqrt(lr)
    mass = 1 - friction * math.sqrt(lr) / 2
    return Spring(
        regime=regime,
        mass_backward=1.0,
        mass_central=mass,
        friction=friction,
        stiffness=stiffness,
        radius=abs(z1),
        angular_frequency=w,
        period=2 * math.pi / w if w > 0 else math.inf,
        damping_ratio=zeta,
        damping_ratio_backward=friction / (2 * math.sqrt(stiffness)),
        damping_ratio_central=friction / (2 * math.sqrt(stiffness * mass)) if mass > 0 else math.nan,
        critical_momentum=linear.critical_momentum(form, a) if a <= 1 else math.nan,
        stability_limit=limit,
        stability_margin=limit / a,
    )


def simulate(
    *, lr: float = 0.01, curvature: float = 1.0, momentum: float = 0.9, form: Form = "heavy_ball", steps: int = 400
) -> Measured:
    """Let the rule swing on ``curvature x^2/2`` from one, and measure its spring.

    The radius and the damping ratio come from a fit of the recurrence to the path, the period from the zeros of the
    path, the critical momentum from a scan of all momenta at once, and the two discretisations' orders of accuracy
    from halving the step of a fixed spring.
    """
    spring = predict(lr=lr, curvature=curvature, momentum=momentum, form=form)
    x = _swing(form, lr, curvature, momentum, steps)
    p, q = linear.fit(x)
    claims = [
        Claim("radius", spring.radius, abs(linear.roots(p, q)[0]), 1e-6, "per step"),
        Claim(
            "distance from the sampled spring",
            0.0,
            float(np.abs(x - linear.path(form, lr * curvature, momentum, steps)).max()),
            1e-9,
            scale=max(1.0, float(np.abs(x).max())),
        ),
    ]
    if not math.isnan(spring.damping_ratio):
        claims.append(Claim("damping ratio", spring.damping_ratio, damping_ratio(p, q), 1e-4))
    if spring.regime == "underdamped":
        measured = _period(x)
        if not math.isnan(measured):
            claims.append(Claim("period", spring.period, measured, 0.01, "steps"))
    if lr * curvature <= 0.25:
        claims.append(Claim("critical momentum", spring.critical_momentum, _fastest(form, lr * curvature), 2e-3))
    if form == "heavy_ball" and 0.05 < spring.damping_ratio_backward < 0.95:
        backward, central = _orders(spring.damping_ratio_backward)
        claims.append(Claim("order of the backward difference", 1.0, backward, 0.1))
        claims.append(Claim("order of the central difference", 2.0, central, 0.1, relation="at_least"))
    settings = {"lr": lr, "curvature": curvature, "momentum": momentum, "form": form, "steps": steps}
    return Measured("spring", settings, tuple(claims), {"path": x})


@dataclass(frozen=True)
class Damping:
    """How a model's sharpest direction is damped: the spring there, and how well the sharpness is known."""

    sharpness: float
    uncertainty: float
    spring: Spring


def probe(
    loss: Loss,
    params: Mapping[str, Tensor],
    *,
    lr: float,
    momentum: float,
    form: Form = "heavy_ball",
    steps: int = 12,
    seed: int = 0,
) -> Damping:
    """Measure the damping ratio, critical momentum and stability margin of a model's sharpest direction.

    Args:
        loss: scalar loss of named parameters.
        params: the model now.
        lr: of the optimizer.
        momentum: of the optimizer.
        form: of the optimizer.
        steps: Hessian-vector products to spend.
        seed: of the Lanczos start.

    Raises:
        ValueError: the largest curvature found is not positive (no spring, a saddle or a flat place).
    """
    ritz = sharpness(loss, params, steps=steps, seed=seed)
    if not ritz.largest > 0:
        raise ValueError(f"the largest curvature found is {ritz.largest:.3g}: there is no spring here")
    spring = predict(lr=lr, curvature=ritz.largest, momentum=momentum, form=form)
    return Damping(sharpness=ritz.largest, uncertainty=float(ritz.bounds[-1]), spring=spring)


def figure(
    folder: Path, *, lr: float = 0.04, curvature: float = 1.0, momentum: float = 0.95, form: Form = "heavy_ball"
) -> None:
    """Draw ``spring.svg`` and ``.png``: three dampings of one spring, zeta against momentum, and a map of it."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, INK, ORANGE, sheet

    a = lr * curvature
    steps = max(60, min(400, math.ceil(9 / math.sqrt(a))))
    fine = np.linspace(0, steps, 20 * steps + 1)
    critical = linear.critical_momentum(form, a) if a <= 1 else math.nan
    shown = [(momentum, BLUE), (critical, GREEN), (0.0, ORANGE)]
    with sheet(folder, "spring", 3, width=12.0, width_ratios=[1.3, 1, 1.15]) as (page, (left, right, over)):
        for beta, colour in [(beta, colour) for beta, colour in shown if not math.isnan(beta)]:
            x = _swing(form, a, 1.0, beta, steps)
            z1, z2 = linear.roots(*linear.coefficients(form, a, beta))
            if z2 == 0 or z1 == 0:
                curve = np.exp(fine * cmath.log(z1)).real if z1 != 0 else np.where(fine == 0, 1.0, 0.0)
            elif abs(z1 - z2) < 1e-6:
                curve = z1.real**fine * (1 + fine * (x[1] / z1.real - 1))
            else:
                parts = (x[1] - z2) * np.exp(fine * cmath.log(z1)) + (z1 - x[1]) * np.exp(fine * cmath.log(z2))
                curve = (parts / (z1 - z2)).real
            word = (
                "critical"
                if abs(z1 - z2) < 1e-6
                else _WORDS[predict(lr=a, curvature=1.0, momentum=beta, form=form).regime]
            )
            left.plot(fine, curve, color=colour, alpha=0.45, linewidth=2.2)
            left.plot(x, "o", color=colour, markersize=2.6, label=f"β = {beta:.2f}, {word}")
        left.axhline(0, color=GREY, linewidth=0.8)
        left.set(title="The optimizer samples a spring", xlabel="step", ylabel="distance to the optimum")
        left.legend(loc="upper right")
        betas = np.linspace(0.30, 0.995, 300)
        springs = [predict(lr=a, curvature=1.0, momentum=float(b), form=form) for b in betas]
        right.plot(betas, [s.damping_ratio for s in springs], color=INK, label="exact")
        right.plot(betas, [s.damping_ratio_central for s in springs], color=GREEN, ls="--", label="central difference")
        right.plot(
            betas, [s.damping_ratio_backward for s in springs], color=ORANGE, ls=":", label="backward difference"
        )
        dots = np.array([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98])
        measured = [damping_ratio(*linear.fit(_swing(form, a, 1.0, float(b), 200))) for b in dots]
        right.plot(dots, measured, "o", color=BLUE, label="measured")
        right.axhline(1, color=GREY, linewidth=0.8)
        if critical > 0.35:
            right.annotate(
                f"critical, β* = {critical:.2f}",
                (critical, 1),
                (0.68, 1.22),
                fontsize=8,
                color=INK,
                arrowprops={"arrowstyle": "-", "color": GREY},
            )
        right.set(title=f"Damping ratio, lr · curvature = {a:g}", xlabel="momentum β", ylabel="ζ", ylim=(0, 1.9))
        right.legend(loc="lower left")
        _map(page, over)


_WORDS = {
    "underdamped": "rings", "overdamped": "creeps", "critical": "critical", "alternating": "alternates",
    "unstable": "diverges",
}  # fmt: skip


def _map(page: Any, axes: Any) -> None:
    """Draw the damping ratio over lr * curvature and friction, with the line of critical damping and the edges."""
    from fedmomentum.analogies.drawing import INK, RED

    rates, frictions = np.logspace(-4, 0.7, 180), np.logspace(-2.3, 0, 140)
    zeta = np.array(
        [[predict(lr=float(a), curvature=1.0, momentum=1 - float(f)).damping_ratio for a in rates] for f in frictions]
    )
    stable = rates[None, :] < 2 * (2 - frictions[:, None])
    shown = np.where(stable, np.log10(np.clip(zeta, 0.03, 30)), np.nan)
    image = axes.pcolormesh(rates, frictions, shown, cmap="RdBu", vmin=-1.5, vmax=1.5, shading="nearest")
    image.set_rasterized(True)
    below = rates[rates < 1]
    axes.plot(below, 1 - (1 - np.sqrt(below)) ** 2, color=INK, linewidth=1.4)
    axes.plot(2 * (2 - frictions), frictions, color=RED, linewidth=1.4)
    axes.text(1.4e-4, 1.5e-1, "creeps", fontsize=9, color="white")
    axes.text(2e-2, 9e-3, "rings", fontsize=9, color="white")
    axes.text(4.1, 6e-3, "diverges", fontsize=8, color=RED, rotation=90, va="bottom", ha="left")
    axes.set(xscale="log", yscale="log", title="Damping: the line is critical", xlabel="lr · curvature")
    axes.set(ylabel="friction 1 − β", xlim=(1e-4, 6.5), ylim=(frictions[0], 1))
    axes.grid(False)
    page.colorbar(image, ax=axes, shrink=0.9, ticks=[-1, 0, 1], label="log₁₀ ζ")


def _swing(form: Form, lr: float, curvature: float, momentum: float, steps: int) -> Array:
    start = torch.ones((), dtype=torch.float64)
    return as_array(follow(make_rule(form, lr=lr, momentum=momentum), lambda x: curvature * x, start, steps))


def _period(x: Array) -> float:
    """Give twice the mean distance of the zeros of a path, each found by a line between two samples."""
    scaled = x[: np.flatnonzero(np.abs(x) > 1e-200)[-1] + 1]
    before = np.flatnonzero((scaled[:-1] < 0) != (scaled[1:] < 0))
    if len(before) < 3:
        return math.nan
    # Divide the envelope out first: on a decaying path a line would find each zero too early.
    radius = math.sqrt(linear.fit(scaled)[1])
    left, right = scaled[before], scaled[before + 1] / radius
    zeros = before + left / (left - right)
    return float(2 * (zeros[-1] - zeros[0]) / (len(zeros) - 1))


def _fastest(form: Form, a: float, count: int = 301) -> float:
    """Scan every momentum at once and give the one whose path has the smallest radius."""
    low, high = 0.0, 0.999
    found = math.nan
    for _ in range(2):
        betas = torch.linspace(low, high, count, dtype=torch.float64)
        start = torch.ones(count, dtype=torch.float64)
        paths = as_array(follow(make_rule(form, lr=a, momentum=betas), lambda x: x, start, 24, copies=count))
        radii = [abs(linear.roots(*linear.fit(paths[:, k]))[0]) for k in range(count)]
        best = int(np.argmin(radii))
        found = float(betas[best])
        low, high = float(betas[max(best - 1, 0)]), float(betas[min(best + 1, count - 1)])
    return found


def _orders(zeta: float) -> tuple[float, float]:
    """Measure how the errors of both damping ratios fall as one spring (k = 1) is sampled ever more finely."""
    steps = np.array([0.04, 0.02, 0.01])
    errors = []
    for d in steps:
        lr, beta = d * d, 1 - 2 * zeta * d
        exact = damping_ratio(*linear.fit(_swing("heavy_ball", lr, 1.0, beta, int(10 / d))))
        approximate = predict(lr=lr, curvature=1.0, momentum=beta)
        errors.append([abs(approximate.damping_ratio_backward - exact), abs(approximate.damping_ratio_central - exact)])
    slopes = np.diff(np.log(np.array(errors)), axis=0) / np.diff(np.log(steps))[:, None]
    return float(slopes[-1, 0]), float(slopes[-1, 1])
