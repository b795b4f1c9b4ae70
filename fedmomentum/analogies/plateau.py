"""Plateaus, walls and cliffs: momentum accelerates on a slope, overshoots what is behind it, and is thrown by a cliff.

On a plateau of slope g the heavy ball falls freely until friction holds it at ``1/(1 - beta)`` times the speed of plain
descent. That speed is kinetic energy: a valley behind the plateau holds it only if its far rim is higher than the
energy carried. And one steep gradient is not one step but a throw: it is felt for ``1/(1 - beta)`` steps.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies import linear
from fedmomentum.analogies.descent import filtered, follow, steps_of
from fedmomentum.analogies.linear import Form
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.analogies.spring import damping_ratio
from fedmomentum.optim import Rule, make_rule


@dataclass(frozen=True)
class Crossing:
    """What a rule does on a plateau, at the valley behind it, and on a cliff.

    Args:
        descent_steps: of plain descent across the plateau.
        steps: of the rule.
        speedup: the first over the second.
        terminal_speed: parameter per step, far down an endless plateau.
        arrival_speed: parameter per step, at this plateau's end.
        kinetic_energy: of the arrival speed, in units of the loss.
        overshoot_momentum: smallest momentum that leaves the valley, friction on the rim included; nan if none in
            (0, 0.999) does.
        overshoot_momentum_energy: the same by energy alone, without friction on the rim: a lower bound.
        throw: displacement that one gradient of size one on a cliff causes in the end, parameter per gradient.
    """

    descent_steps: int
    steps: int
    speedup: float
    terminal_speed: float
    arrival_speed: float
    kinetic_energy: float
    overshoot_momentum: float
    overshoot_momentum_energy: float
    throw: float


@dataclass(frozen=True)
class Landscape:
    """A plateau that falls with ``slope`` for ``length``, a parabolic valley, and a rim ``depth`` above its floor.

    ``U(x) = -slope x`` up to ``length``, then ``U = curvature (x - length)^2/2`` above the floor up to the rim; behind
    the rim it falls again with ``slope``.

    Args:
        slope: loss per parameter, positive.
        length: parameter.
        curvature: of the valley's wall, loss per parameter^2.
        depth: of the valley: the height of its rim, loss.
    """

    slope: float = 1.0
    length: float = 20.0
    curvature: float = 5.0
    depth: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a landscape that is none."""
        if not min(self.slope, self.length, self.curvature, self.depth) > 0:
            raise ValueError(f"slope, length, curvature and depth must be positive: {self}")

    @property
    def rim(self) -> float:
        """How far behind the floor the rim stands, ``sqrt(2 depth/curvature)``."""
        return math.sqrt(2 * self.depth / self.curvature)

    def value(self, x: Tensor) -> Tensor:
        """Give the loss, zero at the valley's floor."""
        past = x - self.length
        wall = torch.where(past < self.rim, self.curvature * past**2 / 2, self.depth - self.slope * (past - self.rim))
        return torch.where(past < 0, -self.slope * past, wall)

    def gradient(self, x: Tensor) -> Tensor:
        """Give the slope of the loss."""
        past = x - self.length
        wall = torch.where(past < self.rim, self.curvature * past, -self.slope)
        return torch.where(past < 0, -self.slope, wall)


def fall(form: Form, lr: float, slope: float, momentum: float, steps: int) -> Array:
    """Give ``x_0 .. x_steps`` of a rule on a constant slope, from rest.

    heavy_ball x_T = lr g/(1-beta) (T - beta (1 - beta^T)/(1 - beta));  ema is that times (1 - beta)
    nesterov   x_T = lr g/(1-beta) (T - beta^2 (1 - beta^T)/(1 - beta))
    """
    t = np.arange(steps + 1)
    late = {"heavy_ball": momentum, "ema": momentum, "nesterov": momentum**2}[form]
    distance = lr * slope * (t - late * (1 - momentum**t) / (1 - momentum)) / (1 - momentum)
    return distance * (1 - momentum) if form == "ema" else distance


def predict(*, lr: float, momentum: float, form: Form = "heavy_ball", landscape: Landscape | None = None) -> Crossing:
    """Give the crossing time of the plateau, the overshoot behind it, and the throw of a cliff.

        speedup -> 1/(1 - beta) for long plateaus (ema: 1);   kinetic energy (1 + beta)/2 (dx)^2/(2 lr)
        overshoot iff v/w0 exp(-zeta acos(zeta)/sqrt(1 - zeta^2)) > rim, v the speed of arrival, (w0, zeta) the wall's

    Args:
        lr: learning rate, parameter^2 per loss.
        momentum: beta, in [0, 1).
        form: which rule.
        landscape: the default one unless given.

    Raises:
        ValueError: lr is not positive or the momentum outside [0, 1).
    """
    if not (lr > 0 and 0 <= momentum < 1):
        raise ValueError(f"need lr > 0 and 0 <= momentum < 1, not {lr} and {momentum}")
    land = landscape or Landscape()
    gain = 1.0 if form == "ema" else 1 / (1 - momentum)
    descent = math.ceil(land.length / (lr * land.slope) * (1 - 1e-9))
    steps, arrival = _arrival(form, lr, land, momentum)
    return Crossing(
        descent_steps=descent,
        steps=steps,
        speedup=descent / steps,
        terminal_speed=lr * land.slope * gain,
        arrival_speed=arrival,
        kinetic_energy=_energy(form, lr, land, momentum),
        overshoot_momentum=_overshoot(form, lr, land),
        overshoot_momentum_energy=_overshoot_by_energy(form, lr, land),
        throw=lr * gain,
    )


def simulate(
    *,
    lr: float = 1e-4,
    momentum: float = 0.97,
    form: Form = "heavy_ball",
    slope: float = 1.0,
    length: float = 0.3,
    curvature: float = 3.0,
    depth: float | None = None,
) -> Measured:
    """Cross the plateau, find the momentum that overshoots the valley, and fall off a cliff.

    Args:
        lr: learning rate; small beside the valley, so that steps resolve it.
        momentum: beta.
        form: which rule.
        slope: of the plateau.
        length: of the plateau.
        curvature: of the valley's wall.
        depth: of the valley; such that momentum 0.98 carries 1.3 times its energy, unless given.
    """
    if depth is None:
        at = 0.98
        depth = (1 + at) / 2 * (lr * slope / (1 - at)) ** 2 / (2 * lr) / 1.3
    land = Landscape(slope=slope, length=length, curvature=curvature, depth=depth)
    expected = predict(lr=lr, momentum=momentum, form=form, landscape=land)
    rule = make_rule(form, lr=lr, momentum=momentum)
    start = torch.zeros((), dtype=torch.float64)
    claims = [
        Claim("steps of plain descent", expected.descent_steps, _cross(make_rule("sgd", lr=lr), land), 0.0, "steps"),
        Claim("steps of the rule", expected.steps, _cross(rule, land), 0.0, "steps"),
    ]
    kick = filtered(rule, torch.cat([torch.ones(1), torch.zeros(3000)]).double())
    claims.append(Claim("throw of one gradient", -expected.throw, float(kick.sum()), 1e-3, "parameter/gradient"))
    far = math.ceil(12 / (1 - momentum))
    runway = filtered(rule, torch.full((far,), -slope, dtype=torch.float64))
    gain = 1.0 if form == "ema" else 1 / (1 - momentum)
    claims.append(Claim("speedup far down the plateau", gain, float(runway[-1]) / (lr * slope), 1e-4))
    adam = [_cross(make_rule("adam", lr=lr * 10), Landscape(slope=s, length=length)) for s in (slope, slope / 1000)]
    claims.append(Claim("adam crosses a slope 1000 times flatter", 1.0, adam[1] / adam[0], 0.01, "times the steps"))
    if form == "heavy_ball" and not math.isnan(expected.overshoot_momentum):
        friction = 1 - _escape(form, lr, land)
        claims.append(Claim("friction below which it overshoots", 1 - expected.overshoot_momentum, friction, 0.03))
        by_energy = 1 - expected.overshoot_momentum_energy
        claims.append(Claim("that friction, by energy alone", by_energy, friction, 0.0, relation="at_most"))
    path = follow(rule, land.gradient, start, 2 * expected.steps)
    settings = {
        "lr": lr,
        "momentum": momentum,
        "form": form,
        "slope": slope,
        "length": length,
        "curvature": curvature,
        "depth": depth,
    }
    series = {"path": as_array(path), "loss": as_array(land.value(path))}
    return Measured("plateau", settings, tuple(claims), series)


@dataclass(frozen=True)
class Momentum:
    """What a velocity is made of.

    Args:
        gain: rms of the summed velocity over rms of the gradients.
        plateau: the gain if all gradients agree, 1/(1 - beta).
        noise: the gain if they are white noise, 1/sqrt(1 - beta^2).
        coherence: 1 on a plateau, 0 in pure noise, negative where gradients alternate.
        kinetic_energy: of the last velocity, in units of the loss: a barrier lower than this does not hold it.
    """

    gain: float
    plateau: float
    noise: float
    coherence: float
    kinetic_energy: float


def probe(gradients: Tensor, *, lr: float, momentum: float) -> Momentum:
    """Measure from a stream of gradients whether momentum is falling down a plateau or averaging noise.

        coherence = (gain^2 - noise^2)/(plateau^2 - noise^2)

    Args:
        gradients: ``[T, P]`` in the order of the steps; at least ``3/(1 - momentum)`` of them, the first third is
            left for the velocity to build up.
        lr: of the optimizer.
        momentum: beta, in (0, 1).

    Raises:
        ValueError: too few gradients, or all of them zero.
    """
    if not 0 < momentum < 1:
        raise ValueError(f"momentum must lie in (0, 1), not {momentum}")
    if gradients.ndim != 2 or len(gradients) < 3 / (1 - momentum):
        raise ValueError(f"need [T, P] gradients with T >= {3 / (1 - momentum):.0f}, not {list(gradients.shape)}")
    g = gradients.double()
    velocity = -filtered(make_rule("heavy_ball", lr=1.0, momentum=momentum), g)
    kept = len(g) // 3
    power = float((g[kept:] ** 2).sum())
    if power == 0:
        raise ValueError("all gradients are zero")
    gain = math.sqrt(float((velocity[kept:] ** 2).sum()) / power)
    plateau, noise = 1 / (1 - momentum), 1 / math.sqrt(1 - momentum**2)
    return Momentum(
        gain=gain,
        plateau=plateau,
        noise=noise,
        coherence=(gain**2 - noise**2) / (plateau**2 - noise**2),
        kinetic_energy=(1 + momentum) / 2 * lr * float((velocity[-1] ** 2).sum()) / 2,
    )


def figure(folder: Path) -> None:
    """Draw ``plateau.svg`` and ``.png``: paths over the landscape, and how far each momentum is carried."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, INK, ORANGE, RED, sheet

    lr = 2e-4
    land = Landscape(slope=1.0, length=0.3, curvature=8.0, depth=0.11)
    limit = predict(lr=lr, momentum=0.9, landscape=land).overshoot_momentum
    start = torch.zeros((), dtype=torch.float64)
    choices = ((0.0, BLUE), (0.9, GREEN), (limit - 0.004, ORANGE), (limit + 0.002, RED))
    with sheet(folder, "plateau", 2, width_ratios=[1.25, 1]) as (_, (left, right)):
        x = torch.linspace(-0.03, 0.56, 800, dtype=torch.float64)
        left.plot(x, land.value(x), color=INK, lw=1.2)
        for k, (beta, colour) in enumerate(choices):
            path = follow(make_rule("heavy_ball", lr=lr, momentum=beta), land.gradient, start, 400)
            path = path[path < 0.56][::6]
            lift = 0.012 * (k + 1)
            left.plot(path, land.value(path) + lift, "o", color=colour, ms=3, label=f"β = {beta:.3f}")
        left.set(title="Every sixth of 400 steps", xlabel="parameter", ylabel="loss", ylim=(-0.04, 0.42))
        left.legend(loc="upper right")
        betas = 1 - torch.logspace(math.log10(0.5), -3, 150, dtype=torch.float64)
        endless = Landscape(slope=land.slope, length=land.length, curvature=land.curvature, depth=math.inf)
        rule = make_rule("heavy_ball", lr=lr, momentum=betas)
        paths = follow(rule, endless.gradient, torch.zeros(len(betas)).double(), 900, copies=len(betas))
        right.plot(1 - betas, (paths.amax(0) - land.length) / land.rim, color=BLUE, lw=3, alpha=0.5, label="measured")
        reach = [_reach("heavy_ball", lr, land, float(b)) / land.rim for b in betas]
        right.plot(1 - betas, reach, color=ORANGE, ls="--", label="predicted")
        right.axhline(1, color=GREY, lw=0.8)
        right.axvline(1 - limit, color=RED, lw=1, ls=":")
        right.annotate(
            f"overshoots from β = {limit:.3f}",
            (1 - limit, 0.3),
            (0.0011, 0.12),
            fontsize=8,
            color=RED,
            arrowprops={"arrowstyle": "-", "color": RED},
        )
        right.set(
            title="Reach behind the floor, in rims",
            xlabel="friction 1 − β",
            ylabel="reach / rim",
            xscale="log",
            ylim=(0, 2),
        )
        right.legend(loc="upper right")


def _cross(rule: Rule, land: Landscape, *, limit: int = 200_000) -> float:
    """Count the steps until a rule has crossed the plateau; infinite if it does not within the limit."""
    slope = torch.tensor(-land.slope, dtype=torch.float64)
    goal = land.length * (1 - 1e-9)
    walk = steps_of(rule, lambda x: slope, torch.zeros((), dtype=torch.float64))
    return next((t for t, x in zip(range(1, limit), walk, strict=False) if float(x) >= goal), math.inf)


def _arrival(form: Form, lr: float, land: Landscape, momentum: float) -> tuple[int, float]:
    """Give the steps across the plateau and the speed, parameter per step, at its end."""
    gain = 1.0 if form == "ema" else 1 / (1 - momentum)
    # Behind a runner at terminal speed by at most 1/(1 - beta) steps, so this many steps are enough.
    longest = math.ceil(land.length / (lr * land.slope * gain) + 1 / (1 - momentum)) + 2
    distance = fall(form, lr, land.slope, momentum, longest)
    steps = int(np.argmax(distance >= land.length * (1 - 1e-9)))
    return steps, float(distance[steps] - distance[steps - 1])


def _reach(form: Form, lr: float, land: Landscape, momentum: float) -> float:
    """Give how far behind the floor the speed of arrival carries up a wall that never ends."""
    p, q = linear.coefficients(form, lr * land.curvature, momentum)
    zeta = damping_ratio(p, q)
    if math.isnan(zeta):
        return 0.0
    z1, z2 = linear.roots(p, q)
    frequency = math.sqrt(abs(cmath.log(z1) * cmath.log(z2)))
    if abs(zeta - 1) < 1e-9:
        quarter = 1.0
    else:
        turn = math.acos(zeta) if zeta < 1 else math.acosh(zeta)
        quarter = zeta * turn / math.sqrt(abs(1 - zeta**2))
    return _arrival(form, lr, land, momentum)[1] / frequency * math.exp(-quarter)


def _energy(form: Form, lr: float, land: Landscape, momentum: float) -> float:
    """Give the kinetic energy at the end of the plateau: mass (1 + beta)/2, a step lasts sqrt(lr)."""
    return (1 + momentum) / 2 * _arrival(form, lr, land, momentum)[1] ** 2 / (2 * lr)


def _overshoot(form: Form, lr: float, land: Landscape) -> float:
    return _first(lambda momentum: _reach(form, lr, land, momentum) - land.rim)


def _overshoot_by_energy(form: Form, lr: float, land: Landscape) -> float:
    return _first(lambda momentum: _energy(form, lr, land, momentum) - land.depth)


def _first(excess: Callable[[float], float]) -> float:
    """Give the momentum at which a quantity that grows with momentum turns positive; nan if it does not."""
    from scipy.optimize import brentq

    low, high = 0.0, 0.999
    return float(brentq(excess, low, high)) if excess(low) < 0 < excess(high) else math.nan


def _escape(form: Form, lr: float, land: Landscape) -> float:
    """Find the smallest momentum that passes the rim, by running many momenta at once, twice."""
    low, high, count = 0.0, 0.999, 200
    for _ in range(2):
        betas = torch.linspace(low, high, count, dtype=torch.float64)
        steps = _arrival(form, lr, land, high)[0] + _arrival(form, lr, land, low)[0]
        steps += math.ceil(4 / math.sqrt(lr * land.curvature))
        rule = make_rule(form, lr=lr, momentum=betas)
        furthest = follow(rule, land.gradient, torch.zeros(count, dtype=torch.float64), steps, copies=count).amax(0)
        out = (furthest > land.length + land.rim).nonzero()
        if len(out) == 0:
            return math.nan
        first = int(out[0])
        low, high = float(betas[max(first - 1, 0)]), float(betas[first])
    return high
