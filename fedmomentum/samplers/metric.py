"""Mass matrices: the metric in which momenta are drawn. The best inverse mass is the covariance of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedmomentum.samplers.leapfrog import Time


class Metric(Protocol):
    """What Hamiltonian dynamics need of a mass matrix M, on flat chains ``[C, P]``."""

    def momentum(self, normals: Tensor) -> Tensor:
        """Turn standard normals into momenta ``A xi``, ``A A' = M``; their kinetic energy is then ``|xi|^2 / 2``."""
        ...

    def whiten(self, points: Tensor) -> Tensor:
        """Give ``y = A' x``, in which the mass is 1."""
        ...

    def velocity(self, momentum: Tensor) -> Tensor:
        """Give ``M^-1 p``."""
        ...

    def drift(self, position: Tensor, momentum: Tensor, time: Time) -> Tensor:
        """Give ``x + e M^-1 p``."""
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

    def whiten(self, points: Tensor) -> Tensor:
        """Give ``M^(1/2) x``."""
        return points * self.inverse_mass.rsqrt()

    def velocity(self, momentum: Tensor) -> Tensor:
        """Give ``M^-1 p``."""
        return self.inverse_mass * momentum

    def drift(self, position: Tensor, momentum: Tensor, time: Time) -> Tensor:
        """Give ``x + e M^-1 p``."""
        if isinstance(time, Tensor):
            return torch.addcmul(position, time, self.velocity(momentum))
        return torch.addcmul(position, self.inverse_mass, momentum, value=time)


@dataclass(frozen=True)
class Dense:
    """A full mass: ``inverse_mass`` is ``[P, P]``, or ``[C, P, P]`` with one a chain; symmetric, positive definite."""

    inverse_mass: Tensor

    def __post_init__(self) -> None:  # noqa: D105
        factor, fault = torch.linalg.cholesky_ex(self.inverse_mass)
        if bool(fault.any()):
            raise ValueError("an inverse mass must be positive definite")
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        object.__setattr__(self, "_root", torch.linalg.solve_triangular(factor, eye, upper=False))

    def momentum(self, normals: Tensor) -> Tensor:
        """Give ``L^-T xi`` with ``M^-1 = L L^T``, whose covariance is M."""
        root: Tensor = self.__dict__["_root"]
        return normals @ root if root.ndim == 2 else (normals.unsqueeze(-2) @ root).squeeze(-2)

    def whiten(self, points: Tensor) -> Tensor:
        """Give ``L^-1 x``."""
        root: Tensor = self.__dict__["_root"]
        return points @ root.mT if root.ndim == 2 else (root @ points.unsqueeze(-1)).squeeze(-1)

    def velocity(self, momentum: Tensor) -> Tensor:
        """Give ``M^-1 p``."""
        if self.inverse_mass.ndim == 2:
            return momentum @ self.inverse_mass
        return (self.inverse_mass @ momentum.unsqueeze(-1)).squeeze(-1)

    def drift(self, position: Tensor, momentum: Tensor, time: Time) -> Tensor:
        """Give ``x + e M^-1 p``."""
        if isinstance(time, Tensor) or self.inverse_mass.ndim == 3:
            time = torch.as_tensor(time, dtype=position.dtype, device=position.device)
            return torch.addcmul(position, time, self.velocity(momentum))
        return torch.addmm(position, momentum, self.inverse_mass, alpha=time)
