"""Mass matrices: the metric in which momenta are drawn. The best inverse mass is the covariance of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """What Hamiltonian dynamics need of a mass matrix M, on flat chains ``[C, P]``."""

    def momentum(self, normals: Tensor) -> Tensor:
        """Turn standard normals into momenta of covariance M."""
        ...

    def velocity(self, momentum: Tensor) -> Tensor:
        """Give ``M^-1 p``."""
        ...


@dataclass(frozen=True)
class Diagonal:
    """A diagonal mass: ``inverse_mass`` is ``[P]``, or ``[C, P]`` with one a chain; all positive."""

    inverse_mass: Tensor

    def __post_init__(self) -> None:  # noqa: D105
        if not bool((self.inverse_mass > 0).all()):
            raise ValueError("an inverse mass must be positive")

    def momentum(self, normals: Tensor) -> Tensor:
        """Give ``M^(1/2) xi``."""
        return normals * self.inverse_mass.rsqrt()

    def velocity(self, momentum: Tensor) -> Tensor:
        """Give ``M^-1 p``."""
        return self.inverse_mass * momentum


@dataclass(frozen=True)
class Dense:
    """A full mass: ``inverse_mass`` is ``[P, P]``, or ``[C, P, P]`` with one a chain; symmetric, positive definite."""

    inverse_mass: Tensor

    def __post_init__(self) -> None:  # noqa: D105
        factor, fault = torch.linalg.cholesky_ex(self.inverse_mass)
        if bool(fault.any()):
            raise ValueError("an inverse mass must be positive definite")
        object.__setattr__(self, "_factor", factor)

    def momentum(self, normals: Tensor) -> Tensor:
        """Give ``L^-T xi`` with ``M^-1 = L L^T``, whose covariance is M."""
        factor: Tensor = self.__dict__["_factor"]
        rows = normals if factor.ndim == 2 else normals.unsqueeze(-2)
        solved: Tensor = torch.linalg.solve_triangular(factor, rows, upper=False, left=False)
        return solved.reshape(normals.shape)

    def velocity(self, momentum: Tensor) -> Tensor:
        """Give ``M^-1 p``."""
        if self.inverse_mass.ndim == 2:
            return momentum @ self.inverse_mass
        return (self.inverse_mass @ momentum.unsqueeze(-1)).squeeze(-1)
