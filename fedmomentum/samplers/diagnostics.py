"""Has it converged, and how much is it worth: R-hat, effective sample size, Monte Carlo error, energies.

Every function takes draws ``[S, C, *shape]`` (S draws of C chains) and gives one number a coordinate, ``[*shape]``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import fft, special, stats
from torch import Tensor

Array = npt.NDArray[np.float64]


def _columns(draws: Tensor) -> Array:
    """Give float64 ``[S, C, P]``, and refuse what is too short to say anything."""
    if draws.ndim < 2 or draws.shape[0] < 4:
        raise ValueError(f"draws are [S, C, ...] with at least 4 draws a chain, not {list(draws.shape)}")
    return np.asarray(draws.detach().cpu().double().flatten(2).numpy() if draws.ndim > 2 else draws.double()[..., None])


def _shaped(values: Array, draws: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(draws.shape[2:])


def _split(x: Array) -> Array:
    """Make two chains of each: a drift within a chain then shows as a difference between chains. An odd middle is
    left out.
    """
    half = len(x) // 2
    return np.concatenate([x[:half], x[len(x) - half :]], axis=1)


def _scores(x: Array) -> Array:
    """Give normal scores of the ranks over all chains: ``Phi^-1((r - 3/8) / (n + 1/4))``."""
    ranks = stats.rankdata(x.reshape(-1, x.shape[-1]), axis=0)
    return np.asarray(special.ndtri((ranks - 0.375) / (len(ranks) + 0.25))).reshape(x.shape)


def _ratio(x: Array) -> Array:
    n = len(x)
    within = x.var(0, ddof=1).mean(0)
    between = x.mean(0).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((n - 1) / n + between / within))


def r_hat(draws: Tensor) -> Tensor:
    """Give the rank-normalised split R-hat: ``sqrt(((n-1)/n W + B/n) / W)`` of normal scores, worse of bulk and folded.

    Chains agree in place and scale when it is below 1.01.

    Args:
        draws: ``[S, C, *shape]``.

    Raises:
        ValueError: fewer than 4 draws a chain.

    Source: arXiv:1903.08008.
    """
    x = _split(_columns(draws))
    folded = np.abs(x - np.median(x, axis=(0, 1)))
    return _shaped(np.maximum(_ratio(_scores(x)), _ratio(_scores(folded))), draws)


def _autocovariance(x: Array) -> Array:
    n = len(x)
    centred = x - x.mean(0)
    power = np.abs(fft.rfft(centred, fft.next_fast_len(2 * n), axis=0)) ** 2
    return np.asarray(fft.irfft(power, fft.next_fast_len(2 * n), axis=0)[:n] / n)


def _effective(x: Array) -> Array:
    """Give ``C n / tau`` of split chains ``[n, C, P]``, ``tau`` by Geyer's initial monotone sequence."""
    n, chains, _ = x.shape
    covariance = _autocovariance(x)
    within = covariance[0].mean(0) * n / (n - 1)
    total = within * (n - 1) / n + (x.mean(0).var(0, ddof=1) if chains > 1 else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1.0 - (within - covariance.mean(1)) / total
    rho[0] = 1.0
    # The last lags rest on a handful of products each: like Stan, leave them out.
    lags = 2 * max((n - 3) // 2, 0)
    pairs = rho[:lags:2] + rho[1:lags:2]
    # Of a reversible chain the sums of neighbours are positive and fall; noise ends the sequence where it breaks the
    # first rule.
    positive = np.logical_and.accumulate(pairs >= 0, axis=0)
    falling = np.minimum.accumulate(np.where(positive, pairs, np.inf), axis=0)
    tau = -1.0 + 2.0 * np.where(positive, falling, 0.0).sum(0)
    stop = positive.sum(0)
    tail = np.take_along_axis(rho, np.minimum(2 * stop, n - 1)[None], axis=0)[0]
    tau += np.maximum(tail, 0.0)
    size = chains * n
    ess = size / np.maximum(tau, 1.0 / np.log10(size))
    return np.where(np.isfinite(total) & (total > 0), ess, np.where(total == 0, float(size), np.nan))


def ess(draws: Tensor, *, kind: Literal["bulk", "tail", "mean"] = "bulk") -> Tensor:
    """Give the effective sample size ``S C / tau``, ``tau = 1 + 2 sum_t rho_t``.

    Args:
        draws: ``[S, C, *shape]``.
        kind: ``bulk`` of normal scores, whatever the moments; ``tail`` the smaller of the 5% and the 95% quantile;
            ``mean`` of the draws themselves, for the error of a mean.

    Raises:
        ValueError: fewer than 4 draws a chain, or an unknown kind.

    Source: arXiv:1903.08008; Geyer 1992.
    """
    x = _columns(draws)
    if kind == "mean":
        found = _effective(_split(x))
    elif kind == "bulk":
        found = _effective(_scores(_split(x)))
    elif kind == "tail":
        low, high = np.quantile(x, [0.05, 0.95], axis=(0, 1))
        found = np.minimum(*(_effective(_split((x <= edge).astype(float))) for edge in (low, high)))
    else:
        raise ValueError(f"kind is 'bulk', 'tail' or 'mean', not '{kind}'")
    return _shaped(found, draws)


def mcse(draws: Tensor) -> Tensor:
    """Give the Monte Carlo standard error of the mean, ``sd / sqrt(ESS)``; of a variance, hand it ``(x - mean)^2``."""
    sd = torch.from_numpy(_columns(draws).std((0, 1), ddof=1)).reshape(draws.shape[2:])
    return sd / ess(draws, kind="mean").sqrt()


def e_bfmi(energy: Tensor) -> Tensor:
    """Give the energy Bayesian fraction of missing information of each chain, ``sum dE_t^2 / sum (E_t - mean)^2``.

    Below 0.3, fresh momenta do not move the chain between its levels of energy: heavy tails stay unexplored.

    Args:
        energy: ``[S, C]``, as HMC reports it.

    Source: arXiv:1604.00695.
    """
    e = energy.double()
    return e.diff(dim=0).square().sum(0) / (e - e.mean(0)).square().sum(0)


def step_weighted_mean(draws: Tensor, step_size: Tensor) -> Tensor:
    """Give ``sum_t h_t x_t / sum_t h_t``, the estimate that suits a decreasing step size. Welling and Teh 2011.

    Args:
        draws: ``[S, C, *shape]``.
        step_size: ``[S, C]``, as a Langevin kernel reports it.
    """
    weights = step_size.double().reshape(*step_size.shape, *(1,) * (draws.ndim - 2))
    return (weights * draws.double()).sum((0, 1)) / weights.sum((0, 1))
