"""Weight decay is a second spring, and where it is attached decides where the weights come to rest.

In the gradient (L2) it is a spring from the weights to the origin, parallel to the loss. Beside the rule (decoupled)
it is a leak: the weights shrink at a rate of their own while the loss pushes through the momentum. The two rest at
different places, and under Adam the spring is stretched by the gradients' size, coordinate by coordinate, where the
leak is not. On scale-invariant weights (those before a normalisation) there is no place to rest at all: noise
pushes the norm up, decay pulls it down, and the balance sets how fast the weights turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies.decayed_digits import adaptive_at_rest, at_rest, minimiser, problem
from fedmomentum.analogies.descent import follow, steps_of
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.analogies.shrinkage import WEAK, digits_stream, predict_shrinkage, settling, shrinkage
from fedmomentum.optim import Rule, make_rule
from fedmomentum.streams import torch_stream

KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "l2": ("heavy_ball", {"decay": "l2"}),
    "l2 ema": ("ema", {"decay": "l2"}),
    "decoupled": ("heavy_ball", {"decay": "decoupled"}),
    "decoupled ema": ("ema", {"decay": "decoupled"}),
    "adamw": ("adamw", {"beta2": 0.95}),  # the usual 0.999 rests at the same place, thousands of steps later
    "adam l2": ("adam", {"beta2": 0.99, "decay": "l2"}),
}
"""Kind of decay -> rule and its options."""


@dataclass(frozen=True)
class Rest:
    """Where decayed weights come to rest on ``curvature (x - optimum)^2/2``, and how scale-invariant ones turn.

    Args:
        l2: fixed point with decay in the gradient, either form of momentum.
        decoupled: with decay beside the heavy ball.
        decoupled_ema: with decay beside the ema.
        adamw: with decay beside Adam: the optimum, cut at +-1/weight_decay.
        balance_norm: norm of scale-invariant weights in balance, for the heavy ball with L2, where a gradient at norm
            one has norm one.
        turn: angle by which such weights turn in a step, rad.
        settling: steps in which their norm approaches the balance by a factor e.
    """

    l2: float
    decoupled: float
    decoupled_ema: float
    adamw: float
    balance_norm: float
    turn: float
    settling: float


def predict(*, lr: float, weight_decay: float, momentum: float, curvature: float = 1.0, optimum: float = 1.0) -> Rest:
    """Give where decayed weights rest.

        L2 h b/(h + lam),   decoupled heavy ball h b/(h + lam (1 - beta)),   decoupled ema h b/(h + lam)
        AdamW clip(b, +-1/lam)
        scale-invariant, G = |g| |w|:  |w|^4 = lr G^2/(2 lam (1 - beta)),   turn^2 = 2 lr lam/(1 + beta),
        settling (1 - beta)/(4 lr lam)

    Args:
        lr: learning rate, parameter^2 per loss.
        weight_decay: lam, loss per parameter^2 (AdamW: per parameter, since its step is lr in size).
        momentum: beta, in [0, 1).
        curvature: h, positive.
        optimum: b.

    Raises:
        ValueError: lr, weight_decay or curvature is not positive or the momentum outside [0, 1).

    Source: arXiv:1711.05101; for scale-invariant weights arXiv:1706.05350 and arXiv:2305.17212.
    """
    if not (lr > 0 and weight_decay > 0 and curvature > 0 and 0 <= momentum < 1):
        raise ValueError(
            "need lr, weight_decay, curvature > 0 and 0 <= momentum < 1, not "
            f"{lr}, {weight_decay}, {curvature}, {momentum}"
        )
    return Rest(
        l2=curvature * optimum / (curvature + weight_decay),
        decoupled=curvature * optimum / (curvature + weight_decay * (1 - momentum)),
        decoupled_ema=curvature * optimum / (curvature + weight_decay),
        adamw=max(-1 / weight_decay, min(1 / weight_decay, optimum)),
        balance_norm=(lr / (2 * weight_decay * (1 - momentum))) ** 0.25,
        turn=math.sqrt(2 * lr * weight_decay / (1 + momentum)),
        settling=(1 - momentum) / (4 * lr * weight_decay),
    )


def simulate(
    *,
    lr: float = 0.05,
    weight_decay: float = 0.5,
    momentum: float = 0.9,
    curvature: float = 1.0,
    optimum: float = 3.0,
    dimension: int = 400,
    seed: int = 0,
) -> Measured:
    """Let every kind of decay come to rest on a quadratic and on digits, and turn scale-invariant weights at random.

    The random field's gradients are white, at right angles to the weights and as long as ``1/|w|``: what a network
    before a normalisation layer sees late in training, without its signal.

    Args:
        lr: learning rate.
        weight_decay: on the quadratic (the random field has lr * weight_decay = 1e-3 (1 - momentum)).
        momentum: beta.
        curvature: of the quadratic.
        optimum: of the quadratic.
        dimension: of the random field; the prediction is for many.
        seed: of the stream "weight decay".
    """
    rest = predict(lr=lr, weight_decay=weight_decay, momentum=momentum, curvature=curvature, optimum=optimum)
    expected = {"l2": rest.l2, "l2 ema": rest.l2, "decoupled": rest.decoupled, "decoupled ema": rest.decoupled_ema}
    claims = []
    for kind, where in expected.items():
        speed = lr * curvature * (1.0 if "ema" in kind else 1 / (1 - momentum))
        steps = math.ceil(40 * max(1 / speed, 1 / (1 - momentum)))
        end = float(_rest(kind, lr, weight_decay, momentum, curvature, optimum, steps)[-1])
        claims.append(Claim(f"{kind} rests at", where, end, 1e-6, "parameter", scale=abs(optimum) or 1.0))
    # AdamW's steps are lr long whatever the gradient: it approaches with the time 1/(lr lam), here 500 steps.
    small = 2e-3 / weight_decay
    both = torch.tensor([optimum, 0.5 / weight_decay], dtype=torch.float64)
    ends = _rest("adamw", small, weight_decay, momentum, curvature, both, 5000)[-500:].mean(0)
    for b, end in zip(both.tolist(), ends, strict=True):
        where = predict(lr=small, weight_decay=weight_decay, momentum=momentum, curvature=curvature, optimum=b).adamw
        claims.append(
            Claim(f"adamw rests at, optimum {b:g}", where, float(end), 1e-2, "parameter", scale=1 / weight_decay)
        )
    claims += _digits(momentum) + _shrinkage(momentum, seed)
    rate, turning = 0.02, 1e-3 * (1 - momentum) / 0.02
    balance = predict(lr=rate, weight_decay=turning, momentum=momentum)
    norms, turns = _tumble(rate, turning, momentum, dimension, math.ceil(12 * balance.settling), seed)
    late = len(norms) // 2
    claims += [
        Claim("norm of scale-invariant weights", balance.balance_norm, float(norms[late:].mean()), 0.02, "parameter"),
        Claim("turn of scale-invariant weights", balance.turn, float(turns[late:].mean()), 0.02, "rad/step"),
    ]
    settings = {
        "lr": lr,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "curvature": curvature,
        "optimum": optimum,
        "dimension": dimension,
        "seed": seed,
    }
    return Measured("weight_decay", settings, tuple(claims), {"norm": norms, "turn": turns})


@dataclass(frozen=True)
class Balance:
    """How far a weight matrix is from the balance of noise and decay.

    Args:
        norm: of the weights now.
        balance_norm: that noise and decay would balance at, for gradients of the size seen.
        turn: predicted angle per step in that balance, rad.
        radial: part of the gradients' power along the weights: near zero says that they are scale-invariant.
    """

    norm: float
    balance_norm: float
    turn: float
    radial: float


def probe(weights: Tensor, gradients: Tensor, *, lr: float, weight_decay: float, momentum: float) -> Balance:
    """Measure a layer's distance from rotational balance, for the heavy ball with L2.

        balance^4 = lr mean|g|^2 |w|^2 / (2 lam (1 - beta))

    Args:
        weights: of one layer, any shape.
        gradients: ``[T, *shape]`` of that layer near these weights, without the decay.
        lr: of the optimizer.
        weight_decay: of the optimizer.
        momentum: of the optimizer.

    Raises:
        ValueError: shapes differ or the weights are zero.
    """
    if gradients.shape[1:] != weights.shape:
        raise ValueError(f"gradients {list(gradients.shape)} are not [T, *{list(weights.shape)}]")
    w, g = weights.double().flatten(), gradients.double().flatten(1)
    norm = float(w.norm())
    if norm == 0:
        raise ValueError("the weights are zero: they have no direction to turn from")
    rest = predict(lr=lr, weight_decay=weight_decay, momentum=momentum)
    power = float((g**2).sum(1).mean())
    along = float(((g @ w) ** 2).mean()) / norm**2
    return Balance(
        norm=norm,
        balance_norm=rest.balance_norm * math.sqrt(math.sqrt(power) * norm),
        turn=rest.turn,
        radial=along / power if power > 0 else 0.0,
    )


def figure(folder: Path) -> None:
    """Draw ``weight_decay.svg`` and ``.png``: resting places, shrinkage, and the balance of the norm."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, sheet

    lr, lam, b = 0.05, 0.6, 2.0
    with sheet(folder, "weight_decay", 3, width=12.0) as (_, (left, middle, right)):
        betas = np.linspace(0, 0.98, 50)
        dots = np.array([0.0, 0.3, 0.6, 0.8, 0.9, 0.95])
        kinds = (
            ("l2", BLUE, "L2: h b/(h + λ)"),
            ("decoupled", ORANGE, "decoupled heavy ball: h b/(h + λ(1 − β))"),
            ("adamw", GREEN, "AdamW: clip(b, ±1/λ)"),
        )
        for kind, colour, label in kinds:
            where = [getattr(predict(lr=lr, weight_decay=lam, momentum=float(m), optimum=b), kind) for m in betas]
            left.plot(betas, where, color=colour, label=label)
            size, steps = (5e-3, 4000) if kind == "adamw" else (lr, 600)
            left.plot(
                dots, [np.mean(_rest(kind, size, lam, float(m), 1.0, b, steps)[-100:]) for m in dots], "o", color=colour
            )
        left.axhline(b, color=GREY, lw=0.8)
        left.text(0.01, b - 0.07, "optimum of the loss", fontsize=8, color=GREY)
        left.set(title="Where weights rest (dots: measured)", xlabel="momentum β", ylabel="weight", ylim=(1.15, 2.6))
        left.legend(loc="upper left")
        shrinking = (
            ("l2", BLUE, "L2, heavy ball: 1/(1 − β)"),
            ("decoupled", ORANGE, "decoupled heavy ball, AdamW: 1"),
            ("adam l2", PURPLE, "L2, Adam: 1/√v"),
        )
        for kind, colour, label in shrinking:
            sizes, shrunk = _shrunk(kind, 0.9, 0)
            line = np.geomspace(sizes.min(), sizes.max(), 50)
            middle.plot(sizes, shrunk, ".", color=colour, ms=3, alpha=0.5, rasterized=True)
            middle.plot(line, predict_shrinkage(kind, momentum=0.9, size=line), color=colour, lw=1.2, label=label)
        middle.set(
            title="Shrinkage of each weight, digits (dots)",
            xlabel="size of its gradients, √v",
            ylabel="shrinkage a step / (η λ)",
            xscale="log",
            yscale="log",
            ylim=(0.5, 1500),
        )
        middle.set_xticks([0.003, 0.01, 0.03], ["0.003", "0.01", "0.03"])
        middle.set_xticks([], minor=True)
        middle.legend(loc="upper right")
        rate, momentum = 0.02, 0.9
        for turning, colour in ((1e-2, PURPLE), (2.5e-3, RED)):
            balance = predict(lr=rate, weight_decay=turning, momentum=momentum)
            for begin in (0.6, 3.0):
                norms, _ = _tumble(rate, turning, momentum, 300, 1500, 0, begin=begin)
                right.plot(norms, color=colour, lw=1.1, label=f"λ = {turning:g}" if begin < 1 else None)
            right.axhline(balance.balance_norm, color=colour, ls="--", lw=1)
        right.set(title="Scale-invariant weights find their norm", xlabel="step", ylabel="|w|  (dashed: predicted)")
        right.legend(loc="upper right")


def _digits(momentum: float) -> list[Claim]:
    """Compare where rules rest on a regression of digits with what L-BFGS finds."""
    strength = 0.02
    claims = []
    for kind in ("l2", "decoupled"):
        weaker = strength * ((1 - momentum) if kind == "decoupled" else 1.0)
        found = at_rest(kind, lr=0.4, weight_decay=strength, momentum=momentum)
        claims.append(
            Claim(
                f"digits: {kind} is off the optimum of decay {weaker:g} by", 0.0, _off(found, weaker), 1e-3, scale=1.0
            )
        )
    found = adaptive_at_rest("adam", weight_decay=strength)
    claims.append(
        Claim(
            f"digits: adam with l2 is off the optimum of decay {strength:g} by",
            0.0,
            _off(found, strength),
            1e-3,
            scale=1.0,
        )
    )
    strong = 4.0
    rest = predict(lr=1e-3, weight_decay=strong, momentum=0.9, optimum=math.inf)
    found = adaptive_at_rest("adamw", weight_decay=strong)
    digits = problem()
    least, ended = (float(digits.loss(torch.from_numpy(w))) for w in (minimiser(box=rest.adamw), found))
    slope = digits.gradient(torch.from_numpy(found)).numpy()
    pushed = np.abs(slope) > 1e-3
    walls = (-np.sign(slope) * found)[pushed]
    return [
        *claims,
        Claim("digits: adamw rests at the least loss of the box", least, ended, 1e-3, "nats"),
        Claim("digits: adamw, weights the loss pushes on", rest.adamw, float(walls.min()), 1e-2, "parameter"),
        Claim("digits: adamw, largest weight", rest.adamw, float(np.abs(found).max()), 1e-2, "parameter"),
    ]


def _off(weights: Array, weight_decay: float) -> float:
    """Give the relative distance to the minimum of the loss with this decay."""
    wanted = minimiser(weight_decay)
    return float(np.linalg.norm(weights - wanted)) / float(np.linalg.norm(wanted))


def _shrinkage(momentum: float, seed: int) -> list[Claim]:
    """Compare how fast decay shrinks each weight of a regression of digits with the closed forms."""
    claims = []
    for kind in ("l2", "decoupled", "adamw", "adam l2"):
        size, measured = _shrunk(kind, momentum, seed)
        wanted = predict_shrinkage(kind, momentum=momentum, size=size)
        allowed = 0.05 if kind == "adam l2" else 1e-3  # v wanders about its mean
        name = f"digits: {kind} shrinks by, over lr lambda"
        claims += [
            Claim(f"{name}: median", float(np.median(wanted)), float(np.median(measured)), allowed, "per step"),
            Claim(f"{name}: largest/smallest", _spread(wanted), _spread(measured), 3 * allowed),
        ]
        if kind == "adam l2":
            with np.errstate(invalid="ignore"):  # weights that grow have no logarithm, and fail the claim
                slope = float(np.polyfit(np.log(size), np.log(measured), 1)[0])
            claims.append(Claim(f"{name}: exponent of sqrt(v)", -1.0, slope, allowed))
    return claims


def _shrunk(kind: str, momentum: float, seed: int) -> tuple[Array, Array]:
    """Give ``sqrt(v)`` and the shrinkage of each coordinate of the digits."""
    wait = settling(momentum)
    stream = digits_stream(wait + 700, seed=seed)
    name, options = KINDS[kind]
    beta = {"beta1": momentum} if name.startswith("adam") else {"momentum": momentum}
    rule = make_rule(name, lr=1.0, weight_decay=torch.tensor([0.0, WEAK]).double(), **beta, **options)
    return stream.size, shrinkage(rule, stream, wait=wait)


def _spread(values: Array) -> float:
    return float(values.max() / values.min())


def _rest(
    kind: str, lr: float, weight_decay: float, momentum: float, curvature: float, optimum: float | Tensor, steps: int
) -> Array:
    """Give the path from the origin; many optima at once make ``[steps + 1, n]``."""
    name, options = KINDS[kind]
    beta = {"beta1": momentum} if name == "adamw" else {"momentum": momentum}
    rule = make_rule(name, lr=lr, weight_decay=weight_decay, **beta, **options)
    start = torch.zeros_like(torch.as_tensor(optimum, dtype=torch.float64))
    return as_array(follow(rule, lambda x: curvature * (x - optimum), start, steps))


def _tumble(
    lr: float, weight_decay: float, momentum: float, dimension: int, steps: int, seed: int, *, begin: float = 0.0
) -> tuple[Array, Array]:
    """Give the norms and the turns of weights in a field of white gradients at right angles to them, size 1/|w|."""
    noise = torch_stream(seed, "weight decay")
    rule: Rule = make_rule("heavy_ball", lr=lr, momentum=momentum, weight_decay=weight_decay, decay="l2")
    begin = begin or predict(lr=lr, weight_decay=weight_decay, momentum=momentum).balance_norm * 1.3
    w = torch.full((dimension,), begin / math.sqrt(dimension), dtype=torch.float64)

    def gradient(x: Tensor) -> Tensor:
        direction = x / x.norm()
        g = torch.randn(dimension, generator=noise, dtype=torch.float64)
        g = g - direction * torch.dot(g, direction)
        unit: Tensor = g / g.norm() / x.norm()
        return unit

    norms, turns = np.empty(steps), np.empty(steps)
    for t, (after, _) in enumerate(zip(steps_of(rule, gradient, w), range(steps), strict=False)):
        sizes = after.norm() * w.norm()
        # Half the chord of unit vectors: exact where the angle is small and acos is not.
        turns[t] = 2 * math.asin(min(1.0, float((after / after.norm() - w / w.norm()).norm()) / 2)) if sizes > 0 else 0
        norms[t] = float(after.norm())
        w = after
    return norms, turns
