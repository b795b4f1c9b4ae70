"""Federated samplers as pure functions: what a client computes, what a server does with it, and what must come out.

Vectors are flat ``[P]``, clients are stacked ``[K, P]`` (:func:`~fedmomentum.samplers.ravel.ravel` makes them).
Closed forms hold for quadratic potentials ``U_i(x) = h_i (x - b_i)^2 / 2`` with the target ``exp(-sum_i U_i)`` unless
said otherwise, and work coordinate by coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedmomentum.samplers.noise import uniforms
from fedmomentum.samplers.ravel import ravel, unravel
from fedmomentum.trees import Tree


class Moments(NamedTuple):
    """A mean and a variance, coordinate by coordinate."""

    mean: Tensor
    variance: Tensor


# --- FSGLD: surrogates of the shards steer each local chain towards the global law ------------------------------------


def fsgld_conducive(position: Tensor, means: Tensor, precisions: Tensor, probabilities: Tensor) -> Tensor:
    """Give the conducive gradients ``grad log q - grad log q_s / f_s`` of K Gaussian surrogates ``q_s``, ``q = prod
    q_s``.

    Added to the estimate ``grad log prior + grad log p(shard s | x) / f_s`` of ``grad log posterior``, they leave its
    mean and remove its variance between shards as far as the surrogates are right. They point uphill: subtract them
    from ``dU``.

    Args:
        position: x ``[P]``.
        means: of the surrogates ``[K, P]``.
        precisions: ``[K, P]`` diagonal or ``[K, P, P]``.
        probabilities: f ``[K]``, positive, of visiting each shard.

    Returns:
        ``[K, P]``; their mean under f is zero.

    Raises:
        ValueError: the probabilities are not positive or do not sum to one.

    Source: arXiv:2004.11231.
    """
    if bool((probabilities <= 0).any()) or not torch.isclose(probabilities.sum(), torch.ones_like(probabilities[0])):
        raise ValueError(f"shard probabilities must be positive and sum to one, not {probabilities.tolist()}")
    away = means - position
    scores = precisions * away if precisions.ndim == 2 else (precisions @ away.unsqueeze(-1)).squeeze(-1)
    return scores.sum(0) - scores / probabilities.unsqueeze(-1)


# --- FALD: averaging Langevin chains, with noise that is partly shared ------------------------------------------------


def fald_step(
    positions: Tensor,
    gradients: Tensor,
    weights: Tensor,
    *,
    lr: float,
    temperature: float,
    correlation: float,
    shared: Tensor,
    own: Tensor,
) -> Tensor:
    """Give ``x_c - eta df_c + sqrt(2 eta rho^2 tau) xi + sqrt(2 eta (1 - rho^2) tau / p_c) xi_c`` for K clients.

    The weighted mean of the noises has variance ``2 eta tau`` whatever rho is.

    Args:
        positions: ``[K, P]``.
        gradients: ``df_c [K, P]`` with ``f = sum_c p_c f_c``, the target being ``exp(-f / tau)``.
        weights: p ``[K]``, summing to one.
        lr: eta.
        temperature: tau.
        correlation: rho in [0, 1], how much of the noise all clients share.
        shared: standard normals ``[P]``.
        own: standard normals ``[K, P]``.

    Source: arXiv:2112.05120, eq. 7.
    """
    spread = (2 * lr * (1 - correlation**2) * temperature / weights).sqrt().unsqueeze(-1)
    return positions - lr * gradients + math.sqrt(2 * lr * temperature) * correlation * shared + spread * own


def fald_average(positions: Tensor, weights: Tensor) -> Tensor:
    """Give the synchronised model ``sum_c p_c x_c``, ``[P]``."""
    return (weights.unsqueeze(-1) * positions).sum(0)


def fald_moments(
    curvatures: Tensor,
    modes: Tensor,
    weights: Tensor,
    *,
    lr: float,
    temperature: float,
    correlation: float,
    local_steps: int,
) -> Moments:
    """Give the stationary law of the synchronised model on ``f_c = h_c (x - b_c)^2 / 2``, with K_l local steps.

    With ``a_c = 1 - eta h_c`` and ``A = sum p_c a_c^K``: mean ``sum p_c (1 - a_c^K) b_c / (1 - A)``, which is not the
    mode; variance ``2 eta tau [rho^2 sum_j (sum_c p_c a_c^j)^2 + (1 - rho^2) sum_c p_c sum_j a_c^(2j)] / (1 - A^2)``,
    j < K.

    Args:
        curvatures: h ``[K, P]``.
        modes: b ``[K, P]``.
        weights: p ``[K]``.
        lr: eta.
        temperature: tau.
        correlation: rho.
        local_steps: K_l between two averages.
    """
    p = weights.unsqueeze(-1)
    keep = 1.0 - lr * curvatures
    powers = torch.stack([keep**j for j in range(local_steps)])
    full = keep**local_steps
    total = (p * full).sum(0)
    mean = (p * (1 - full) * modes).sum(0) / (1 - total)
    shared = (p * powers).sum(1).square().sum(0)
    own = (p * powers.square()).sum((0, 1))
    noise = 2 * lr * temperature * (correlation**2 * shared + (1 - correlation**2) * own)
    return Moments(mean, noise / (1 - total**2))


# --- DG-LMC: every client samples beside the model, tied to it by a spring --------------------------------------------


def dglmc_server(locals_: Tensor, noise: Tensor, *, tolerance: float) -> Tensor:
    """Draw the model given the clients' variables: ``x | z ~ N(mean z, rho / K)``.

    Args:
        locals_: z ``[K, P]``.
        noise: standard normals ``[P]``.
        tolerance: rho, the variance of the tie ``exp(-|x - z_i|^2 / (2 rho))``.

    Source: arXiv:2106.06300, algorithm 1.
    """
    return locals_.mean(0) + math.sqrt(tolerance / len(locals_)) * noise


def dglmc_local(
    local: Tensor, gradient: Tensor, model: Tensor, noise: Tensor, *, lr: float, tolerance: float
) -> Tensor:
    """Make one Langevin step of a client: ``z <- z - g (dU_i(z) + (z - x) / rho) + sqrt(2 g) xi``; any leading axes."""
    return local - lr * (gradient + (local - model) / tolerance) + math.sqrt(2 * lr) * noise


def dglmc_moments(curvatures: Tensor, modes: Tensor, *, tolerance: float) -> Moments:
    """Give the law of the model when the clients sample exactly: precision ``sum 1 / (1/h_i + rho)``.

    The tie widens each client's law by rho; the mean is ``sum w_i b_i / sum w_i`` with ``w_i = 1 / (1/h_i + rho)``.
    """
    precision = 1.0 / (1.0 / curvatures + tolerance)
    return Moments((precision * modes).sum(0) / precision.sum(0), 1.0 / precision.sum(0))


# --- QLSD: Langevin with compressed gradients -------------------------------------------------------------------------


def sparsify(keys: Tensor, gradients: Tensor, *, keep: float) -> Tensor:
    """Compress without bias: keep each coordinate with probability p and divide it by p; ``E |C(v) - v|^2 = (1/p - 1)
    |v|^2``.

    Args:
        keys: int64 ``[K]``, one a client.
        gradients: ``[K, P]``.
        keep: p in (0, 1].
    """
    kept = uniforms(keys, gradients.shape[-1]) < keep
    return torch.where(kept, gradients / keep, torch.zeros_like(gradients))


def qlsd_step(model: Tensor, messages: Tensor, noise: Tensor, *, lr: float, anchor: Tensor | None = None) -> Tensor:
    """Give ``x - g (sum_i m_i + anchor) + sqrt(2 g) xi`` from the clients' compressed messages.

    QLSD sends ``m_i = C(dU_i(x))``. QLSD* sends ``m_i = C(dU_i(x) - dU_i(x*))``, and ``anchor = sum_i dU_i(x*)`` is
    known.

    Args:
        model: x ``[P]``.
        messages: ``[K, P]``.
        noise: standard normals ``[P]``.
        lr: g.
        anchor: ``[P]``; none is zero, as it is at the mode.

    Source: arXiv:2106.00797.
    """
    drift = messages.sum(0) if anchor is None else messages.sum(0) + anchor
    return model - lr * drift + math.sqrt(2 * lr) * noise


def qlsd_variance(
    curvatures: Tensor, gradients_at_mode: Tensor, *, lr: float, omega: float, star: bool = False
) -> Tensor:
    """Give the stationary variance ``(2g + g^2 om sum_i dU_i(x*)^2) / (1 - (1 - gP)^2 - g^2 om sum_i h_i^2)``, ``P =
    sum h_i``.

    QLSD* is without the second term of the numerator: what clients disagree on at the mode is not compressed.

    Args:
        curvatures: h ``[K, P]``.
        gradients_at_mode: ``dU_i(x*) [K, P]``.
        lr: g.
        omega: the compressor's relative variance, a coordinate.
        star: QLSD* instead of QLSD.

    Raises:
        ValueError: the step is too large for a stationary law.
    """
    heat = 2 * lr + (0.0 if star else lr**2 * omega) * gradients_at_mode.square().sum(0)
    room = 1 - (1 - lr * curvatures.sum(0)) ** 2 - lr**2 * omega * curvatures.square().sum(0)
    if bool((room <= 0).any()):
        raise ValueError(f"a step of {lr} has no stationary law at a compressor variance of {omega}")
    return heat / room


# --- FedPA: clients send posterior deltas instead of parameter deltas -------------------------------------------------


def fedpa_delta(anchor: Mapping[str, Tensor], samples: Mapping[str, Tensor], *, rho: float) -> Tree:
    """Give ``D = S^-1 (x - mean)``, with the shrunk covariance ``S = r I + (1 - r) C``, ``r = 1 / (1 + (l - 1) rho)``.

    ``C`` is the covariance of l samples (over l - 1). Since ``(1 - r) / r = (l - 1) rho``, ``S`` is ``r`` times the
    identity plus one rank-one term a sample, ``rho (t - 1) / t u_t u_t'`` with ``u_t = x_t - mean_(t-1)``: the
    recursion inverts it term by term in ``O(l^2 P)`` time and ``O(l P)`` memory and never builds a matrix.

    A server subtracts ``sum_i p_i D_i``: with exact moments its fixed point is the global mode.

    Args:
        anchor: the global model x, ``[*shape]`` a tensor.
        samples: l posterior samples of the client, ``[l, *shape]``.
        rho: at least 0; 0 gives the parameter delta ``x - mean`` of FedAvg.

    Raises:
        ValueError: there is no sample, ``rho`` is negative, or a tensor of the samples does not fit the anchor's.

    Source: arXiv:2010.05273.
    """
    for name, x in anchor.items():
        if samples[name].shape[1:] != x.shape:
            raise ValueError(f"samples of '{name}' have shape {list(samples[name].shape)}, the anchor {list(x.shape)}")
    return fedpa_deltas(anchor, samples, rho=rho, leading=0)


def fedpa_deltas(anchors: Mapping[str, Tensor], samples: Mapping[str, Tensor], *, rho: float, leading: int) -> Tree:
    """Give :func:`fedpa_delta` of clients that are stacked on so many leading axes.

    Args:
        anchors: ``[*leading, *shape]`` a tensor.
        samples: ``[*leading, l, *shape]``.
        rho: at least 0.
        leading: how many axes lead.

    Raises:
        ValueError: there is no sample, or ``rho`` is negative.
    """
    points = ravel({name: samples[name] for name in anchors}, leading=leading + 1).double()
    points = points.movedim(leading, 0)  # [l, *leading, P]
    if len(points) == 0 or rho < 0:
        raise ValueError(f"need at least one sample and rho >= 0, not {len(points)} and {rho}")
    mean = points[0]
    delta = ravel(anchors, leading=leading).double() - mean
    # The s-th of `solved` is A_(s-1)^-1 u_s, and of `gains` the weight of Sherman and Morrison, for A_t = I + rho sum
    # (..) u u'.
    solved: list[Tensor] = []
    gains: list[Tensor] = []
    for t, point in enumerate(points[1:], start=2):
        u = point - mean
        v = u
        for gain, w in zip(gains, solved, strict=True):
            v = v - gain * (w * u).sum(-1, keepdim=True) * w
        weight = rho * (t - 1) / t
        spread = 1.0 + weight * (u * v).sum(-1, keepdim=True)
        # x - mean moves by -u / t, and the inverse loses (weight / spread) v v'.
        delta = delta - ((weight * (u * delta).sum(-1, keepdim=True) + 1.0 / t) / spread) * v
        solved.append(v)
        gains.append(weight / spread)
        mean = mean + u / t
    return unravel(delta * (1.0 + (len(points) - 1) * rho), anchors, leading=leading)


def client_sampling_variance(gradients: Tensor, cohort: int) -> Tensor:
    """Give ``V = N^2 Var_i(dU_i) (N - S) / (S (N - 1))``, the noise of the estimate ``N / S sum_cohort dU_i`` of
    ``sum dU_i``.

    ``Var_i`` divides by N. It is the ``noise_variance`` that SGHMC corrects for when S of N clients take part in a
    round.

    Args:
        gradients: ``dU_i [N, P]``.
        cohort: S, clients drawn without replacement.

    Raises:
        ValueError: the cohort is empty or larger than the population.
    """
    number = len(gradients)
    if not 1 <= cohort <= number:
        raise ValueError(f"a cohort of {cohort} out of {number} clients is not possible")
    if cohort == number:
        return torch.zeros_like(gradients[0])
    return number**2 * gradients.var(0, correction=0) * (number - cohort) / (cohort * (number - 1))
