"""How far samples are from the law they should have."""

from __future__ import annotations

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from fedmomentum.streams import stream


def gaussian_wasserstein(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Give the Wasserstein-2 distance of two Gaussians.

    ``W2^2 = |m_a - m_b|^2 + tr(A + B - 2 (B^(1/2) A B^(1/2))^(1/2))``; in one dimension ``(m_a - m_b)^2 + (s_a -
    s_b)^2``.

    Args:
        mean_a: ``[P]``, and ``covariance_a`` ``[P, P]``.
        mean_b: ``[P]``, and ``covariance_b`` ``[P, P]``.

    Source: Dowson and Landau 1982; Givens and Shortt 1984.
    """
    a, b = covariance_a.double(), covariance_b.double()
    half = _root(b)
    spread = torch.trace(a) + torch.trace(b) - 2.0 * torch.linalg.eigvalsh(half @ a @ half).clamp(min=0).sqrt().sum()
    shift = (mean_a.double() - mean_b.double()).square().sum()
    return float((shift + spread).clamp(min=0).sqrt())


def _root(matrix: Tensor) -> Tensor:
    values, vectors = linalg.eigh(matrix.numpy())
    return torch.from_numpy((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


def wasserstein_to_gaussian(draws: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Give the Wasserstein-2 distance between the Gaussian with the moments of the draws and a reference Gaussian.

    Args:
        draws: ``[n, P]``.
        mean: ``[P]`` of the reference.
        covariance: ``[P, P]`` of the reference.
    """
    return gaussian_wasserstein(
        draws.double().mean(0), torch.cov(draws.double().T).reshape(covariance.shape), mean, covariance
    )


def wasserstein_1d(a: Tensor, b: Tensor, *, order: float = 2.0) -> Tensor:
    """Give the exact Wasserstein distance of pairs of samples of one number, ``(int |F_a^-1 - F_b^-1|^p du)^(1/p)``.

    Args:
        a: ``[n, *leading]``.
        b: ``[m, *leading]``; n and m may differ.
        order: p, at least 1.
    """
    n, m = len(a), len(b)
    a, b = a.double().sort(0).values, b.double().sort(0).values
    # Both quantile functions are constant between neighbouring multiples of 1/n and 1/m, counted here in units of
    # 1/(n m).
    cuts = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    left = torch.from_numpy(cuts[:-1])
    width = torch.from_numpy(np.diff(cuts) / (n * m)).reshape(-1, *(1,) * (a.ndim - 1))
    gap = (a[left // m] - b[left // n]).abs() ** order
    return (gap * width).sum(0) ** (1.0 / order)


def sliced_wasserstein(a: Tensor, b: Tensor, *, directions: int = 64, order: float = 2.0, seed: int = 0) -> float:
    """Give ``(mean_u W_p(u.a, u.b)^p)^(1/p)`` over random directions u of length one.

    Args:
        a: draws ``[n, P]``.
        b: reference draws ``[m, P]``.
        directions: how many random u; fixed by ``seed``.
        order: p, at least 1.

    Source: Bonneel, Rabin, Peyre, Pfister 2015, doi:10.1007/s10851-014-0506-3.
    """
    u = torch.from_numpy(stream(seed, "directions").standard_normal((a.shape[1], directions)))
    u = u / u.norm(dim=0)
    return float((wasserstein_1d(a.double() @ u, b.double() @ u, order=order) ** order).mean() ** (1.0 / order))
