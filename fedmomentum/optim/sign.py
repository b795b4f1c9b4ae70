"""Lion: steps of one size, in the sign of an average."""

from __future__ import annotations

from torch import Tensor

from fedmomentum.optim.elementwise import Decay, Kernel, elementwise
from fedmomentum.optim.hyper import Hyper, Schedule, checked, fit
from fedmomentum.optim.rule import Rule


def lion(
    *,
    lr: Hyper | Schedule,
    beta1: Hyper = 0.9,
    beta2: Hyper = 0.99,
    weight_decay: Hyper = 0.0,
    decay: Decay = "decoupled",
) -> Rule:
    """Step by a sign: ``x <- x - lr (sign(b1 m + (1-b1) g) + weight_decay x)``, then ``m <- b2 m + (1-b2) g``.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule. Every coordinate moves by ``lr``.
        beta1: weight of the past in the step, in [0, 1): a number or ``[K]``.
        beta2: weight of the past in what is kept, in [0, 1): a number or ``[K]``.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``decoupled``, as published, or ``l2``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: arXiv:2302.06675.
    """
    first, second = (
        checked(name, value, 0.0, 1.0, below_high=True) for name, value in (("beta1", beta1), ("beta2", beta2))
    )
    rest1, rest2 = 1.0 - first, 1.0 - second

    def begin(lr: Hyper, count: Tensor) -> Kernel:
        def kernel(g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
            look = (m * fit(first, g)).add_(g * fit(rest1, g))
            return look.sign_().mul_(fit(-lr, g)), (m * fit(second, g)).add_(g * fit(rest2, g))

        return kernel

    return elementwise(begin, slots={"first_moment": 0.0}, lr=lr, weight_decay=weight_decay, decay=decay)
