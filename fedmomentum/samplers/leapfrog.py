"""The leapfrog: kick, drift, kick; reversible, volume preserving, second order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Time = float | Tensor
"""One step size for all chains, or one each ``[C, 1]``."""


def leapfrog(
    gradient: Callable[[Tensor], Tensor],
    drift: Callable[[Tensor, Tensor, Time], Tensor],
    position: Tensor,
    momentum: Tensor,
    force: Tensor,
    *,
    step_size: Time,
    steps: int,
    last: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Follow ``dx = M^-1 p dt``, ``dp = -dU dt`` for a number of steps, the kicks between two drifts taken as one.

    On a quadratic potential of curvature h it conserves ``p^2 / 2 + h (1 - e^2 h / 4) x^2 / 2`` and is stable for
    ``e^2 h < 4``.

    Args:
        gradient: ``dU`` of flat chains ``[C, P]``.
        drift: ``x + e M^-1 p`` of x ``[C, P]``, p ``[C, P]`` and e, such as that of a metric.
        position: x ``[C, P]``.
        momentum: p ``[C, P]``.
        force: ``dU(x)``, known from the step before.
        step_size: e; a float costs least.
        steps: how many, at least 1.
        last: ``dU`` at the end, where it is worth asking for more than at the points on the way.

    Returns:
        The position, the momentum, and ``dU`` there.
    """
    momentum = kick(momentum, force, step_size, 0.5)
    for _ in range(steps - 1):
        position = drift(position, momentum, step_size)
        momentum = kick(momentum, gradient(position), step_size, 1.0)
    position = drift(position, momentum, step_size)
    force = (last or gradient)(position)
    return position, kick(momentum, force, step_size, 0.5), force


def kick(momentum: Tensor, force: Tensor, time: Time, part: float) -> Tensor:
    """Give ``p - part e dU``."""
    if isinstance(time, Tensor):
        return torch.addcmul(momentum, time, force, value=-part)
    return torch.sub(momentum, force, alpha=part * time)
