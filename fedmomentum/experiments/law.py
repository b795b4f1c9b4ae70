"""What a sampler of ``kind: sample`` must give on a Gaussian, direction by direction, from the closed forms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fedmomentum.samplers.targets import Target


def predicted_covariance(target: Target, kernel: Any) -> Tensor | None:
    """Give the stationary covariance of a kernel's draws ``[P, P]`` on a Gaussian target.

    In the basis of the target's axes, with curvature ``h``:

    - SGLD ``(T + g V / 2) / h / (1 - g h / 2)``;
    - SGHMC ``(T / h) r / (1 - eta h / (2 (2 - al)))``, with ``r = 1`` where the gradient noise is corrected for and
      ``1 + eta V / (2 al T)`` where it is not;
    - BAOAB ``T / h`` without gradient noise; HMC ``1 / h``, and the target's own covariance whatever the target is.

    Args:
        target: with a covariance.
        kernel: the settings of the scenario.

    Returns:
        None where there is no closed form.
    """
    if target.covariance is None:
        return None
    variances, axes = torch.linalg.eigh(target.covariance)
    h = 1.0 / variances
    match kernel.name:
        case "hmc":
            found = variances
        case _ if not is_gaussian(target):
            return None
        case "sgld":
            g = kernel.step_size
            found = (kernel.temperature + g * kernel.gradient_noise / 2) / h / (1 - g * h / 2)
        case "sghmc":
            eta, al = kernel.step_size, kernel.friction
            heat = kernel.temperature + (0.0 if kernel.correct else eta * kernel.gradient_noise / (2 * al))
            found = heat / h / (1 - eta * h / (2 * (2 - al)))
        case _ if kernel.gradient_noise == 0:
            found = kernel.temperature / h
        case _:
            return None
    result: Tensor = (axes * found) @ axes.T
    return result


def is_gaussian(target: Target) -> bool:
    """Say whether ``dU(x) = C^-1 (x - mean)``, at two deviations either way along every axis of the covariance C."""
    if target.mean is None or target.covariance is None:
        return False
    variances, axes = torch.linalg.eigh(target.covariance)
    away = 2.0 * torch.cat([axes * variances.sqrt(), -axes * variances.sqrt()], 1).T
    wanted = torch.linalg.solve(target.covariance, away.T).T
    return bool(torch.allclose(target.gradient({"x": target.mean + away})["x"], wanted, rtol=1e-6, atol=1e-9))


def limit(target: Target, kernel: Any) -> float:
    """Give the largest stable step size of a kernel on a Gaussian; infinite where it is not known."""
    if target.covariance is None or not is_gaussian(target):
        return math.inf
    most = float(1.0 / torch.linalg.eigvalsh(target.covariance).min())
    match kernel.name:
        case "sgld":
            return 2.0 / most
        case "sghmc":
            return 2.0 * (2.0 - float(kernel.friction)) / most
        case "underdamped_langevin":
            return 2.0 / math.sqrt(most)
    return math.inf
