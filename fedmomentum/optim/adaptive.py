"""Rules that divide a first moment by the root of a second one: Adagrad, Adam, AMSGrad, AdamW, Yogi.

Servers use the same rules (Reddi et al. 2020, arXiv:2003.00295), in three conventions that differ in small print:

- as published: ``bias_correction=False, initial_second_moment=tau**2, eps=tau``;
- as Keras and TFF have it: ``eps_hat=True``, the second moment starts at 0;
- as Flower 1.41 has it: for FedAdam ``eps_hat=True, count_offset=1`` (it counts one round too many), for FedYogi and
  FedAdagrad ``bias_correction=False`` with a second moment that starts at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from fedmomentum.optim.elementwise import Decay, Kernel, elementwise
from fedmomentum.optim.hyper import Hyper, HyperparameterError, Schedule, checked, fit, per_copy, whole
from fedmomentum.optim.rule import Rule


def adagrad(
    *,
    lr: Hyper | Schedule,
    beta1: Hyper = 0.0,
    eps: Hyper = 1e-10,
    initial_second_moment: float = 0.0,
    weight_decay: Hyper = 0.0,
    decay: Decay = "l2",
) -> Rule:
    """Divide by the root of the sum of squares: ``s <- s + g^2``, ``x <- x - lr m / (sqrt(s) + eps)``.

    The first moment is ``m <- beta1 m + (1 - beta1) g``; with ``beta1 = 0`` it is the gradient and takes no memory.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        beta1: in [0, 1): a number or ``[K]``. torch has none; Reddi et al. have one.
        eps: added outside the root (``tau`` of Reddi et al.), at least 0: a number or ``[K]``.
        initial_second_moment: where ``s`` starts, at least 0.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` or ``decoupled``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: Duchi, Hazan, Singer 2011; arXiv:2003.00295.
    """
    first = checked("beta1", beta1, 0.0, 1.0, below_high=True)
    return _moments(
        torch.add,
        averages=isinstance(first, Tensor) or first != 0.0,
        beta1=first,
        beta2=0.0,
        lr=lr,
        eps=eps,
        initial_second_moment=initial_second_moment,
        bias_correction=False,
        weight_decay=weight_decay,
        decay=decay,
    )


def adam(
    *,
    lr: Hyper | Schedule,
    beta1: Hyper = 0.9,
    beta2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    amsgrad: bool = False,
    bias_correction: bool = True,
    eps_hat: bool = False,
    initial_second_moment: float = 0.0,
    count_offset: int = 0,
    weight_decay: Hyper = 0.0,
    decay: Decay = "l2",
) -> Rule:
    """Divide by the root of an average square: ``m <- b1 m + (1-b1) g``, ``s <- b2 s + (1-b2) g^2``.

    The step is ``x <- x - lr m^ / (sqrt(s^) + eps)`` with ``m^ = m / (1 - b1^t)`` and ``s^ = s / (1 - b2^t)``, where
    ``t`` counts from 1. AMSGrad puts the largest ``s`` so far in place of ``s``.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        beta1: in [0, 1): a number or ``[K]``.
        beta2: in [0, 1): a number or ``[K]``.
        eps: added outside the root, at least 0: a number or ``[K]``.
        amsgrad: use the largest second moment so far (arXiv:1904.09237).
        bias_correction: without it ``m^ = m`` and ``s^ = s``.
        eps_hat: add ``eps`` to ``sqrt(s)`` before the correction, ``lr sqrt(1-b2^t)/(1-b1^t) m / (sqrt(s) + eps)``,
            which Kingma and Ba call epsilon hat, and which Keras, TFF and Flower use; torch does not.
        initial_second_moment: where ``s`` starts, at least 0.
        count_offset: added to ``t`` in the exponents of the bias correction, at least 0.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` (torch's Adam) or ``decoupled`` (torch's AdamW).

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: arXiv:1412.6980; on a server, arXiv:2003.00295.
    """
    second = checked("beta2", beta2, 0.0, 1.0, below_high=True)
    rest = 1.0 - second

    def average(s: Tensor, square: Tensor) -> Tensor:
        return (s * fit(second, s)).add_(square.mul_(fit(rest, s)))

    return _moments(
        average,
        beta1=checked("beta1", beta1, 0.0, 1.0, below_high=True),
        beta2=second,
        lr=lr,
        eps=eps,
        initial_second_moment=initial_second_moment,
        amsgrad=amsgrad,
        bias_correction=bias_correction,
        eps_hat=eps_hat,
        count_offset=count_offset,
        weight_decay=weight_decay,
        decay=decay,
    )


def adamw(
    *,
    lr: Hyper | Schedule,
    beta1: Hyper = 0.9,
    beta2: Hyper = 0.999,
    eps: Hyper = 1e-8,
    amsgrad: bool = False,
    weight_decay: Hyper = 0.01,
) -> Rule:
    """Run :func:`adam` with decoupled weight decay: ``x <- x - lr (m^ / (sqrt(s^) + eps) + weight_decay x)``.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        beta1: in [0, 1): a number or ``[K]``.
        beta2: in [0, 1): a number or ``[K]``.
        eps: added outside the root, at least 0: a number or ``[K]``.
        amsgrad: use the largest second moment so far.
        weight_decay: at least 0: a number or ``[K]``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: arXiv:1711.05101.
    """
    return adam(lr=lr, beta1=beta1, beta2=beta2, eps=eps, amsgrad=amsgrad, weight_decay=weight_decay, decay="decoupled")


def yogi(
    *,
    lr: Hyper | Schedule,
    beta1: Hyper = 0.9,
    beta2: Hyper = 0.999,
    eps: Hyper = 1e-3,
    bias_correction: bool = True,
    eps_hat: bool = False,
    initial_second_moment: float = 1e-6,
    count_offset: int = 0,
    weight_decay: Hyper = 0.0,
    decay: Decay = "l2",
) -> Rule:
    """Run :func:`adam` with a second moment that moves by steps of known size: ``s <- s - (1-b2) sign(s - g^2) g^2``.

    Args:
        lr: step size, at least 0: a number, ``[K]``, or a schedule.
        beta1: in [0, 1): a number or ``[K]``.
        beta2: in [0, 1): a number or ``[K]``.
        eps: added outside the root, at least 0: a number or ``[K]``.
        bias_correction: as TFF has it; the paper has none.
        eps_hat: see :func:`adam`.
        initial_second_moment: where ``s`` starts, at least 0.
        count_offset: see :func:`adam`.
        weight_decay: at least 0: a number or ``[K]``.
        decay: ``l2`` or ``decoupled``.

    Raises:
        HyperparameterError: a hyperparameter is out of range.

    Reference: Zaheer, Reddi, Sachan, Kale, Kumar 2018 (NeurIPS); on a server, arXiv:2003.00295.
    """
    second = checked("beta2", beta2, 0.0, 1.0, below_high=True)
    rest = 1.0 - second

    def controlled(s: Tensor, square: Tensor) -> Tensor:
        return s - (s - square).sign_().mul_(square).mul_(fit(rest, s))

    return _moments(
        controlled,
        beta1=checked("beta1", beta1, 0.0, 1.0, below_high=True),
        beta2=second,
        lr=lr,
        eps=eps,
        initial_second_moment=initial_second_moment,
        bias_correction=bias_correction,
        eps_hat=eps_hat,
        count_offset=count_offset,
        weight_decay=weight_decay,
        decay=decay,
    )


def _moments(
    accumulate: Callable[[Tensor, Tensor], Tensor],
    *,
    beta1: Hyper,
    beta2: Hyper,
    lr: Hyper | Schedule,
    eps: Hyper,
    initial_second_moment: float,
    bias_correction: bool,
    weight_decay: Hyper,
    decay: Decay,
    averages: bool = True,
    amsgrad: bool = False,
    eps_hat: bool = False,
    count_offset: int = 0,
) -> Rule:
    """Make the rule whose second moment follows ``accumulate(s, g^2)``, which may use up the memory of ``g^2``.

    Without ``averages`` the first moment is the gradient itself and has no slot.
    """
    small = checked("eps", eps, 0.0)
    start = checked("initial_second_moment", initial_second_moment, 0.0)
    if isinstance(start, Tensor):
        raise HyperparameterError(
            "initial_second_moment must be one number: state starts as one model's and is stacked later"
        )
    offset = 1 + whole("count_offset", count_offset, 0)
    rest1 = 1.0 - beta1
    slots = {"first_moment": 0.0} if averages else {}
    slots["second_moment"] = start
    if amsgrad:
        slots["largest_second_moment"] = start

    def stretch(step: int, beta2: float) -> float:
        return sqrt(1.0 - beta2 ** (step + offset))

    def lengthen(step: int, beta1: float) -> float:
        return 1.0 / (1.0 - beta1 ** (step + offset))

    def begin(lr: Hyper, count: Tensor) -> Kernel:
        # lr m^ / (sqrt(s^) + eps), multiplied out so that no tensor is corrected: one pass over memory less.
        scale, floor = lr, small
        if bias_correction:
            root = per_copy(stretch, count, beta2)
            scale = lr * root * per_copy(lengthen, count, beta1)
            floor = small if eps_hat else small * root

        def kernel(g: Tensor, *held: Tensor) -> tuple[Tensor, ...]:
            kept: list[Tensor] = []
            m = g
            if averages:
                m = (held[0] * fit(beta1, g)).add_(g * fit(rest1, g))
                kept.append(m)
            s = accumulate(held[len(kept)], g * g)
            kept.append(s)
            if amsgrad:
                s = torch.maximum(held[-1], s)
                kept.append(s)
            return (m / torch.sqrt(s).add_(fit(floor, g))).mul_(fit(-scale, g)), *kept

        return kernel

    return elementwise(begin, slots=slots, lr=lr, weight_decay=weight_decay, decay=decay)
