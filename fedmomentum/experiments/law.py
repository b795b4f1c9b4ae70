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
    - BAOAB ``T / h`` without gradient noise; HMC ``1 / h``.

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


def limit(target: Target, kernel: Any) -> float:
    """Give the largest stable step size of a kernel on a Gaussian; infinite where it is not known."""
    if target.covariance is None:
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
