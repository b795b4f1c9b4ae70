"""A ravine is steep across and flat along: its condition number kappa sets the speed of every rule.

Tuned on curvatures from mu to L = kappa mu, one step shrinks the error by

    sgd (kappa - 1)/(kappa + 1),   heavy_ball (sqrt kappa - 1)/(sqrt kappa + 1),   nesterov 1 - 1/sqrt kappa

whichever way the ravine points. Rules that scale each coordinate (Adam and its kin) do not see kappa at all while the
ravine lies along an axis, and lose that advantage when it is turned: their gift is alignment, not curvature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies import linear
from fedmomentum.analogies.curvature import Loss, sharpness
from fedmomentum.analogies.descent import follow
from fedmomentum.analogies.linear import Form
from fedmomentum.analogies.result import Claim, Measured, as_array
from fedmomentum.optim import RULES, Rule, make_rule
from fedmomentum.optim.problems import Quadratic, ravine

ADAPTIVE = ("adagrad", "rmsprop", "adam", "adamw", "yogi", "lion")
RACERS = tuple(name for name in RULES if name != "pid")
"""All but the PID rule, which without gains of its own is the heavy ball."""
RATES = torch.logspace(-3, 1, 32, dtype=torch.float64)
"""Learning rates tried, all at once, for rules without a closed form; one is not among them, where a first step of
size lr would land on the optimum by luck."""


@dataclass(frozen=True)
class Tuned:
    """The fastest setting of a rule on curvatures between two bounds.

    Args:
        lr: learning rate, parameter^2 per loss.
        momentum: beta; zero for sgd.
        contraction: factor of the error per step in the long run.
        steps: until the squared distance to the optimum of the two-dimensional ravine, started at one along each axis,
            has fallen to the tolerance for good.
    """

    lr: float
    momentum: float
    contraction: float
    steps: int


def predict(*, condition: float, tolerance: float = 1e-4) -> dict[str, Tuned]:
    """Give the best setting and its speed, for each rule that has a closed form.

        sgd        lr = 2/(L + mu)
        heavy_ball lr = 4/(sqrt L + sqrt mu)^2,   beta = ((sqrt kappa - 1)/(sqrt kappa + 1))^2;   ema: lr/(1 - beta)
        nesterov   lr = 1/L,                      beta = (sqrt kappa - 1)/(sqrt kappa + 1)

    Args:
        condition: kappa = L/mu with mu = 1, above 1.
        tolerance: of the squared distance to the optimum, relative to where it starts.

    Raises:
        ValueError: the condition number is not above one or the tolerance not in (0, 1).

    Source: Polyak 1964; Nesterov 2004, section 2.2.
    """
    if not condition > 1 or not 0 < tolerance < 1:
        raise ValueError(f"need condition > 1 and 0 < tolerance < 1, not {condition} and {tolerance}")
    root = math.sqrt(condition)
    beta = ((root - 1) / (root + 1)) ** 2
    ball = 4 / (root + 1) ** 2
    rate = (root - 1) / (root + 1)
    plain = (condition - 1) / (condition + 1)
    return {
        "sgd": Tuned(2 / (condition + 1), 0.0, plain, math.ceil(math.log(tolerance) / (2 * math.log(plain)) - 1e-9)),
        "heavy_ball": _tuned("heavy_ball", ball, beta, rate, condition, tolerance),
        "ema": _tuned("ema", ball / (1 - beta), beta, rate, condition, tolerance),
        "nesterov": _tuned("nesterov", 1 / condition, rate, 1 - 1 / root, condition, tolerance),
    }


def simulate(
    *,
    condition: float = 1000.0,
    angle: float = math.pi / 4,
    tolerance: float = 1e-4,
    rules: Sequence[str] = RACERS,
    limit: int = 1500,
) -> Measured:
    """Race rules down a ravine, along the axes and turned.

    Args:
        condition: kappa; the rules with momentum need some sqrt(kappa) steps, up to 1e6 is a matter of seconds.
        angle: by which the second ravine is turned, rad.
        tolerance: of the squared distance to the optimum, relative to the start.
        rules: names in ``RULES``; those without a closed form run with 32 learning rates and the fastest counts.
        limit: steps that such a rule runs; it counts as arrived only if it then still is within the tolerance.
    """
    unknown = set(rules) - set(RULES)
    if unknown:
        raise ValueError(f"unknown rule '{sorted(unknown)[0]}'; there are: {', '.join(RULES)}")
    expected = predict(condition=condition, tolerance=tolerance)
    claims: list[Claim] = []
    aligned: dict[str, float] = {}
    turned: dict[str, float] = {}
    for name in rules:
        if name in expected:
            tuned = expected[name]
            hyper = {} if name == "sgd" else {"momentum": tuned.momentum}
            rule = make_rule(name, lr=tuned.lr, **hyper)
            claims.append(
                Claim(
                    f"{name}: contraction lost to one",
                    1 - tuned.contraction,
                    1 - _contraction(rule, condition),
                    1e-3,
                    "per step",
                )
            )
            if tuned.steps > 20_000:  # plain descent at a large condition number: its rate above says it all
                aligned[name] = turned[name] = float(tuned.steps)
                continue
            aligned[name] = _race(rule, ravine(condition), tolerance, 2 * tuned.steps)
            turned[name] = _race(rule, ravine(condition, angle=angle), tolerance, 2 * tuned.steps, angle=angle)
            slack = 1.5 / tuned.steps  # one step: the tolerance may be met within rounding
            claims.append(Claim(f"{name}: steps", tuned.steps, aligned[name], slack, "steps"))
            claims.append(Claim(f"{name}: steps when turned", tuned.steps, turned[name], slack, "steps"))
        else:
            aligned[name] = _best(name, ravine(condition), tolerance, limit)
            turned[name] = _best(name, ravine(condition, angle=angle), tolerance, limit, angle=angle)
    if "adam" in aligned:
        sphere = _best("adam", ravine(1.0), tolerance, limit)
        claims.append(Claim("adam: steps along the axis, as if kappa were 1", sphere, aligned["adam"], 0.0, "steps"))
        if condition >= 100 and 0.2 < angle % (math.pi / 2) < math.pi / 2 - 0.2:
            ratio = turned["adam"] / aligned["adam"]
            claims.append(Claim("adam: turned over aligned", 2.0, ratio, 0.0, "times", relation="at_least"))
    settings = {"condition": condition, "angle": angle, "tolerance": tolerance, "rules": list(rules), "limit": limit}
    series = {f"{name}: steps": as_array([aligned[name], turned[name]]) for name in aligned}
    return Measured("ravine", settings, tuple(claims), series)


@dataclass(frozen=True)
class Conditioning:
    """How ill-conditioned a model is where it stands.

    Args:
        sharpness: largest curvature found.
        flattest: smallest positive curvature resolved; Lanczos sees it from above, so the condition is a lower bound.
        condition: sharpness over flattest.
        negative: most negative curvature found, zero if none: a saddle, where the closed forms do not hold.
        coordinates: effective number of coordinates that the sharpest direction spreads over, 1/sum(u^4): one means
            that it lies along an axis and a rule that scales coordinates removes it; many mean that momentum has to.
        best: the heavy ball tuned for these curvatures.
    """

    sharpness: float
    flattest: float
    condition: float
    negative: float
    coordinates: float
    best: Tuned


def probe(loss: Loss, params: Mapping[str, Tensor], *, steps: int = 20, seed: int = 0) -> Conditioning:
    """Measure the ravine that a model lies in, by Lanczos.

    Args:
        loss: scalar loss of named parameters.
        params: the model now.
        steps: Hessian-vector products to spend.
        seed: of the Lanczos start.

    Raises:
        ValueError: no positive curvature was found.
    """
    ritz = sharpness(loss, params, steps=steps, seed=seed)
    resolved = ritz.values[(ritz.values > 0) & (ritz.values > ritz.bounds)]
    if len(resolved) == 0:
        raise ValueError(f"no positive curvature found (the largest Ritz value is {ritz.largest:.3g})")
    largest, flattest = float(resolved[-1]), float(resolved[0])
    condition = largest / flattest
    if condition > 1 + 1e-12:
        unit = predict(condition=condition)["heavy_ball"]
        best = Tuned(unit.lr / flattest, unit.momentum, unit.contraction, unit.steps)
    else:
        best = Tuned(1 / largest, 0.0, 0.0, 1)
    u = ritz.top.double()
    return Conditioning(
        sharpness=largest,
        flattest=flattest,
        condition=condition,
        negative=min(0.0, ritz.smallest),
        coordinates=1 / float((u**4).sum()),
        best=best,
    )


def zigzag(gradients: Tensor) -> float:
    """Give the mean cosine between gradients of successive steps: -1 bouncing across a ravine, +1 sliding along it.

    Args:
        gradients: ``[T, P]`` in the order of the steps, T >= 2.
    """
    if gradients.ndim != 2 or len(gradients) < 2:
        raise ValueError(f"need [T, P] gradients with T >= 2, not {list(gradients.shape)}")
    g = gradients.double()
    return float(torch.cosine_similarity(g[:-1], g[1:], dim=1).mean())


def figure(folder: Path) -> None:
    """Draw ``ravine.svg`` and ``.png``: paths in a turned ravine, and steps against the condition number."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, ORANGE, RED, sheet

    show, angle = 60.0, math.pi / 5
    valley = ravine(show, angle=angle)
    axes = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    start = axes @ torch.tensor([4.0, 0.5]).double()
    best = predict(condition=show)
    runs = [
        ("sgd", make_rule("sgd", lr=best["sgd"].lr * 0.98), GREY),
        ("heavy ball", make_rule("heavy_ball", lr=best["heavy_ball"].lr, momentum=best["heavy_ball"].momentum), BLUE),
        ("nesterov", make_rule("nesterov", lr=best["nesterov"].lr, momentum=best["nesterov"].momentum), GREEN),
        ("adam", make_rule("adam", lr=0.25), RED),
    ]
    with sheet(folder, "ravine", 2, height=3.8) as (_, (left, right)):
        x, y = np.meshgrid(np.linspace(-2, 4.4, 120), np.linspace(-1.5, 3.6, 120))
        z = valley.value(torch.as_tensor(np.stack([x, y], -1))).numpy()
        left.contour(x, y, z, levels=np.geomspace(0.3, 200, 9), colors=GREY, linewidths=0.5)
        for label, rule, colour in runs:
            path = follow(rule, valley.gradient, start, 45)
            left.plot(path[:, 0], path[:, 1], "o-", color=colour, lw=1.1, ms=2.4, label=label)
        left.plot(0, 0, "k+", ms=9)
        left.set(title=f"45 steps, κ = {show:.0f}", xlim=(-2, 4.4), ylim=(-1.5, 3.6), aspect="equal")
        left.grid(False)
        left.legend(loc="upper left")
        kappas = np.geomspace(3, 1e6, 60)
        lines = [predict(condition=float(k)) for k in kappas]
        for name, colour in (("sgd", GREY), ("heavy_ball", BLUE), ("nesterov", GREEN)):
            right.plot(kappas, [line[name].steps for line in lines], color=colour, label=f"{name}, predicted")
        dots = np.array([10.0, 100.0, 1e3, 1e4, 1e5, 1e6])
        race = [simulate(condition=float(k), rules=("heavy_ball", "nesterov"), limit=1500) for k in dots]
        for name, colour in (("heavy_ball", BLUE), ("nesterov", GREEN)):
            right.plot(dots, [r.series[f"{name}: steps"][1] for r in race], "o", color=colour)
        few = np.array([10.0, 30.0, 100.0, 300.0, 1e3, 3e3])
        turned = [_best("adam", ravine(float(k), angle=math.pi / 4), 1e-4, 1500, angle=math.pi / 4) for k in few]
        right.plot(few, turned, "s--", color=RED, lw=1, label="adam, turned by 45°")
        flat = [_best("adam", ravine(float(k)), 1e-4, 100) for k in dots]
        right.plot(dots, flat, "^--", color=ORANGE, lw=1, label="adam, along the axes")
        right.plot(
            dots[:3],
            [_race(make_rule("sgd", lr=2 / (k + 1)), ravine(float(k)), 1e-4, 9999) for k in dots[:3]],
            "o",
            color=GREY,
        )
        right.set(
            title="Steps to 10⁻⁴ of the squared distance",
            xlabel="condition number κ",
            xscale="log",
            yscale="log",
            ylim=(3, 3e6),
        )
        right.legend(loc="upper left", fontsize=7.5)


def _tuned(form: Form, lr: float, momentum: float, rate: float, condition: float, tolerance: float) -> Tuned:
    """Count the steps on the exact paths along the flat and the steep axis."""
    length = math.ceil(math.log(tolerance) / math.log(rate)) + 60
    while True:
        flat, steep = (linear.path(form, lr * h, momentum, length) for h in (1.0, condition))
        steps = _settled(torch.as_tensor(flat**2 + steep**2), tolerance)
        if steps < length / 2:  # well inside what was looked at, so it does not rise again
            return Tuned(lr=lr, momentum=momentum, contraction=rate, steps=int(steps))
        length *= 2


def _settled(distance: Tensor, tolerance: float) -> float:
    """Give the first step from which a distance ``[T, ...]`` stays within the tolerance; the least over copies."""
    above = distance > tolerance * (1 + 1e-9) * distance[0]
    last = torch.where(above, torch.arange(len(distance)).reshape(-1, *[1] * (distance.ndim - 1)), -1).amax(0)
    arrived = torch.where(last < len(distance) - 1, last.double() + 1, math.inf)
    return float(arrived.min())


def _start(angle: float) -> Tensor:
    """Give the point at distance one along both axes of a ravine that is turned by ``angle``."""
    return torch.tensor([math.cos(angle) - math.sin(angle), math.sin(angle) + math.cos(angle)], dtype=torch.float64)


def _race(rule: Rule, valley: Quadratic, tolerance: float, limit: int, *, angle: float = 0.0) -> float:
    """Count a rule's steps to the tolerance; infinite beyond the limit."""
    path = follow(rule, valley.gradient, _start(angle), limit)
    return _settled((path**2).sum(-1), tolerance)


def _best(name: str, valley: Quadratic, tolerance: float, limit: int, *, angle: float = 0.0) -> float:
    """Count the steps of the fastest learning rate; all of them run at once."""
    hyper = {"weight_decay": 0.0} if name == "adamw" else {}
    start = _start(angle).expand(len(RATES), 2)
    path = follow(make_rule(name, lr=RATES, **hyper), valley.gradient, start, limit, copies=len(RATES))
    return _settled((path**2).sum(-1), tolerance)


def _contraction(rule: Rule, condition: float) -> float:
    """Measure the factor per step along the flat axis, from a fit to the path."""
    path = as_array(follow(rule, lambda x: x, torch.ones((), dtype=torch.float64), 60))
    if abs(path[2] * path[0] - path[1] ** 2) <= 1e-14 * path[1] ** 2:  # one exponential: plain descent
        return float(path[-1] / path[-2])
    p, q = linear.fit(path)
    # A tuned rule has a double root, where the roots are as uncertain as the square root of rounding: take their mean.
    return math.sqrt(q) if abs(p * p / 4 - q) < 1e-10 else abs(linear.roots(p, q)[0])
