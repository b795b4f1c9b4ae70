"""Linear Gaussian chains ``s' = A s + c + N(0, Q)``: what their draws' moments must be, and by how much they may miss.

On quadratic losses every federated algorithm here is one. A finite number of correlated draws has moments that scatter
around those of the law; by how much is itself a function of ``A`` and ``Q``, so that a measurement can be held against
a prediction without a tolerance that was tried out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array: TypeAlias = NDArray[np.float64]
Noise: TypeAlias = Callable[[Array, Array], Array]
"""Mean and covariance of the state -> covariance of the noise: where it grows with the state, it is solved for."""


class Gaussian(NamedTuple):
    """A mean ``[P]`` and a covariance ``[P, P]``."""

    mean: Array
    covariance: Array


class Expected(NamedTuple):
    """What a statistic of finitely many draws comes to, and its standard deviation over repetitions."""

    value: float
    error: float


@dataclass(frozen=True)
class LinearChain:
    """``s' = A s + c + N(0, Q)``, of which the first P numbers are the model.

    Args:
        transition: A ``[D, D]``.
        drift: c ``[D]``.
        noise: Q ``[D, D]``, or what gives it from the stationary mean and covariance.
        size: P.

    Raises:
        ValueError: the chain has no stationary law: a number of A is outside the unit circle, or noise that grows with
            the state outgrows it.
    """

    transition: Array
    drift: Array
    noise: Array | Noise
    size: int

    def __post_init__(self) -> None:
        """Refuse a chain that runs away."""
        if self.radius >= 1.0 - 1e-12:
            raise ValueError(f"the chain has no stationary law: its spectral radius is {self.radius:.6g}")

    @cached_property
    def radius(self) -> float:
        """Largest absolute value of A's eigenvalues: what a round leaves of a deviation, in the long run."""
        return float(np.abs(linalg.eigvals(self.transition)).max())

    @cached_property
    def state(self) -> Gaussian:
        """The stationary law of the whole state."""
        mean = linalg.solve(np.eye(len(self.drift)) - self.transition, self.drift)
        if not callable(self.noise):
            return Gaussian(mean, _lyapunov(self.transition, self.noise))
        covariance = np.zeros_like(self.transition)
        for _ in range(500):
            found = _lyapunov(self.transition, self.noise(mean, covariance))
            if not np.isfinite(found).all() or np.abs(found).max() > 1e12:
                break
            if np.abs(found - covariance).max() <= 1e-12 * np.abs(found).max():
                return Gaussian(mean, found)
            covariance = found
        raise ValueError("the chain has no stationary law: its noise grows faster than it is forgotten")

    @cached_property
    def law(self) -> Gaussian:
        """The stationary law of the model."""
        p = self.size
        return Gaussian(self.state.mean[:p], self.state.covariance[:p, :p])

    def covariances(self, lags: int, every: int) -> Array:
        """Give ``Cov(x_(t + k every), x_t)`` for k = 0, ..., ``lags`` - 1: ``[lags, P, P]``."""
        step, p = np.linalg.matrix_power(self.transition, every), self.size
        found = np.zeros((lags, p, p))
        moved = self.state.covariance[:, :p]
        for lag in range(lags):
            found[lag] = moved[:p]
            if lag and np.abs(found[lag]).max() <= 1e-9 * np.abs(found[0]).max():
                break  # the rest is zero to rounding
            moved = step @ moved
        return found

    def moments(self, draws: int, *, every: int = 1, whiten: Array, centre: Array) -> tuple[Expected, Expected]:
        """Give what the moments of so many draws come to, in the unit of a reference.

        The first is ``|W (mean - centre)|^2 / P`` of the draws' mean; the second ``tr(W C W') / P`` of their covariance
        C (over ``draws - 1``), which is low by what the mean scatters. Errors are those of a chain in its stationary
        law, by Isserlis' theorem; that of the second is a little too large, by terms of the order of
        one in the number of independent draws.

        Args:
            draws: n, at least 2.
            every: rounds between two of them.
            whiten: W ``[P, P]``: with the inverse root of a covariance, both are in its unit.
            centre: ``[P]``, such as the mean of the target.
        """
        n, p = draws, self.size
        seen = whiten @ self.covariances(n, every) @ whiten.T
        weights = (n - np.arange(n)) * np.where(np.arange(n) == 0, 1.0, 2.0)
        # lags k and -k are each other's transposes
        scatter = np.tensordot(weights, (seen + seen.transpose(0, 2, 1)) / 2, axes=1) / n**2
        squares = float((weights * np.square(seen).sum((1, 2))).sum()) / n**2
        bias = whiten @ (self.law.mean - centre)
        off = (float(bias @ bias) + float(np.trace(scatter))) / p
        spread = 2.0 * float(np.square(scatter).sum()) + 4.0 * float(bias @ scatter @ bias)
        total = n / (n - 1) * (float(np.trace(seen[0])) - float(np.trace(scatter))) / p
        return Expected(off, math.sqrt(spread) / p), Expected(total, math.sqrt(2.0 * squares) / p)

    def forgotten(self, start: Array, rounds: int, *, whiten: Array) -> float:
        """Give how far the mean of the model still is from the law's after so many rounds, ``|W .| / sqrt(P)``.

        Args:
            start: the state that the chain begins in, ``[D]``.
            rounds: from there.
            whiten: W ``[P, P]``.
        """
        left = np.linalg.matrix_power(self.transition, rounds) @ (start - self.state.mean)
        return float(np.linalg.norm(whiten @ left[: self.size])) / math.sqrt(self.size)


def _lyapunov(transition: Array, noise: Array) -> Array:
    """Solve ``C = A C A' + Q``."""
    found: Any = linalg.solve_discrete_lyapunov(transition, noise)
    return np.asarray((found + found.T) / 2)
