"""The leapfrog: kick, drift, kick; reversible, volume preserving, second order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def leapfrog(
    gradient: Callable[[Tensor], Tensor],
    velocity: Callable[[Tensor], Tensor],
    position: Tensor,
    momentum: Tensor,
    force: Tensor,
    *,
    step_size: float | Tensor,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Follow ``dx = M^-1 p dt``, ``dp = -dU dt`` for a number of steps, the kicks between two drifts taken as one.

    On a quadratic potential of curvature h it conserves ``p^2 / 2 + h (1 - e^2 h / 4) x^2 / 2`` and is stable for
    ``e^2 h < 4``.

    Args:
        gradient: ``dU`` of flat chains ``[C, P]``.
        velocity: ``M^-1 p`` of ``[C, P]``.
        position: x ``[C, P]``.
        momentum: p ``[C, P]``.
        force: ``dU(x)``, known from the step before.
        step_size: e, a float or ``[C, 1]``.
        steps: how many, at least 1.

    Returns:
        The position, the momentum, and ``dU`` there.
    """
    drift = torch.as_tensor(step_size, dtype=position.dtype, device=position.device)
    kick, half = -drift, -0.5 * drift
    momentum = torch.addcmul(momentum, half, force)
    for left in reversed(range(steps)):
        position = torch.addcmul(position, drift, velocity(momentum))
        force = gradient(position)
        momentum = torch.addcmul(momentum, kick if left else half, force)
    return position, momentum, force
