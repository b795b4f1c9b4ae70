"""Gradient descent and the three forms of momentum that carry one velocity."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmomentum.optim.elementwise import Decay, Kernel, elementwise
from fedmomentum.optim.hyper import Hyper, Schedule, checked, fit, per_copy
from fedmomentum.optim.rule import Rule


def sgd(*, lr: Hyper | Schedule, weight_decay: Hyper = 0.0, decay: Decay = "l2") -> Rule:
    """Descend the gradient: ``x <- x - lr g``.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` or ``decoupled``; without momentum they are the same.

    Raises:
        HyperparameterError: a hyperparameter is out of range.
    """

    def begin(lr: Hyper, count: Tensor) -> Kernel:
        return lambda g: (g * fit(-lr, g),)

    return elementwise(begin, slots={}, lr=lr, weight_decay=weight_decay, decay=decay)


def heavy_ball(
    *,
    lr: Hyper | Schedule,
    momentum: Hyper = 0.9,
    dampening: Hyper = 0.0,
    weight_decay: Hyper = 0.0,
    decay: Decay = "l2",
) -> Rule:
    """Descend with a velocity that sums gradients: ``v <- momentum v + (1 - dampening) g``, ``x <- x - lr v``.

    The form and the corner cases of ``torch.optim.SGD``: the first step takes ``v = g`` without dampening, and where
    momentum is 0 dampening does nothing. With dampening 0 the bits are those of ``old - lr * (momentum * v + g)``
    in numpy, in the order written.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        momentum: in [-1, 1] (negative momentum steadies games, arXiv:1807.04740): a number or ``[K]``.
        dampening: in [0, 1]: a number or ``[K]``.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` or ``decoupled``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: Polyak 1964, doi:10.1016/0041-5553(64)90137-5; on a server, arXiv:1909.06335.
    """
    beta = checked("momentum", momentum, -1.0, 1.0)
    damping = checked("dampening", dampening, 0.0, 1.0)
    damped = isinstance(damping, Tensor) or damping != 0.0

    def begin(lr: Hyper, count: Tensor) -> Kernel:
        share = per_copy(_share, count, beta, damping) if damped else 1.0

        def kernel(g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            v = (v * fit(beta, g)).add_(g * fit(share, g) if damped else g)
            return v * fit(-lr, g), v

        return kernel

    return elementwise(begin, slots={"velocity": 0.0}, lr=lr, weight_decay=weight_decay, decay=decay)


def _share(step: int, beta: float, damping: float) -> float:
    """Give the part of the gradient that enters the velocity, by torch's rules."""
    return 1.0 if step == 0 or beta == 0.0 else 1.0 - damping


def ema(*, lr: Hyper | Schedule, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0, decay: Decay = "l2") -> Rule:
    """Descend with an exponential moving average: ``v <- momentum v + (1 - momentum) g``, ``x <- x - lr v``, from 0.

    It moves as the heavy ball does with ``lr (1 - momentum)``: momentum smooths here and does not lengthen the step.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        momentum: in [-1, 1]: a number or ``[K]``.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` or ``decoupled``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.
    """
    beta = checked("momentum", momentum, -1.0, 1.0)
    rest = 1.0 - beta

    def begin(lr: Hyper, count: Tensor) -> Kernel:
        def kernel(g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            v = (v * fit(beta, g)).add_(g * fit(rest, g))
            return v * fit(-lr, g), v

        return kernel

    return elementwise(begin, slots={"velocity": 0.0}, lr=lr, weight_decay=weight_decay, decay=decay)


def nesterov(*, lr: Hyper | Schedule, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0, decay: Decay = "l2") -> Rule:
    """Descend with a look ahead, in torch's form: ``v <- momentum v + g``, ``x <- x - lr (g + momentum v)``.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        momentum: in [-1, 1]: a number or ``[K]``.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` or ``decoupled``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: Sutskever et al. 2013, with the change of variables of arXiv:1212.0901; on a server, arXiv:1909.06335.
    """
    beta = checked("momentum", momentum, -1.0, 1.0)

    def begin(lr: Hyper, count: Tensor) -> Kernel:
        def kernel(g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            b = fit(beta, g)
            v = (v * b).add_(g)
            return torch.mul(v, b).add_(g).mul_(fit(-lr, g)), v

        return kernel

    return elementwise(begin, slots={"velocity": 0.0}, lr=lr, weight_decay=weight_decay, decay=decay)
