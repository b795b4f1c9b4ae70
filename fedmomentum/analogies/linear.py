"""Momentum on one quadratic direction: a recurrence of order two, its roots, its limits and its exact path.

With ``a = lr * curvature`` every form below moves the distance to the optimum by ``x_{t+2} = p x_{t+1} - q x_t``, so
all that the analogies say about one direction is in the roots of ``z^2 - p z + q``:

    heavy_ball  v <- beta v + g,              x <- x - lr v               p = 1 + beta - a,        q = beta
    ema         v <- beta v + (1 - beta) g,   x <- x - lr v               p = 1 + beta - a(1-beta), q = beta
    nesterov    v <- beta v + g,              x <- x - lr (g + beta v)    p = (1 + beta)(1 - a),   q = beta (1 - a)
"""

from __future__ import annotations

import cmath
import math
from typing import Literal, TypeAlias, get_args

import numpy as np

from fedmomentum.analogies.result import Array

Form: TypeAlias = Literal["heavy_ball", "ema", "nesterov"]
"""The name of the rule (``make_rule(form, lr=..., momentum=...)``) whose recurrence is meant."""

FORMS: tuple[Form, ...] = get_args(Form)


def coefficients(form: Form, a: float, momentum: float) -> tuple[float, float]:
    """Give ``(p, q)`` of the characteristic polynomial ``z^2 - p z + q``.

    Args:
        form: of the momentum.
        a: learning rate times curvature, a pure number.
        momentum: beta, in (-1, 1).

    Raises:
        ValueError: the form is unknown or the momentum out of its range.
    """
    if not -1 < momentum < 1:
        raise ValueError(f"momentum must lie in (-1, 1), not {momentum}")
    match form:
        case "heavy_ball":
            return 1 + momentum - a, momentum
        case "ema":
            return 1 + momentum - a * (1 - momentum), momentum
        case "nesterov":
            return (1 + momentum) * (1 - a), momentum * (1 - a)
        case _:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")


def roots(p: float, q: float) -> tuple[complex, complex]:
    """Give the roots of ``z^2 - p z + q``, the larger in modulus first."""
    middle, spread = p / 2, cmath.sqrt(p * p / 4 - q)
    first, second = middle + spread, middle - spread
    return (first, second) if abs(first) >= abs(second) else (second, first)


def radius(form: Form, a: float, momentum: float) -> float:
    """Give the spectral radius: the factor by which a step shrinks the error in the long run."""
    return abs(roots(*coefficients(form, a, momentum))[0])


def stability_limit(form: Form, momentum: float) -> float:
    """Give the largest stable ``a = lr * curvature``; beyond it the error grows.

        heavy_ball 2(1 + beta),   ema 2(1 + beta)/(1 - beta),   nesterov 2(1 + beta)/(1 + 2 beta)

    Source: arXiv:1206.5533 for the first; all three are ``z = -1`` in the polynomial.
    """
    coefficients(form, 0.0, momentum)
    match form:
        case "heavy_ball":
            return 2 * (1 + momentum)
        case "ema":
            return 2 * (1 + momentum) / (1 - momentum)
        case "nesterov":
            return 2 * (1 + momentum) / (1 + 2 * momentum) if momentum > -0.5 else math.inf


def critical_momentum(form: Form, a: float) -> float:
    """Give the momentum that damps critically: a double root, the fastest decay that momentum can give this curvature.

        heavy_ball (1 - sqrt a)^2,   ema ((1 - a)/(1 + a))^2,   nesterov (1 - sqrt a)/(1 + sqrt a);   0 < a <= 1

    Raises:
        ValueError: ``a`` is outside (0, 1], where plain descent already overshoots.
    """
    if not 0 < a <= 1:
        raise ValueError(f"critical damping needs 0 < lr * curvature <= 1, not {a}")
    match form:
        case "heavy_ball":
            return (1 - math.sqrt(a)) ** 2
        case "ema":
            return ((1 - a) / (1 + a)) ** 2
        case "nesterov":
            return (1 - math.sqrt(a)) / (1 + math.sqrt(a))
        case _:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")


def path(form: Form, a: float, momentum: float, steps: int) -> Array:
    """Give ``x_0 .. x_steps`` of the rule started at rest at distance one, from the roots and not by iterating.

    x_t = (x_1 - x_0 z2)/(z1 - z2) z1^t + (x_0 z1 - x_1)/(z1 - z2) z2^t,   z (1 + t (x_1/z - 1))^.. at a double root
    """
    p, q = coefficients(form, a, momentum)
    first_step = {"heavy_ball": a, "ema": a * (1 - momentum), "nesterov": a * (1 + momentum)}[form]
    z1, z2 = roots(p, q)
    x1 = 1 - first_step
    t = np.arange(steps + 1)
    if abs(z1 - z2) < 1e-7:
        z = p / 2
        if z == 0:
            return np.where(t == 0, 1.0, np.where(t == 1, x1, 0.0))
        return np.asarray(z**t * (1 + t * (x1 / z - 1)), dtype=np.float64)
    parts = ((x1 - z2) * np.power(z1, t) + (z1 - x1) * np.power(z2, t)) / (z1 - z2)
    return np.asarray(parts.real, dtype=np.float64)


def fit(x: Array) -> tuple[float, float]:
    """Measure ``(p, q)`` from a path, by least squares on ``x_{t+2} = p x_{t+1} - q x_t`` (Prony's method).

    Each equation is divided by its own size, so a decay over many orders of magnitude counts evenly.

    Raises:
        ValueError: fewer than four points, or points that are all zero.
    """
    if len(x) < 4 or not np.any(x):
        raise ValueError("a fit needs at least four points that are not all zero")
    rows = np.stack([x[1:-1], -x[:-2]], axis=1)
    size = np.linalg.norm(np.column_stack([rows, x[2:]]), axis=1)
    keep = size > 0
    solution = np.linalg.lstsq(rows[keep] / size[keep, None], x[2:][keep] / size[keep], rcond=None)[0]
    return float(solution[0]), float(solution[1])
