"""How long a trajectory should be: a search that lengthens it as long as the chains' squares go on changing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MOST = 512
"""Leapfrog steps of the longest trajectory that the search tries."""
COST = 0.25
"""Which power of the time the criterion is divided by. At 0 long trajectories are as good as any on a Gaussian, and the
search gets lost among them; at 1 it stops at a quarter of a period, where means mix badly."""
LEAST = 4
"""Chains without which a slope is nothing but noise."""
ROUND = 2.1
"""The best length where the mass is the covariance of a Gaussian: two thirds of half a period."""


@dataclass(frozen=True)
class LengthSearch:
    """Ascent on ``E g^2 / (4 l^c)``, ``g = |y' - m|^2 - |y - m|^2``, by Adam on ``log l``; times are uniform up to l.

    ``y`` are points in the coordinates in which the mass is 1, ``m`` their mean, ``y'`` the proposal after a time t,
    and ``c`` is :data:`COST`. On a Gaussian whose covariance the mass has learnt, ``E g^2`` goes as
    ``1 - sin(2 l) / (2 l)``, and the best l is :data:`ROUND`.

    Args:
        log_length: ``log l``.
        square: running mean of squared slopes.
        count: slopes seen.
        total: sum of the later ``log l``, whose mean is the answer.
        summed: how many those are.

    Source: Hoffman, Radul, Sountsov 2021, An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
    Carlo (AISTATS, PMLR 130); the running mean as centre is that of arXiv:2110.11576.
    """

    log_length: float
    square: float = 0.0
    count: int = 0
    total: float = 0.0
    summed: int = 0

    def steps(self, step_size: float) -> int:
        """Give the most leapfrog steps of a trajectory."""
        return _steps(self.log_length, step_size)

    def final(self, step_size: float) -> int:
        """Give the most leapfrog steps of a trajectory to keep."""
        return _steps(self.total / self.summed if self.summed else self.log_length, step_size)

    def update(self, slope: float, *, rate: float = 0.05, memory: float = 0.95, settled: bool = False) -> LengthSearch:
        """Take in a slope; once ``settled``, what is tried counts towards the answer."""
        if not math.isfinite(slope):
            return self
        count = self.count + 1
        square = memory * self.square + (1.0 - memory) * slope**2
        size = math.sqrt(square / (1.0 - memory**count))
        log = self.log_length + (rate * slope / size if size > 0.0 else 0.0)
        return replace(
            self,
            log_length=log,
            square=square,
            count=count,
            total=self.total + settled * log,
            summed=self.summed + settled,
        )


def _steps(log_length: float, step_size: float) -> int:
    return max(1, min(MOST, math.ceil(math.exp(log_length) / step_size)))


def chees_slope(start: Tensor, end: Tensor, momentum: Tensor, acceptance: Tensor, *, time: float) -> float:
    """Give the slope in ``log l``, ``t g (y' - m)' dy'/dt - c g^2 / 4``, averaged with the acceptance as weights.

    Args:
        start: ``y - m`` ``[C, P]``.
        end: ``y' - m`` ``[C, P]``.
        momentum: ``dy'/dt`` ``[C, P]``, the momentum there where the mass is 1.
        acceptance: of the proposals ``[C]``; those that are not numbers have 0.
        time: t of the trajectory.

    Returns:
        Not a number where nothing would be accepted.
    """
    gain = (end.square().sum(-1) - start.square().sum(-1)).double()
    slopes = gain * (time * (end * momentum).sum(-1) - 0.25 * COST * gain)
    slopes = torch.where(acceptance > 0, slopes, torch.zeros_like(slopes))
    return float((slopes * acceptance).sum() / acceptance.sum())
