"""The federated algorithms on quadratic losses, as linear chains whose stationary laws are solved for exactly.

Clients have dense curvatures here; the closed forms of :mod:`fedmomentum.samplers.federated` are their diagonal case.
Each function takes the clients (:class:`~fedmomentum.samplers.quadratics.Quadratics`) and what a scenario sets.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from fedmomentum.samplers.linear_chain import Array, LinearChain
from fedmomentum.samplers.quadratics import Quadratics


def _powers(keep: Array, steps: int) -> tuple[Array, Array, Array]:
    """Give ``B^K``, ``sum_j B^j`` and ``B^j`` stacked, j < K, of matrices ``[N, P, P]``."""
    stack = [np.broadcast_to(np.eye(keep.shape[-1]), keep.shape)]
    for _ in range(steps):
        stack.append(stack[-1] @ keep)
    powers = np.stack(stack)
    return powers[-1], powers[:-1].sum(0), powers[:-1]


def _sum(shares: Array, matrices: Array) -> Array:
    return np.asarray(np.tensordot(shares, matrices, axes=1))


def fedavg(of: Quadratics, shares: Array, *, lr: float, steps: int, server_lr: float, momentum: float) -> LinearChain:
    """Give federated averaging with full gradients: no noise, and a fixed point that is not the mode where K > 1.

    ``D = sum_i p_i (I - A_i^K) (x - b_i)`` with ``A_i = I - lr H_i``; ``v <- beta v + D``, ``x <- x - s v``. The state
    is ``(x, v)``.

    Args:
        of: the clients.
        shares: ``p_i [N]``.
        lr: of the clients.
        steps: K.
        server_lr: s.
        momentum: beta.
    """
    p = of.dim
    full, total, _ = _powers(np.eye(p) - lr * of.curvatures, steps)
    back = np.eye(p) - _sum(shares, full)
    pull = _sum(shares, np.einsum("npq,nq->np", total, lr * of.pulls))
    return _server(back, pull, np.zeros((p, p)), server_lr=server_lr, momentum=momentum)


def _server(back: Array, pull: Array, noise: Array, *, server_lr: float, momentum: float) -> LinearChain:
    """Give ``v <- beta v + back x - pull + N(0, noise)``, ``x <- x - s v``."""
    p = len(pull)
    transition, drift, heat = np.zeros((2 * p, 2 * p)), np.zeros(2 * p), np.zeros((2 * p, 2 * p))
    transition[p:, :p], transition[p:, p:] = back, momentum * np.eye(p)
    transition[:p, :p], transition[:p, p:] = np.eye(p) - server_lr * back, -server_lr * momentum * np.eye(p)
    drift[:p], drift[p:] = server_lr * pull, -pull
    both = np.vstack([-server_lr * np.eye(p), np.eye(p)])
    heat[:] = both @ noise @ both.T
    return LinearChain(transition, drift, heat, p)


def fald(
    of: Quadratics, shares: Array, *, lr: float, steps: int, temperature: float, correlation: float
) -> LinearChain:
    """Give FALD with everyone taking part: ``x <- sum_i p_i y_i`` of K Langevin steps each. arXiv:2112.05120."""
    p = of.dim
    full, total, powers = _powers(np.eye(p) - lr * of.curvatures, steps)
    pull = _sum(shares, np.einsum("npq,nq->np", total, lr * of.pulls))
    common = np.tensordot(powers, shares, axes=([1], [0]))  # [K, P, P]
    shared = np.einsum("kpq,krq->pr", common, common)
    own = np.einsum("n,knpq,knrq->pr", shares, powers, powers)
    heat = 2.0 * lr * temperature * (correlation**2 * shared + (1.0 - correlation**2) * own)
    return LinearChain(_sum(shares, full), pull, heat, p)


def fsgld(of: Quadratics, shares: Array, *, lr: float, steps: int, temperature: float, conducive: bool) -> LinearChain:
    """Give FSGLD: with surrogates that are right SGLD on the whole, whoever takes part. arXiv:2004.11231.

    Without surrogates (DSGLD), and with everyone taking part, clients descend ``N p_i f_i`` each and are averaged.
    """
    even = of.shares(uniform=True)
    scale = shares / even
    if conducive:
        whole = _sum(shares, of.curvatures)
        merged = Quadratics(whole[None], (shares @ of.pulls)[None], of.sizes.sum()[None])
        return fald(merged, np.ones(1), lr=lr, steps=steps, temperature=temperature, correlation=0.0)
    each = Quadratics(scale[:, None, None] * of.curvatures, scale[:, None] * of.pulls, of.sizes)
    return fald(each, even, lr=lr, steps=steps, temperature=temperature, correlation=0.0)


def dglmc(of: Quadratics, shares: Array, *, lr: float, steps: int, temperature: float, tolerance: float) -> LinearChain:
    """Give DG-LMC with everyone taking part; the state is ``(x, z_1, ..., z_N)``. arXiv:2106.06300.

    ``z_i <- B_i^K z_i + sum_j B_i^j (lr q_i + t_i x) + noise`` with ``t_i = lr T / (p_i rho)`` and ``B_i = I - lr H_i -
    t_i``; ``x ~ N(mean z_i, rho / N)``.
    """
    p, n = of.dim, of.clients
    tie = lr * temperature / shares / tolerance
    full, total, powers = _powers(np.eye(p) - lr * of.curvatures - tie[:, None, None] * np.eye(p), steps)
    heat = np.einsum("n,knpq,knrq->npr", 2.0 * lr * temperature / shares, powers, powers)
    pull = np.einsum("npq,nq->np", total, lr * of.pulls)
    to_x = tie[:, None, None] * total
    size = (n + 1) * p
    transition, drift, noise = np.zeros((size, size)), np.zeros(size), np.zeros((size, size))
    for i in range(n):
        at = slice((i + 1) * p, (i + 2) * p)
        transition[at, :p], transition[at, at], drift[at] = to_x[i], full[i], pull[i]
        noise[at, at] = heat[i]
        noise[:p, at] = noise[at, :p] = heat[i] / n
        transition[:p, at] = full[i] / n
    transition[:p, :p], drift[:p] = to_x.mean(0), pull.mean(0)
    noise[:p, :p] = heat.sum(0) / n**2 + tolerance / n * np.eye(p)
    return LinearChain(transition, drift, noise, p)


def qlsd(
    of: Quadratics,
    shares: Array,
    *,
    lr: float,
    temperature: float,
    kept: int,
    reference: Array | None = None,
) -> LinearChain:
    """Give QLSD with everyone taking part: a Langevin step along gradients of which m coordinates are sent each.

    ``Cov(C(g)) = w diag(g^2) + c (g g' - diag(g^2))`` with ``w = P / m - 1`` and, since m of P are drawn without
    replacement, ``c = P (m - 1) / (m (P - 1)) - 1``. Its mean over the law of x is solved for. arXiv:2106.00797.

    Args:
        of: the clients; their prior is the server's, and not compressed.
        shares: ``p_i [N]``.
        lr: g.
        temperature: T.
        kept: m, coordinates that are sent.
        reference: of QLSD*, ``x* [P]``; None for QLSD.
    """
    p = of.dim
    whole = _sum(shares, of.curvatures)
    alone = kept / p
    both = 1.0 if p == 1 else kept * (kept - 1) / (p * (p - 1))
    own, cross = 1.0 / alone - 1.0, both / alone**2 - 1.0

    def noise(mean: Array, covariance: Array) -> Array:
        found = 2.0 * lr * temperature * np.eye(p)
        for share, h, q in zip(shares, of.hessians, of.pulls, strict=True):
            g = h @ mean - q if reference is None else h @ (mean - reference)
            squares = h @ covariance @ h.T + np.outer(g, g)
            diagonal = np.diag(np.diag(squares))
            found += (lr * share) ** 2 * (own * diagonal + (0.0 if p == 1 else cross) * (squares - diagonal))
        return found

    return LinearChain(np.eye(p) - lr * whole, lr * (shares @ of.pulls), noise, p)


def fedsghmc(
    of: Quadratics,
    shares: Array,
    *,
    lr: float,
    steps: int,
    server_lr: float,
    friction: float,
    temperature: float,
    cohort: int,
    corrected: bool,
) -> LinearChain:
    """Give SGHMC on the server; the state is ``(x, v)``. arXiv:1402.4102.

    ``v <- (1 - al) v - s D + N(0, 2 al T eta)`` with ``eta = s lr K``. Where S of N clients of equal size take part,
    ``s D`` has the covariance ``s^2 Cov_i(D_i) (N - S) / (S (N - 1))``, the mean of which over the law of x is solved
    for; corrected, its diagonal is left out of the injected noise, as far as that goes.
    """
    p, n = of.dim, of.clients
    full, total, _ = _powers(np.eye(p) - lr * of.curvatures, steps)
    back, pull = np.eye(p) - full, np.einsum("npq,nq->np", total, lr * of.pulls)
    eta = server_lr * lr * steps
    injected = 2.0 * friction * temperature * eta * np.eye(p)
    thin = (n - cohort) / (cohort * (n - 1)) if n > 1 else 0.0

    def noise(mean: Array, covariance: Array) -> Array:
        clients = np.zeros((p, p))
        if thin:
            away, apart = back @ mean[:p] - pull, back - back.mean(0)
            away = away - away.mean(0)
            clients = away.T @ away / n + np.einsum("npq,qr,nsr->ps", apart, covariance[:p, :p], apart) / n
            clients *= server_lr**2 * thin
        left = np.diag(np.maximum(np.diag(injected) - np.diag(clients), 0.0)) if corrected else injected
        both = np.vstack([np.eye(p), np.eye(p)])
        return np.asarray(both @ (left + clients) @ both.T)

    whole, pulled = server_lr * _sum(shares, back), server_lr * (shares @ pull)
    transition = np.block([[np.eye(p) - whole, (1.0 - friction) * np.eye(p)], [-whole, (1.0 - friction) * np.eye(p)]])
    return LinearChain(transition, np.concatenate([pulled, pulled]), noise, p)


def fedpa(
    of: Quadratics,
    shares: Array,
    *,
    lr: float,
    steps: int,
    client_temperature: float,
    samples: int,
    shrinkage: float,
    averaged: bool,
    server_lr: float,
    momentum: float,
) -> LinearChain:
    """Give FedPA with everyone taking part and clients that draw by SGLD. arXiv:2010.05273.

    ``D_i = S_i^-1 (x - mean_i)``, ``S_i = r I + (1 - r) C_i`` and ``r = 1 / (1 + (l - 1) rho)``. In the axes of ``H_i``
    the l draws of a client are independent Gaussian paths whose covariances between draws are known, and with them the
    mean of ``S_i^-1`` to second order in what ``C_i`` scatters, and the covariance of ``D_i`` to first: the law is good
    while ``P / l`` is small.

    Args:
        of: the clients.
        shares: ``p_i [N]``.
        lr: of the clients.
        steps: K; those that fill no window come before the first draw.
        client_temperature: of the clients' noise.
        samples: l, at least 2.
        shrinkage: rho.
        averaged: whether a draw is the mean of its window, or the last iterate in it.
        server_lr: s.
        momentum: beta.
    """
    p, shrink = of.dim, 1.0 / (1.0 + (samples - 1) * shrinkage)
    back, pull = np.zeros((p, p)), np.zeros(p)
    clients = []
    for share, curvature, q in zip(shares, of.curvatures, of.pulls, strict=True):
        h, axes = linalg.eigh(curvature)
        left, scatter, covariance, joint = _path(
            1.0 - lr * h, 2.0 * lr * client_temperature, steps=steps, samples=samples, averaged=averaged
        )
        inverse = 1.0 / (shrink + (1.0 - shrink) * covariance)
        twice = joint + np.diag(np.diag(joint))  # E (dC_gh)^2, twice as much on the diagonal
        mean_inverse = inverse + (1.0 - shrink) ** 2 * inverse**2 * (twice @ inverse)
        mode = axes.T @ linalg.solve(curvature, q)
        back += share * (axes * (mean_inverse * (1.0 - left))) @ axes.T
        pull += share * axes @ (mean_inverse * (1.0 - left) * mode)
        clients.append((share, axes, inverse, 1.0 - left, mode, scatter, joint))

    def noise(mean: Array, covariance: Array) -> Array:
        found = np.zeros((p, p))
        for share, axes, inverse, moved, mode, scatter, joint in clients:
            away = moved * (axes.T @ mean[:p] - mode)
            seen = moved[:, None] * (axes.T @ covariance[:p, :p] @ axes) * moved
            ww = inverse[:, None] * (np.outer(away, away) + seen) * inverse  # E w w', w = S^-1 (x - E mean_i)
            deviation = np.diag(joint @ np.diag(ww)) + joint * ww  # Cov(dC w)
            of_delta = np.diag(scatter) + (1.0 - shrink) ** 2 * deviation
            found += share**2 * axes @ (inverse[:, None] * of_delta * inverse) @ axes.T
        both = np.vstack([-server_lr * np.eye(p), np.eye(p)])
        return np.asarray(both @ found @ both.T)

    still = _server(back, pull, np.zeros((p, p)), server_lr=server_lr, momentum=momentum)
    return LinearChain(still.transition, still.drift, noise, p)


def _path(keep: Array, heat: float, *, steps: int, samples: int, averaged: bool) -> tuple[Array, Array, Array, Array]:
    """Give, of ``y <- a y + N(0, heat)`` from 0 and a start that is left as ``a^t``, what l draws of its windows hold.

    Returns:
        Of each axis ``[P]`` how much of the start the draws' mean holds, the variance of their mean, and the mean of
        their variance (over l - 1); and ``Cov`` of the draws' covariances of axes g and h, ``[P, P]``.
    """
    length = steps // samples
    skip = steps - length * samples
    window = np.zeros((samples, steps))
    for j in range(samples):
        first = skip + j * length
        window[j, first : first + length] = 1.0 / length
        if not averaged:
            window[j, first : first + length - 1], window[j, first + length - 1] = 0.0, 1.0
    times = np.arange(1, steps + 1)
    centre = np.eye(samples) - 1.0 / samples
    left, scatter, variance, centred = [], [], [], []
    for a in keep:
        spread = heat * np.cumsum(a ** (2.0 * np.arange(steps)))
        early, lag = np.minimum.outer(times, times) - 1, np.abs(np.subtract.outer(times, times))
        draws = window @ (spread[early] * a ** lag.astype(float)) @ window.T
        left.append(float((window @ (a ** times.astype(float))).mean()))
        scatter.append(float(draws.mean()))
        variance.append(float(np.trace(centre @ draws)) / (samples - 1))
        centred.append(centre @ draws @ centre)
    flat = np.stack(centred).reshape(len(keep), -1)
    return np.array(left), np.array(scatter), np.array(variance), flat @ flat.T / (samples - 1) ** 2
