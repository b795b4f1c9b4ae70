"""Laws to sample from whose moments are known: what a sampler says can be held against them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmomentum.samplers.fields import Field
from fedmomentum.samplers.kernel import Gradient, Potential
from fedmomentum.trees import Tree

_DOUBLE = torch.float64


@dataclass(frozen=True)
class Target:
    """A law of one tensor ``x [P]``, as a potential and what is known of it.

    Args:
        potential: ``U`` of one point ``{"x": [P]}``, up to a constant.
        field: value and gradient of stacked points ``{"x": [C, P]}``, in closed form.
        size: P.
        mean: ``[P]``, where it is known.
        covariance: ``[P, P]``, where it is known.
        sample: exact draws ``(generator, n) -> {"x": [n, P]}``, where there is a way.
    """

    potential: Potential
    field: Field
    size: int
    mean: Tensor | None = None
    covariance: Tensor | None = None
    sample: Callable[[torch.Generator, int], Tree] | None = None

    @property
    def gradient(self) -> Gradient:
        """``dU`` of stacked points."""
        return self.field.gradient


def gaussian(mean: Tensor, covariance: Tensor) -> Target:
    """Give ``U = (x - m)' S^-1 (x - m) / 2``.

    Args:
        mean: m ``[P]``.
        covariance: S ``[P, P]``.

    Raises:
        ValueError: the covariance is not positive definite or does not fit the mean.
    """
    mean, covariance = mean.to(_DOUBLE), covariance.to(_DOUBLE)
    factor, fault = torch.linalg.cholesky_ex(covariance)
    if covariance.shape != (len(mean), len(mean)) or bool(fault):
        raise ValueError(f"a positive definite covariance of shape {[len(mean)] * 2} is needed")
    precision = torch.cholesky_inverse(factor)

    def potential(tree: Tree) -> Tensor:
        away = tree["x"] - mean
        return 0.5 * away @ precision @ away

    def sample(generator: torch.Generator, n: int) -> Tree:
        return {"x": mean + torch.randn(n, len(mean), generator=generator, dtype=_DOUBLE) @ factor.T}

    field = quadratic(mean, precision)
    return Target(potential, field, len(mean), mean, covariance, sample)


def quadratic(mean: Tensor, precision: Tensor) -> Field:
    """Give the field of ``U = (x - m)' A (x - m) / 2`` on stacked points ``{"x": [C, P]}``."""

    shift = -mean @ precision

    def gradient(tree: Tree) -> Tree:
        return {"x": torch.addmm(shift, tree["x"], precision)}

    def both(tree: Tree) -> tuple[Tensor, Tree]:
        away = tree["x"] - mean
        force = away @ precision
        return torch.linalg.vecdot(away, force) * 0.5, {"x": force}

    return Field(gradient, both, closed=True)


def banana(*, centre: float = 1.0, scale: float = 1.0, width: float = 0.5) -> Target:
    """Give Rosenbrock's valley as a law: ``x ~ N(a, s^2)``, ``y | x ~ N(x^2, w^2)``.

    ``U = (x - a)^2 / (2 s^2) + (y - x^2)^2 / (2 w^2)``; ``E y = a^2 + s^2``, ``Var y = 4 a^2 s^2 + 2 s^4 + w^2``,
    ``Cov(x, y) = 2 a s^2``.

    Args:
        centre: a.
        scale: s, positive.
        width: w, positive; the narrower, the harder.

    Source: Pagani, Wiegand, Nadarajah 2019, arXiv:1903.09556.
    """
    a, s2, w2 = centre, scale**2, width**2

    def potential(tree: Tree) -> Tensor:
        x, y = tree["x"].unbind()
        return (x - a).square() / (2 * s2) + (y - x.square()).square() / (2 * w2)

    def both(tree: Tree) -> tuple[Tensor, Tree]:
        x, y = tree["x"].unbind(-1)
        away, miss = (x - a) / s2, y - x**2
        push = miss / w2
        value = 0.5 * (away * (x - a) + push * miss)
        return value, {"x": torch.stack([away - 2 * x * push, push], -1)}

    def gradient(tree: Tree) -> Tree:
        x, y = tree["x"].unbind(-1)
        miss = (y - x**2) / w2
        return {"x": torch.stack([(x - a) / s2 - 2 * x * miss, miss], -1)}

    def sample(generator: torch.Generator, n: int) -> Tree:
        x, y = torch.randn(2, n, generator=generator, dtype=_DOUBLE)
        x = a + scale * x
        return {"x": torch.stack([x, x**2 + width * y], -1)}

    mean = torch.tensor([a, a**2 + s2], dtype=_DOUBLE)
    covariance = torch.tensor([[s2, 2 * a * s2], [2 * a * s2, 4 * a**2 * s2 + 2 * s2**2 + w2]], dtype=_DOUBLE)
    return Target(potential, Field(gradient, both, closed=True), 2, mean, covariance, sample)


def funnel(size: int = 3, *, scale: float = 3.0) -> Target:
    """Give Neal's funnel: ``v ~ N(0, s^2)``, then ``size - 1`` numbers ``x_i | v ~ N(0, e^v)``.

    ``U = v^2 / (2 s^2) + (P - 1) v / 2 + e^-v |x|^2 / 2``; ``Var x_i = e^(s^2 / 2)``. No one step size suits neck and
    mouth.

    Args:
        size: P, at least 2.
        scale: s, positive.

    Source: Neal 2003, Slice sampling.
    """
    s2, rest = scale**2, size - 1

    def potential(tree: Tree) -> Tensor:
        v, x = tree["x"][0], tree["x"][1:]
        return v**2 / (2 * s2) + rest * v / 2 + (-v).exp() * (x @ x) / 2

    def both(tree: Tree) -> tuple[Tensor, Tree]:
        v, x = tree["x"][..., :1], tree["x"][..., 1:]
        narrow = (-v).exp()
        width = narrow * x.square().sum(-1, keepdim=True) / 2
        value = v**2 / (2 * s2) + rest * v / 2 + width
        return value.squeeze(-1), {"x": torch.cat([v / s2 + rest / 2 - width, narrow * x], -1)}

    def sample(generator: torch.Generator, n: int) -> Tree:
        z = torch.randn(n, size, generator=generator, dtype=_DOUBLE)
        v = scale * z[:, :1]
        return {"x": torch.cat([v, (v / 2).exp() * z[:, 1:]], -1)}

    variances = torch.tensor([s2] + [math.exp(s2 / 2)] * rest, dtype=_DOUBLE)
    return Target(
        potential,
        Field(lambda tree: both(tree)[1], both),
        size,
        torch.zeros(size, dtype=_DOUBLE),
        torch.diag(variances),
        sample,
    )


def linear_regression(features: Tensor, answers: Tensor, *, noise: float = 1.0, prior: float = 1.0) -> Target:
    """Give the posterior of ``y = X w + N(0, noise)``, ``w ~ N(0, prior)``, which is Gaussian.

    Precision ``X'X / noise + I / prior``, mean ``precision^-1 X'y / noise``.

    Args:
        features: X ``[N, P]``.
        answers: y ``[N]``.
        noise: variance of the answers.
        prior: variance of each weight.
    """
    X, y = features.to(_DOUBLE), answers.to(_DOUBLE)
    precision = X.T @ X / noise + torch.eye(X.shape[1], dtype=_DOUBLE) / prior
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    exact = gaussian(covariance @ (X.T @ y) / noise, covariance)

    def potential(tree: Tree) -> Tensor:
        w = tree["x"]
        return (y - X @ w).square().sum() / (2 * noise) + w @ w / (2 * prior)

    assert exact.mean is not None
    offset = potential({"x": exact.mean})

    def both(tree: Tree) -> tuple[Tensor, Tree]:
        value, grads = exact.field.both(tree)
        return value + offset, grads

    return Target(
        potential, Field(exact.gradient, both, closed=True), exact.size, exact.mean, exact.covariance, exact.sample
    )


def logistic_regression(features: Tensor, labels: Tensor, *, prior: float = 1.0) -> Target:
    """Give the posterior of ``P(y = 1) = sigmoid(X w)``, ``w ~ N(0, prior)``; its moments have no closed form.

    ``U = sum_n [log(1 + e^{x_n w}) - y_n x_n w] + |w|^2 / (2 prior)``.

    Args:
        features: X ``[N, P]``; add a column of ones for an intercept.
        labels: y ``[N]``, 0 or 1.
        prior: variance of each weight.
    """
    X, y = features.to(_DOUBLE), labels.to(_DOUBLE)

    def potential(tree: Tree) -> Tensor:
        w = tree["x"]
        score = X @ w
        return (torch.nn.functional.softplus(score) - y * score).sum() + w @ w / (2 * prior)

    def gradient(tree: Tree) -> Tree:
        w = tree["x"]
        return {"x": ((w @ X.T).sigmoid() - y) @ X + w / prior}

    def both(tree: Tree) -> tuple[Tensor, Tree]:
        w = tree["x"]
        score = w @ X.T
        value = torch.nn.functional.softplus(score).sum(-1) - score @ y + w.square().sum(-1) / (2 * prior)
        return value, {"x": (score.sigmoid() - y) @ X + w / prior}

    return Target(potential, Field(gradient, both, closed=True), X.shape[1])
