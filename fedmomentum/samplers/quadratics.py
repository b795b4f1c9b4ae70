"""Clients with quadratic losses ``f_i(x) = x' H_i x / 2 - q_i' x``: their posterior, which is a Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from fedmomentum.samplers.linear_chain import Array, Gaussian


@dataclass(frozen=True)
class Quadratics:
    """N clients of P weights.

    Args:
        hessians: H ``[N, P, P]``, of the clients' mean losses, without a prior.
        pulls: q ``[N, P]``.
        sizes: examples of each client ``[N]``.
        prior: lambda of ``lambda |x|^2 / 2``, which every client adds to its loss (a weight decay).
    """

    hessians: Array
    pulls: Array
    sizes: Array
    prior: float = 0.0

    @classmethod
    def of(cls, parts: Sequence[tuple[Array, Array]], *, prior: float = 0.0) -> Quadratics:
        """Take clients' inputs ``[n, P]`` and answers ``[n]``, with half the squared error as loss."""
        hessians = np.stack([x.T @ x / len(x) for x, _ in parts])
        pulls = np.stack([x.T @ y / len(x) for x, y in parts])
        return cls(hessians, pulls, np.array([float(len(x)) for x, _ in parts]), prior)

    @property
    def clients(self) -> int:
        """N."""
        return len(self.pulls)

    @property
    def dim(self) -> int:
        """P."""
        return int(self.pulls.shape[1])

    @property
    def curvatures(self) -> Array:
        """``H_i + lambda``, ``[N, P, P]``."""
        return np.asarray(self.hessians + self.prior * np.eye(self.dim))

    def shares(self, *, uniform: bool = False) -> Array:
        """Give ``p_i``: a client's share of the examples, or one in so many clients."""
        return np.full(self.clients, 1.0 / self.clients) if uniform else self.sizes / self.sizes.sum()

    def posterior(self, shares: Array, temperature: float) -> Gaussian:
        """Give the law ``exp(-f / T)`` of the whole, ``f = sum_i p_i f_i``: mean ``P^-1 q``, covariance ``T P^-1``.

        Raises:
            ValueError: P is singular.
        """
        precision = np.tensordot(shares, self.curvatures, axes=1)
        if np.linalg.matrix_rank(precision, hermitian=True) < self.dim:
            raise ValueError("the examples of all clients do not fix every weight, so there is no posterior")
        inverse = linalg.inv(precision)
        return Gaussian(inverse @ (shares @ self.pulls), temperature * (inverse + inverse.T) / 2)
