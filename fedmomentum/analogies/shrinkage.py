"""How fast weight decay alone shrinks each coordinate of a real model, under rules that do and do not divide.

    heavy ball, L2      lr lam/(1 - beta)        the same for all coordinates
    any rule, decoupled lr lam                   the same for all coordinates
    Adam, L2            lr lam/sqrt(v_i)         v_i = E g_i^2: coordinates with large gradients hardly decay

Two copies of a rule hear one stream of minibatch gradients, one with decay and one without; what one moves more than
the other is the decay's. The model is the regression of digits, held where it is trained, and the gradients are
centred there. The decay is so weak that it does not change ``v`` (with a signal ``E g_i`` or a strong decay, ``v_i``
is ``E (g_i + lam w_i)^2``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies.decayed_digits import minimiser, problem
from fedmomentum.analogies.result import Array, as_array
from fedmomentum.optim import Rule, expand_state
from fedmomentum.streams import torch_stream

WEAK = 1e-6
"""The decay measured with."""


@dataclass(frozen=True)
class Stream:
    """Minibatch gradients at one point.

    Args:
        weights: ``[P]`` where they were taken.
        gradients: ``[T, P]``, centred.
        lively: ``[P]``, the coordinates with a weight and a gradient to speak of; others are never-lit pixels.
    """

    weights: Tensor
    gradients: Tensor
    lively: Tensor

    @property
    def size(self) -> Array:
        """``sqrt(v_i)`` of the lively coordinates."""
        return as_array(self.gradients[:, self.lively].square().mean(0).sqrt())


def predict_shrinkage(kind: str, *, momentum: float, size: Array) -> Array:
    """Give the shrinkage a step over ``lr lam``, one for each coordinate.

    Args:
        kind: ``l2``, ``decoupled``, ``adamw`` or ``adam l2``.
        momentum: beta.
        size: ``sqrt(v_i)``.

    Source: arXiv:1711.05101, section 3.
    """
    match kind:
        case "l2":
            return np.full_like(size, 1 / (1 - momentum))
        case "decoupled" | "adamw":
            return np.ones_like(size)
        case "adam l2":
            return 1 / size
        case _:
            raise ValueError(f"no prediction of shrinkage for '{kind}'")


@lru_cache(maxsize=4)
def digits_stream(steps: int, *, batch: int = 16, seed: int = 0) -> Stream:
    """Give gradients of minibatches where the regression of digits is trained (decay .02).

    Args:
        steps: T.
        batch: examples in each.
        seed: of the stream "shrinkage".
    """
    x, targets = problem().examples
    weights = torch.from_numpy(minimiser(0.02))
    wrong = (x @ weights.view(x.shape[1], -1)).softmax(1) - targets
    chosen = torch.randint(len(x), (steps, batch), generator=torch_stream(seed, "shrinkage"))
    gradients = (torch.einsum("tbi,tbc->tic", x[chosen], wrong[chosen]) / batch).flatten(1)
    gradients = gradients - gradients.mean(0)
    lively = (gradients.square().mean(0) > 1e-5) & (weights.abs() > 1e-3)
    return Stream(weights, gradients, lively)


def settling(momentum: float) -> int:
    """Give the steps after which neither moment remembers its start."""
    return max(500, math.ceil(10 / (1 - momentum)))


def shrinkage(rule: Rule, stream: Stream, *, wait: int) -> Array:
    """Measure the shrinkage a step over ``lr lam`` of each lively coordinate.

        (mean update without decay - mean update with decay)_i / (lam w_i)

    Args:
        rule: of two copies, at lr 1, ``weight_decay=torch.tensor([0, WEAK])``.
        stream: of gradients.
        wait: steps before the average, for the moments to settle.
    """
    here = {"x": torch.stack([stream.weights] * 2)}
    state = expand_state(rule.init({"x": stream.weights}), 2)
    total = torch.zeros_like(here["x"])
    for t, g in enumerate(stream.gradients):
        updates, state = rule.update({"x": torch.stack([g, g])}, state, here)
        if t >= wait:
            total += updates["x"]
    moved = (total[0] - total[1]) / (len(stream.gradients) - wait)
    return as_array((moved / stream.weights / WEAK)[stream.lively])
