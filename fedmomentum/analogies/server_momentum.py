"""Momentum on the server: a round's mean update is a noisy gradient, and what momentum makes of it can be said exactly.

N clients with equal quadratics and different optima b_i take E local steps; the server sees S of them a round. The
pseudo-gradient is ``q (x - mean of b over S)``, ``q = 1 - (1 - lr_l h)^E``, and the server's heavy ball is the spring
with ``a = lr_s q``. Three things follow that are often said otherwise. At a fixed server rate momentum *raises* the
variance of the model. At a fixed effective step ``a0 = a/(1 - beta)`` it lowers it, to no less than ``1 - a0/2``. And
the place to which clients with different curvatures pull the model is not moved by any momentum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies import linear
from fedmomentum.analogies.descent import follow, steps_of
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.optim import Rule, make_rule
from fedmomentum.optim.problems import FederatedQuadratic, heterogeneous_quadratics
from fedmomentum.streams import torch_stream


@dataclass(frozen=True)
class Served:
    """What a server's heavy ball makes of partial participation.

    Args:
        pull: q, the part of the way to its optimum that a client goes in a round.
        sampling: k = (N - S)/(S (N - 1)), the variance of the mean of S of N, over that of one.
        variance: of the model, parameter^2.
        ratio_at_lr: that variance over the one without momentum at the same server rate.
        ratio_at_step: the same at the same effective step lr_s q/(1 - beta).
        buffer: variance of the velocity times (1 - beta), over that of one round's noise; (1 - beta)/(1 + beta) at
            small steps: it is the buffer that is smooth, not the model.
        largest_lr: largest stable server rate.
    """

    pull: float
    sampling: float
    variance: float
    ratio_at_lr: float
    ratio_at_step: float
    buffer: float
    largest_lr: float


def predict(
    *,
    clients: int,
    per_round: int,
    server_lr: float,
    momentum: float,
    local_lr: float,
    local_steps: int,
    curvature: float = 1.0,
    spread: float = 1.0,
) -> Served:
    """Give the stationary state of federated averaging with server momentum on equal quadratics.

        q = 1 - (1 - lr_l h)^E,   a = lr_s q,   k = (N - S)/(S (N - 1))
        Var = lr_s q spread k (1 + beta)/((1 - beta)(2 (1 + beta) - a))
        at fixed a0 = a/(1 - beta):  Var/Var(beta = 0) = (1 + beta)(2 - a0)/(2 (1 + beta) - a0 (1 - beta))

    Args:
        clients: N.
        per_round: S, drawn without replacement.
        server_lr: lr_s.
        momentum: beta, of the server, in [0, 1).
        local_lr: lr_l.
        local_steps: E.
        curvature: h of all clients.
        spread: variance of the clients' optima (over N, not N - 1), parameter^2.

    Raises:
        ValueError: an argument is out of its range, or the server unstable.
    """
    if not (1 <= per_round <= clients and clients >= 2 and local_steps >= 1 and 0 <= momentum < 1):
        raise ValueError(
            "need 1 <= per_round <= clients, clients >= 2, local_steps >= 1, 0 <= momentum < 1, not "
            f"{per_round}, {clients}, {local_steps}, {momentum}"
        )
    if not (server_lr > 0 and curvature > 0 and spread >= 0 and 0 < local_lr * curvature < 2):
        raise ValueError(
            "need server_lr > 0, curvature > 0, spread >= 0, 0 < local_lr * curvature < 2, not "
            f"{server_lr}, {curvature}, {spread}, {local_lr * curvature}"
        )
    q = 1 - (1 - local_lr * curvature) ** local_steps
    a = server_lr * q
    limit = linear.stability_limit("heavy_ball", momentum)
    if a >= limit:
        raise ValueError(f"server_lr {server_lr:g} is unstable; it must stay below {limit / q:g}")
    k = (clients - per_round) / (per_round * (clients - 1))
    a0 = a / (1 - momentum)
    return Served(
        pull=q,
        sampling=k,
        variance=a * spread * k * (1 + momentum) / ((1 - momentum) * (2 * (1 + momentum) - a)),
        ratio_at_lr=(1 + momentum) * (2 - a) / ((1 - momentum) * (2 * (1 + momentum) - a)) if a < 2 else math.nan,
        ratio_at_step=(1 + momentum) * (2 - a0) / (2 * (1 + momentum) - a0 * (1 - momentum)) if a0 < 2 else math.nan,
        buffer=2 * (1 - momentum) / (2 * (1 + momentum) - a),
        largest_lr=limit / q,
    )


def simulate(
    *,
    clients: int = 40,
    per_round: int = 5,
    server_lr: float = 0.1,
    momentum: float = 0.9,
    local_lr: float = 0.1,
    local_steps: int = 5,
    curvature: float = 1.0,
    replicas: int = 600,
    rounds: int = 500,
    seed: int = 0,
) -> Measured:
    """Run many federations at once on quadratics, by the rules of the server and of the clients themselves.

    Args:
        clients: N.
        per_round: S.
        server_lr: lr_s.
        momentum: of the server.
        local_lr: lr_l.
        local_steps: E.
        curvature: of all clients.
        replicas: federations that run at once.
        rounds: over which moments are averaged, after the start is forgotten.
        seed: of the streams "server momentum ..." and of the heterogeneous quadratics.
    """
    centres = torch.randn(clients, generator=torch_stream(seed, "server momentum clients"), dtype=torch.float64)
    spread = float(centres.var(correction=0))
    common = {
        "clients": clients,
        "per_round": per_round,
        "local_lr": local_lr,
        "local_steps": local_steps,
        "curvature": curvature,
        "spread": spread,
    }
    expected = predict(server_lr=server_lr, momentum=momentum, **common)  # type: ignore[arg-type]

    def measure(lr: float, beta: float) -> tuple[float, float]:
        return _federate(
            centres, per_round, lr, beta, local_lr, local_steps, curvature, replicas, rounds, seed, expected.pull
        )

    variance, buffer = measure(server_lr, momentum)
    plain, _ = measure(server_lr, 0.0)
    noise = expected.pull**2 * spread * expected.sampling
    claims = []
    if per_round < clients:
        claims += [
            Claim("variance of the model", expected.variance, variance, 0.05, "parameter^2"),
            Claim("momentum over none, same server rate", expected.ratio_at_lr, variance / plain, 0.06),
            Claim(
                "variance of the buffer, over one round's", expected.buffer, buffer * (1 - momentum) ** 2 / noise, 0.05
            ),
        ]
        if not math.isnan(expected.ratio_at_step):
            same_step, _ = measure(server_lr / (1 - momentum), 0.0)
            ratio = variance / same_step
            claims.append(Claim("momentum over none, same effective step", expected.ratio_at_step, ratio, 0.06))
    else:
        claims.append(
            Claim("variance of the model, all clients taking part", 0.0, variance, 1e-12, "parameter^2", scale=spread)
        )
    problem = heterogeneous_quadratics(seed)
    local = 0.05
    q = _mean_pull(problem, local, local_steps)
    largest = float(torch.linalg.eigvalsh(q)[-1])
    rest = problem.fedavg_fixed_point(lr=local, steps=local_steps)
    distance = float((rest - problem.optimum).norm())
    ends = [_heterogeneous(problem, beta, 1.0, local, local_steps, 600) for beta in (0.0, momentum)]
    claims += [
        Claim(
            "bias of averaging, without momentum",
            distance,
            float((ends[0] - problem.optimum).norm()),
            1e-9,
            "parameter",
            scale=max(distance, 1e-3),
        ),
        Claim(
            "bias of averaging, with momentum",
            distance,
            float((ends[1] - problem.optimum).norm()),
            1e-9,
            "parameter",
            scale=max(distance, 1e-3),
        ),
        Claim(
            "largest stable server rate",
            2 * (1 + momentum) / largest,
            _edge(problem, momentum, local, local_steps, 2 * (1 + momentum) / largest),
            0.02,
        ),
    ]
    settings = {
        "clients": clients,
        "per_round": per_round,
        "server_lr": server_lr,
        "momentum": momentum,
        "local_lr": local_lr,
        "local_steps": local_steps,
        "curvature": curvature,
        "replicas": replicas,
        "rounds": rounds,
        "seed": seed,
    }
    return Measured("server_momentum", settings, tuple(claims))


@dataclass(frozen=True)
class Drift:
    """What one round's updates say.

    Args:
        coherence: |mean update|^2 over the mean |update|^2: one where clients agree, 1/S where they share nothing.
        sampling_noise: expected squared error of the mean update as an estimate of the whole population's.
        signal: squared norm of the mean update, less that error: it may be negative, then there is none to be seen.
        alignment: cosine between the server's velocity and the mean update; nan without a velocity.
        buffer_noise: sampling noise left in the velocity's mean, (1 - beta)/(1 + beta) of it.
    """

    coherence: float
    sampling_noise: float
    signal: float
    alignment: float
    buffer_noise: float


def probe(
    updates: Tensor, *, population: int, momentum: float, weights: Tensor | None = None, velocity: Tensor | None = None
) -> Drift:
    """Measure from one round's updates how much clients drift apart and how much of it momentum has to smooth.

        noise = (N - S)/(N - 1) sum_i w_i^2 |D_i - D|^2 S/(S - 1) for weights that sum to one

    Args:
        updates: D_i = old - new, ``[S, P]``.
        population: N, clients in all.
        momentum: of the server.
        weights: ``[S]``, of the mean; equal unless given.
        velocity: the server's, ``[P]``.

    Raises:
        ValueError: fewer than two updates, more than the population, or weights that do not fit.
    """
    s = len(updates)
    if updates.ndim != 2 or not 2 <= s <= population:
        raise ValueError(f"need [S, P] updates with 2 <= S <= {population}, not {list(updates.shape)}")
    w = torch.full((s,), 1 / s) if weights is None else weights
    if w.shape != (s,) or not float(w.sum()) > 0 or bool((w < 0).any()):
        raise ValueError(f"need {s} weights of at least 0 with a positive sum")
    w = (w / w.sum()).double()
    d = updates.double()
    mean = w @ d
    power = float(w @ (d**2).sum(1))
    apart = float((w**2) @ ((d - mean) ** 2).sum(1))
    noise = apart * s / (s - 1) * (population - s) / (population - 1)
    size = float((mean**2).sum())
    aligned = math.nan if velocity is None else float(torch.cosine_similarity(velocity.double(), mean, dim=0))
    return Drift(
        coherence=size / power if power > 0 else math.nan,
        sampling_noise=noise,
        signal=size - noise,
        alignment=aligned,
        buffer_noise=noise * (1 - momentum) / (1 + momentum),
    )


def figure(folder: Path) -> None:
    """Draw ``server_momentum.svg`` and ``.png``: variance against momentum, at a fixed rate and at a fixed step."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, ORANGE, RED, sheet

    centres = torch.randn(40, generator=torch_stream(0, "server momentum clients"), dtype=torch.float64)
    spread = float(centres.var(correction=0))
    common = {"clients": 40, "per_round": 5, "local_lr": 0.1, "local_steps": 5, "spread": spread}
    dots, betas = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95), np.linspace(0, 0.97, 80)

    def line(lr: float, fixed: bool) -> Array:
        rates = [lr * (1 - b) if fixed else lr for b in betas]
        return as_array(
            [
                predict(server_lr=r, momentum=float(b), **common).variance  # type: ignore[arg-type]
                for r, b in zip(rates, betas, strict=True)
            ]
        )

    def measured(lr: float, beta: float) -> tuple[float, float]:
        pull = 1 - 0.9**5
        return _federate(centres, 5, lr, beta, 0.1, 5, 1.0, 400, 300, 1, pull)

    with sheet(folder, "server_momentum", 2) as (_, (left, right)):
        for fixed, colour, label in (
            (False, RED, "server rate held at 0.3"),
            (True, BLUE, "effective step held at 0.3"),
        ):
            left.plot(betas, line(0.3, fixed), color=colour, label=label)
            left.plot(dots, [measured(0.3 * (1 - b) if fixed else 0.3, b)[0] for b in dots], "o", color=colour)
        noise = (1 - 0.9**5) ** 2 * spread * 35 / (5 * 39)
        left.set(
            title="Variance of the model (dots: measured)", xlabel="server momentum β", ylabel="variance", yscale="log"
        )
        left.legend(loc="upper left")
        right.plot(betas, (1 - betas) / (1 + betas), color=GREEN, label="buffer: (1 − β)/(1 + β)")
        right.plot(dots, [measured(0.02 * (1 - b), b)[1] * (1 - b) ** 2 / noise for b in dots], "o", color=GREEN)
        ratio = line(0.3, True)
        right.plot(betas, ratio / ratio[0], color=ORANGE, label="model, effective step held")
        right.axhline(1, color=GREY, lw=0.8)
        right.set(
            title="The buffer is smooth, the model is not",
            xlabel="server momentum β",
            ylabel="variance / without momentum",
            ylim=(0, 1.5),
        )
        right.legend(loc="upper right")


def _federate(
    centres: Tensor,
    per_round: int,
    server_lr: float,
    momentum: float,
    local_lr: float,
    local_steps: int,
    curvature: float,
    replicas: int,
    rounds: int,
    seed: int,
    pull: float,
) -> tuple[float, float]:
    """Give the stationary variance of the model about the clients' mean, and that of the server's velocity."""
    draw = torch_stream(seed, "server momentum cohorts")
    local = make_rule("sgd", lr=local_lr)
    server = make_rule("heavy_ball", lr=server_lr, momentum=momentum)
    mean = float(centres.mean())

    def pseudo_gradient(x: Tensor) -> Tensor:
        cohort = torch.rand(replicas, len(centres), generator=draw).argsort(1)[:, :per_round]
        b = centres[cohort]
        start = x[:, None].expand(replicas, per_round)
        return x - follow(local, lambda y: curvature * (y - b), start, local_steps)[-1].mean(1)

    radius = linear.radius("heavy_ball", server_lr * pull, momentum)
    wait = math.ceil(4 / -math.log(max(radius, 1e-6)))
    start = torch.full((replicas,), mean, dtype=torch.float64)
    model = velocity = 0.0
    before = start
    for t, x in zip(range(wait + rounds), steps_of(server, pseudo_gradient, start), strict=False):
        if t >= wait:
            model += float(((x - mean) ** 2).mean()) / rounds
            velocity += float(((x - before) ** 2).mean()) / server_lr**2 / rounds
        before = x
    return model, velocity


def _mean_pull(problem: FederatedQuadratic, local_lr: float, local_steps: int) -> Tensor:
    """Give Q, the weighted mean of the clients' ``Q_i``."""
    pulls = problem.pseudo_hessians(lr=local_lr, steps=local_steps)
    return (pulls * problem.weights[:, None, None]).sum(0)


def _pseudo_gradient(problem: FederatedQuadratic, local_lr: float, local_steps: int) -> Callable[[Tensor], Tensor]:
    """Give ``x - mean of the clients' models`` after their local steps from x ``[..., n]``."""
    local = make_rule("sgd", lr=local_lr)

    def pseudo_gradient(x: Tensor) -> Tensor:
        start = x.unsqueeze(-2).expand(*x.shape[:-1], *problem.centres.shape)
        ends = follow(local, problem.client_gradients, start, local_steps)[-1]
        return x - (ends * problem.weights[:, None]).sum(-2)

    return pseudo_gradient


def _heterogeneous(
    problem: FederatedQuadratic, momentum: float, server_lr: float, local_lr: float, local_steps: int, rounds: int
) -> Tensor:
    """Give the model after full rounds of heterogeneous clients."""
    server: Rule = make_rule("heavy_ball", lr=server_lr, momentum=momentum)
    return follow(
        server, _pseudo_gradient(problem, local_lr, local_steps), torch.zeros_like(problem.centres[0]), rounds
    )[-1]


def _edge(problem: FederatedQuadratic, momentum: float, local_lr: float, local_steps: int, guess: float) -> float:
    """Find the server rate at which errors stop shrinking, 61 at once around a guess."""
    rates = guess * torch.linspace(0.7, 1.3, 61, dtype=torch.float64)
    rest = problem.fedavg_fixed_point(lr=local_lr, steps=local_steps)
    start = rest + 0.1 * torch.randn(61, len(rest), generator=torch_stream(0, "server momentum edge")).double()
    server = make_rule("heavy_ball", lr=rates, momentum=momentum)
    path = follow(server, _pseudo_gradient(problem, local_lr, local_steps), start, 250, copies=61)
    away = (path - rest).norm(dim=-1)
    shrinks = away[-40:].amax(0) < away[60:100].amax(0)
    last = int(shrinks.nonzero()[-1]) if bool(shrinks.any()) else 0
    return float((rates[last] + rates[min(last + 1, 60)]) / 2)
