"""Problems whose optimum is known, for measuring rules against theory.

A point is a tensor ``[..., n]``; ``value`` gives ``[...]`` and ``gradient`` gives ``[..., n]``, so K runs stand in one
tensor ``[K, n]``. All in float64 unless made otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedmomentum.optim.hyper import whole
from fedmomentum.streams import torch_stream


class Problem(Protocol):
    """A smooth function with a known minimum."""

    @property
    def optimum(self) -> Tensor:
        """Where the minimum is, ``[n]``."""

    def value(self, x: Tensor) -> Tensor:
        """Give the height above the minimum at points ``[..., n]``."""

    def gradient(self, x: Tensor) -> Tensor:
        """Give the gradient at points ``[..., n]``."""


@dataclass(frozen=True, eq=False)
class Quadratic:
    """``f(x) = (x - b)^T A (x - b) / 2``.

    Args:
        hessian: ``A``, symmetric, ``[n, n]``.
        optimum: ``b``, ``[n]``.
    """

    hessian: Tensor
    optimum: Tensor

    def value(self, x: Tensor) -> Tensor:
        """Give ``f`` at points ``[..., n]``."""
        return ((x - self.optimum) * self.gradient(x)).sum(-1) / 2.0

    def gradient(self, x: Tensor) -> Tensor:
        """Give ``A (x - b)`` at points ``[..., n]``."""
        return _times(self.hessian, x - self.optimum)


def quadratic(
    eigenvalues: Sequence[float], *, rotation: Tensor | None = None, optimum: Sequence[float] | None = None
) -> Quadratic:
    """Make a quadratic with given curvatures: ``A = R diag(eigenvalues) R^T``.

    Args:
        eigenvalues: the curvatures, one a dimension, finite.
        rotation: orthogonal ``R``, ``[n, n]``, whose columns are the axes; none: the coordinate axes.
        optimum: where the minimum is; none: the origin.

    Raises:
        ValueError: sizes differ, or the rotation is not orthogonal.
    """
    curvatures = torch.tensor(list(eigenvalues), dtype=torch.float64)
    n = curvatures.numel()
    axes = torch.eye(n, dtype=torch.float64) if rotation is None else rotation.double()
    if axes.shape != (n, n):
        raise ValueError(f"rotation must have shape {[n, n]} for {n} eigenvalues, not {list(axes.shape)}")
    if not torch.allclose(axes.T @ axes, torch.eye(n, dtype=torch.float64), atol=1e-10):
        raise ValueError("rotation must be orthogonal: its columns are unit vectors at right angles")
    centre = (
        torch.zeros(n, dtype=torch.float64) if optimum is None else torch.tensor(list(optimum), dtype=torch.float64)
    )
    if centre.numel() != n:
        raise ValueError(f"optimum must have {n} coordinates, not {centre.numel()}")
    return Quadratic((axes * curvatures) @ axes.T, centre)


def turn(angle: float) -> Tensor:
    """Give the rotation of the plane by an angle in radians, ``[2, 2]``."""
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def ravine(condition: float = 1000.0, *, angle: float = 0.0) -> Quadratic:
    """Make a long narrow valley in the plane: curvature 1 along it and ``condition`` across.

    Turned by ``angle = pi/4`` it looks the same to a heavy ball, and no longer to a rule that scales each coordinate.

    Args:
        condition: the condition number, at least 1.
        angle: how far the valley is turned from the first axis, in radians.

    Raises:
        ValueError: ``condition`` is below 1.
    """
    if not 1.0 <= condition < math.inf:
        raise ValueError(f"condition must be a finite number of at least 1, not {condition:g}")
    return quadratic([1.0, condition], rotation=turn(angle))


@dataclass(frozen=True)
class Rosenbrock:
    """``f(x) = sum_i steepness (x_{i+1} - x_i^2)^2 + (1 - x_i)^2``: a curved valley with its minimum at (1, ..., 1).

    Args:
        dimension: at least 2.
        steepness: of the valley's walls, above 0.

    Reference: doi:10.1093/comjnl/3.3.175.
    """

    dimension: int = 2
    steepness: float = 100.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        whole("dimension", self.dimension, 2)
        if not 0.0 < self.steepness < math.inf:
            raise ValueError(f"steepness must be a finite number above 0, not {self.steepness:g}")

    @property
    def optimum(self) -> Tensor:
        """Give (1, ..., 1)."""
        return torch.ones(self.dimension, dtype=torch.float64)

    def value(self, x: Tensor) -> Tensor:
        """Give ``f`` at points ``[..., n]``."""
        head, wall = self._parts(x)
        return (self.steepness * wall.square() + (1.0 - head).square()).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """Give the gradient at points ``[..., n]``."""
        head, wall = self._parts(x)
        out = torch.zeros_like(x)
        out[..., :-1] = -4.0 * self.steepness * head * wall - 2.0 * (1.0 - head)
        out[..., 1:] += 2.0 * self.steepness * wall
        return out

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1] != self.dimension:
            raise ValueError(f"a point has {self.dimension} coordinates, not {x.shape[-1]}")
        return x[..., :-1], x[..., 1:] - x[..., :-1].square()


@dataclass(frozen=True)
class Himmelblau:
    """``f(x, y) = (x^2 + y - 11)^2 + (x + y^2 - 7)^2``: four minima of height 0, one of them at (3, 2).

    Reference: Himmelblau, Applied Nonlinear Programming, 1972.
    """

    @property
    def optimum(self) -> Tensor:
        """Give (3, 2), the one of the four minima that is a whole number."""
        return torch.tensor([3.0, 2.0], dtype=torch.float64)

    def value(self, x: Tensor) -> Tensor:
        """Give ``f`` at points ``[..., 2]``."""
        first, second = self._parts(x)
        return first.square() + second.square()

    def gradient(self, x: Tensor) -> Tensor:
        """Give the gradient at points ``[..., 2]``."""
        first, second = self._parts(x)
        return torch.stack([4.0 * x[..., 0] * first + 2.0 * second, 2.0 * first + 4.0 * x[..., 1] * second], dim=-1)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1] != 2:
            raise ValueError(f"a point has 2 coordinates, not {x.shape[-1]}")
        return x[..., 0].square() + x[..., 1] - 11.0, x[..., 0] + x[..., 1].square() - 7.0


@dataclass(frozen=True, eq=False)
class FederatedQuadratic:
    """N clients with a quadratic each, and their weighted mean ``f(x) = sum_i p_i (x - b_i)^T A_i (x - b_i) / 2``.

    Args:
        hessians: ``A_i``, ``[N, n, n]``, positive definite.
        centres: ``b_i``, ``[N, n]``.
        weights: ``p_i``, ``[N]``, at least 0 with sum 1.
    """

    hessians: Tensor
    centres: Tensor
    weights: Tensor

    @property
    def optimum(self) -> Tensor:
        """Where the mean is smallest, ``(sum p_i A_i)^-1 sum p_i A_i b_i``, ``[n]``."""
        return self._balance(self.hessians)

    def client_values(self, points: Tensor) -> Tensor:
        """Give ``f_i`` at client i's own point: ``[..., N, n]`` to ``[..., N]``."""
        away = points - self.centres
        return (away * _times(self.hessians, away)).sum(-1) / 2.0

    def client_gradients(self, points: Tensor) -> Tensor:
        """Give ``A_i (x_i - b_i)`` at client i's own point: ``[..., N, n]`` to ``[..., N, n]``."""
        return _times(self.hessians, points - self.centres)

    def value(self, x: Tensor) -> Tensor:
        """Give ``f`` at points ``[..., n]``; its minimum is not 0, for the clients disagree."""
        return (self.client_values(x.unsqueeze(-2)) * self.weights).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """Give the gradient of ``f`` at points ``[..., n]``."""
        return (self.client_gradients(x.unsqueeze(-2)) * self.weights[:, None]).sum(-2)

    def pseudo_hessians(self, *, lr: float, steps: int) -> Tensor:
        """Give ``Q_i = I - (I - lr A_i)^steps``: client i's pseudo-gradient is ``Q_i (x - b_i)``, ``[N, n, n]``.

        Args:
            lr: step size of the clients' gradient descent.
            steps: local steps, at least 1.
        """
        eye = torch.eye(self.centres.shape[-1], dtype=self.hessians.dtype)
        contraction: Tensor = torch.linalg.matrix_power(eye - lr * self.hessians, whole("steps", steps, 1))
        return eye - contraction

    def fedavg_fixed_point(self, *, lr: float, steps: int) -> Tensor:
        """Give where federated averaging ends, ``Q^-1 sum p_i Q_i b_i``, ``[n]``: not the optimum if ``steps > 1``.

        No server momentum moves it: it is where the mean pseudo-gradient vanishes.

        Args:
            lr: step size of the clients' gradient descent.
            steps: local steps, at least 1.
        """
        return self._balance(self.pseudo_hessians(lr=lr, steps=steps))

    def _balance(self, matrices: Tensor) -> Tensor:
        """Give the ``x`` at which ``sum p_i M_i (x - b_i) = 0``."""
        weighted = matrices * self.weights[:, None, None]
        point: Tensor = torch.linalg.solve(weighted.sum(0), _times(weighted, self.centres).sum(0))
        return point


def heterogeneous_quadratics(
    seed: int = 0, *, clients: int = 10, dimension: int = 5, condition: float = 10.0
) -> FederatedQuadratic:
    """Make clients that disagree: random axes, curvatures between 1 and ``condition``, normal centres, equal weights.

    Args:
        seed: equal seeds give equal problems.
        clients: at least 1.
        dimension: at least 1.
        condition: the largest curvature, at least 1; logarithms of curvatures are uniform.

    Raises:
        ValueError: a number is out of range.
    """
    whole("clients", clients, 1)
    whole("dimension", dimension, 1)
    if not 1.0 <= condition < math.inf:
        raise ValueError(f"condition must be a finite number of at least 1, not {condition:g}")
    rng = torch_stream(seed, "heterogeneous_quadratics")
    axes, _ = torch.linalg.qr(torch.randn(clients, dimension, dimension, generator=rng, dtype=torch.float64))
    curvatures = condition ** torch.rand(clients, 1, dimension, generator=rng, dtype=torch.float64)
    centres = torch.randn(clients, dimension, generator=rng, dtype=torch.float64)
    return FederatedQuadratic(
        (axes * curvatures) @ axes.mT, centres, torch.full((clients,), 1.0 / clients, dtype=torch.float64)
    )


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Multiply ``[..., n, n]`` by ``[..., n]``."""
    product: Tensor = (matrices @ vectors.unsqueeze(-1)).squeeze(-1)
    return product
