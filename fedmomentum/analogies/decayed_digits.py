"""Weight decay on a real model: where L2 and decoupled decay of the heavy ball rest, on a regression of digits.

    L2: grad f(w) + lam w = 0,   decoupled heavy ball: grad f(w) + lam (1 - beta) w = 0

The second is the first at a weaker decay. Both are strictly convex here, so where they rest is found by another method
altogether (L-BFGS), and the rules are followed until they are at rest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies.descent import steps_of
from fedmomentum.analogies.result import Array
from fedmomentum.data import load
from fedmomentum.optim import make_rule

EXAMPLES = 500
Gradient = Callable[[Tensor], Tensor]


def problem() -> tuple[Callable[[Tensor], Tensor], Gradient, int]:
    """Give loss and gradient of multinomial regression on the first digits, as functions of ``[640]``."""
    data = load("digits")
    x = torch.from_numpy(data.x[:EXAMPLES]).double().flatten(1)
    targets = torch.nn.functional.one_hot(torch.from_numpy(data.y[:EXAMPLES]), data.classes).double()

    def loss(w: Tensor) -> Tensor:
        logits = x @ w.view(x.shape[1], -1)
        return (logits.logsumexp(1) - (logits * targets).sum(1)).mean()

    def gradient(w: Tensor) -> Tensor:
        return (x.T @ ((x @ w.view(x.shape[1], -1)).softmax(1) - targets) / len(x)).flatten()

    return loss, gradient, x.shape[1] * data.classes


def at_rest(decay: str, *, lr: float, weight_decay: float, momentum: float, most: int = 4000) -> Array:
    """Follow the heavy ball with ``l2`` or ``decoupled`` decay until it hardly moves; give the weights."""
    _, gradient, size = problem()
    rule = make_rule("heavy_ball", lr=lr, momentum=momentum, weight_decay=weight_decay, decay=decay)
    before = torch.zeros(size, dtype=torch.float64)
    for _, w in zip(range(most), steps_of(rule, gradient, before), strict=False):
        if float((w - before).norm()) < 1e-7 * float(w.norm()):
            break
        before = w
    return w.numpy()


def minimiser(weight_decay: float) -> Array:
    """Give the weights that minimise ``f(w) + weight_decay |w|^2/2``, by L-BFGS."""
    from scipy.optimize import minimize

    loss, gradient, size = problem()

    def both(w: Array) -> tuple[float, Array]:
        point = torch.from_numpy(w)
        slope = gradient(point) + weight_decay * point
        return float(loss(point) + weight_decay / 2 * point.square().sum()), slope.numpy()

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30}
    return np.asarray(minimize(both, np.zeros(size), jac=True, method="L-BFGS-B", options=options).x)
