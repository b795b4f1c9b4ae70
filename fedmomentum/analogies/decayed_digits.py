"""Weight decay on a real model: where the kinds of decay rest, on a regression of digits.

    L2, under the heavy ball or Adam   grad f(w) + lam w = 0
    decoupled heavy ball               grad f(w) + lam (1 - beta) w = 0
    AdamW                              least f(w) with |w_i| <= 1/lam:  w_i = -sign(grad_i)/lam or grad_i = 0

The second is the first at a weaker decay; the third does not shrink but puts the weights into a box (arXiv:2404.04454).
All are convex, so where they rest is found by another method altogether (L-BFGS, with bounds for the box), and the
rules are followed until they are at rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies.descent import steps_of
from fedmomentum.analogies.result import Array
from fedmomentum.data import load
from fedmomentum.optim import StepDecay, make_rule

EXAMPLES = 500


@dataclass(frozen=True)
class Regression:
    """Multinomial regression on some examples; loss and gradient are functions of ``[640]``.

    Args:
        x: inputs ``[N, 64]``.
        targets: one-hot ``[N, 10]``.
    """

    x: Tensor
    targets: Tensor

    @property
    def examples(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        return self.x, self.targets

    @property
    def size(self) -> int:
        """How many weights there are."""
        return self.x.shape[1] * self.targets.shape[1]

    def loss(self, w: Tensor) -> Tensor:
        """Give the mean cross-entropy."""
        logits = self.x @ w.view(self.x.shape[1], -1)
        return (logits.logsumexp(1) - (logits * self.targets).sum(1)).mean()

    def gradient(self, w: Tensor) -> Tensor:
        """Give its gradient."""
        wrong = (self.x @ w.view(self.x.shape[1], -1)).softmax(1) - self.targets
        return (self.x.T @ wrong / len(self.x)).flatten()


@lru_cache(maxsize=1)
def problem() -> Regression:
    """Give the regression of the first digits."""
    data = load("digits")
    x = torch.from_numpy(data.x[:EXAMPLES]).double().flatten(1)
    return Regression(x, torch.nn.functional.one_hot(torch.from_numpy(data.y[:EXAMPLES]), data.classes).double())


def at_rest(decay: str, *, lr: float, weight_decay: float, momentum: float, most: int = 4000) -> Array:
    """Follow the heavy ball with ``l2`` or ``decoupled`` decay until it hardly moves; give the weights."""
    digits = problem()
    rule = make_rule("heavy_ball", lr=lr, momentum=momentum, weight_decay=weight_decay, decay=decay)
    before = torch.zeros(digits.size, dtype=torch.float64)
    for _, w in zip(range(most), steps_of(rule, digits.gradient, before), strict=False):
        if float((w - before).norm()) < 1e-7 * float(w.norm()):
            break
        before = w
    return w.numpy()


def adaptive_at_rest(name: str, *, weight_decay: float, steps: int = 1500) -> Array:
    """Follow ``adam`` (L2) or ``adamw`` down steps that end 4,000 times smaller than they began; give the weights.

    Adam's step is as long as its rate however small the gradient, so the rate has to fall for it to come to rest.
    """
    return _adaptive(name, weight_decay, steps).copy()


@lru_cache(maxsize=16)
def _adaptive(name: str, weight_decay: float, steps: int) -> Array:
    digits = problem()
    falling = StepDecay(value=0.05, every=steps // 10, factor=0.4)
    rule = make_rule(name, lr=falling, beta1=0.9, beta2=0.95, weight_decay=weight_decay)
    w = torch.zeros(digits.size, dtype=torch.float64)
    for _, after in zip(range(steps), steps_of(rule, digits.gradient, w), strict=False):
        w = after
    return w.numpy()


def minimiser(weight_decay: float = 0.0, *, box: float | None = None) -> Array:
    """Give the weights that minimise ``f(w) + weight_decay |w|^2/2``, by L-BFGS.

    Args:
        weight_decay: lam.
        box: with it, only weights with ``|w_i| <= box``.
    """
    return _minimiser(weight_decay, box).copy()


@lru_cache(maxsize=16)
def _minimiser(weight_decay: float, box: float | None) -> Array:
    from scipy.optimize import minimize

    digits = problem()

    def both(w: Array) -> tuple[float, Array]:
        point = torch.from_numpy(w)
        slope = digits.gradient(point) + weight_decay * point
        return float(digits.loss(point) + weight_decay / 2 * point.square().sum()), slope.numpy()

    options = {"maxiter": 5000, "ftol": 1e-15 if box is None else 1e-11, "gtol": 1e-9, "maxcor": 30}
    bounds = None if box is None else [(-box, box)] * digits.size
    found = minimize(both, np.zeros(digits.size), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x)
