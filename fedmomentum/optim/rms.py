"""RMSProp: the gradient divided by its own running root mean square, then momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmomentum.optim.elementwise import Decay, Kernel, elementwise
from fedmomentum.optim.hyper import Hyper, Schedule, checked, fit
from fedmomentum.optim.rule import Rule


def rmsprop(
    *,
    lr: Hyper | Schedule,
    alpha: Hyper = 0.99,
    eps: Hyper = 1e-8,
    momentum: Hyper = 0.0,
    centered: bool = False,
    weight_decay: Hyper = 0.0,
    decay: Decay = "l2",
) -> Rule:
    """Divide by a running root mean square: ``s <- alpha s + (1 - alpha) g^2``, ``x <- x - lr v``.

    The velocity is ``v <- momentum v + g / (sqrt(s - a^2) + eps)``, where ``a <- alpha a + (1 - alpha) g`` if
    ``centered`` and 0 if not. The form of ``torch.optim.RMSprop``, but for one thing: the estimate ``s - a^2`` of a
    variance, which rounding can make negative, is kept at 0 or above, where torch gives NaN.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        alpha: in [0, 1]: a number or ``[K]``.
        eps: added outside the root, at least 0: a number or ``[K]``.
        momentum: in [0, 1]: a number or ``[K]``; with 0 no velocity is kept.
        centered: divide by the standard deviation instead of the root mean square (arXiv:1308.0850).
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` or ``decoupled``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: Tieleman and Hinton 2012, lecture 6.5 of "Neural Networks for Machine Learning".
    """
    keep = checked("alpha", alpha, 0.0, 1.0)
    rest = 1.0 - keep
    small = checked("eps", eps, 0.0)
    beta = checked("momentum", momentum, 0.0, 1.0)
    moves = isinstance(beta, Tensor) or beta != 0.0
    slots = {"mean_square": 0.0}
    if centered:
        slots["mean"] = 0.0
    if moves:
        slots["velocity"] = 0.0

    def begin(lr: Hyper, count: Tensor) -> Kernel:
        def kernel(g: Tensor, *held: Tensor) -> tuple[Tensor, ...]:
            a, b = fit(keep, g), fit(rest, g)
            s = (held[0] * a).add_((g * g).mul_(b))
            kept = [s]
            if centered:
                mean = (held[1] * a).add_(g * b)
                kept.append(mean)
                s = (s - mean * mean).clamp_min_(0.0)
            v = g / torch.sqrt(s).add_(fit(small, g))
            if moves:
                v.add_(held[-1] * fit(beta, g))
                kept.append(v)
                return v * fit(-lr, g), *kept
            return v.mul_(fit(-lr, g)), *kept

        return kernel

    return elementwise(begin, slots=slots, lr=lr, weight_decay=weight_decay, decay=decay)
