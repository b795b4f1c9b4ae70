"""Batch norm carries a momentum of its own: running statistics are an average of the past, and lag behind the weights.

With torch's momentum m a running statistic is ``r <- (1 - m) r + m s``, an ema with beta = 1 - m. The optimizer's
velocity is another average, with a lag of its own. Where the two lags differ, a model is evaluated with the
statistics of weights that it no longer has; where a server's momentum is applied to the running variance, the
variance overshoots below zero.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedmomentum.analogies import linear
from fedmomentum.analogies.descent import filtered, follow
from fedmomentum.analogies.low_pass import response
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.optim import make_rule
from fedmomentum.streams import torch_stream
from fedmomentum.trees import Tree

ROUNDS = 60
"""Rounds for which a running variance is followed."""


@dataclass(frozen=True)
class Lags:
    """How late the statistics and the velocity are, in local steps.

    Args:
        statistics: (1 - m)/m.
        optimizer: K beta/(1 - beta), K the steps between two updates of the velocity.
        matched_momentum: the beta whose lag is that of the statistics.
        pull: q = 1 - (1 - m)^K, the part of the way to the truth that K local steps take the running statistics.
        lowest: smallest running variance under server momentum, where the true variance fell from 1 to ``variance``.
    """

    statistics: float
    optimizer: float
    matched_momentum: float
    pull: float
    lowest: float


def predict(
    *,
    bn_momentum: float = 0.1,
    momentum: float = 0.9,
    local_steps: int = 1,
    variance: float = 0.1,
    server_lr: float = 1.0,
) -> Lags:
    """Give the lags of running statistics and velocity, and how low a server's momentum throws a running variance.

        lag_bn = (1 - m)/m,   lag_v = K beta/(1 - beta),   matched beta = lag_bn/(K + lag_bn)
        running variance under a server's heavy ball: the spring with a = lr_s (1 - (1 - m)^K)

    Args:
        bn_momentum: m in torch's convention, in (0, 1].
        momentum: beta, of the client's rule (K = 1) or the server's (K local steps a round), in [0, 1).
        local_steps: K.
        variance: true variance after a fall from 1, positive.
        server_lr: of the server's rule.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not (0 < bn_momentum <= 1 and 0 <= momentum < 1 and local_steps >= 1 and variance > 0 and server_lr > 0):
        raise ValueError(
            "need 0 < bn_momentum <= 1, 0 <= momentum < 1, local_steps >= 1, variance > 0, server_lr > 0, not "
            f"{bn_momentum}, {momentum}, {local_steps}, {variance}, {server_lr}"
        )
    lag = (1 - bn_momentum) / bn_momentum
    pull = 1 - (1 - bn_momentum) ** local_steps
    swing = linear.path("heavy_ball", server_lr * pull, momentum, ROUNDS)
    return Lags(
        statistics=lag,
        optimizer=local_steps * momentum / (1 - momentum),
        matched_momentum=lag / (local_steps + lag),
        pull=pull,
        lowest=float((variance + (1 - variance) * swing).min()),
    )


def phase_drift(w: Array, *, bn_momentum: float, momentum: float, local_steps: int = 1) -> Array:
    """Give how much later the statistics are than the velocity at each frequency, as a phase.

        arg H_bn(w) - arg H_v(K w)

    Args:
        w: rad per local step.
        bn_momentum: m in torch's convention.
        momentum: beta.
        local_steps: K between updates of the velocity; both phases are in the time base of local steps.

    Returns:
        rad; negative where the statistics are the later ones.
    """
    w = as_array(w)
    bn = np.angle(response(w, 1 - bn_momentum))
    return as_array(bn - np.angle(response(local_steps * w, momentum)))


def simulate(
    *,
    bn_momentum: float = 0.1,
    momentum: float = 0.9,
    local_steps: int = 5,
    variance: float = 0.1,
    batch: int = 256,
    seed: int = 0,
) -> Measured:
    """Measure the lags of torch's own batch norm, alone and in a network that learns, and overshoot its variance.

    Args:
        bn_momentum: m.
        momentum: beta.
        local_steps: K of a round, for the running variance under server momentum.
        variance: true variance after a fall from one.
        batch: examples per minibatch of the network.
        seed: of the streams "batch norm data", "batch norm model" and "batch norm batches".
    """
    lags = predict(bn_momentum=bn_momentum, momentum=momentum, local_steps=local_steps, variance=variance)
    client = predict(bn_momentum=bn_momentum, momentum=momentum)
    steps = math.ceil(30 * max(1 / bn_momentum, 1 / (1 - momentum)))
    ramp = torch.arange(steps, dtype=torch.float64)
    velocity = -filtered(make_rule("ema", lr=1.0, momentum=momentum), ramp)
    claims = [
        Claim(
            "lag of the statistics",
            lags.statistics,
            float(ramp[-1] - _running(bn_momentum, ramp)[-1]),
            1e-4,
            "steps",
            scale=max(1.0, lags.statistics),
        ),
        Claim(
            "lag of the velocity",
            client.optimizer,
            float(ramp[-1] - velocity[-1]),
            1e-4,
            "steps",
            scale=max(1.0, client.optimizer),
        ),
    ]
    t = as_array(range(steps, steps + 2000))
    for w in (0.01, 0.1, 1.0):
        wave = torch.sin(w * torch.arange(steps + 2000, dtype=torch.float64))
        seen = as_array(_running(bn_momentum, wave))[steps:]
        moved = as_array(-filtered(make_rule("ema", lr=1.0, momentum=momentum), wave))[steps:]
        drift = float(phase_drift(as_array([w]), bn_momentum=bn_momentum, momentum=momentum)[0])
        measured = _phase(seen, w, t) - _phase(moved, w, t)
        claims.append(Claim(f"phase drift at {w:g} rad/step", drift, measured, 1e-3, "rad", scale=0.1))
    delays, losses = network_lag(bn_momentum=bn_momentum, momentum=momentum, batch=batch, seed=seed)
    claims.append(
        Claim(
            "lag in a network that learns",
            lags.statistics,
            _vertex(delays, losses),
            0.15,
            "steps",
            scale=max(10.0, lags.statistics),  # minibatch noise blurs the minimum by a step or so
        )
    )
    served = server_variance(bn_momentum=bn_momentum, momentum=momentum, local_steps=local_steps, variance=variance)
    averaged = server_variance(bn_momentum=bn_momentum, momentum=0.0, local_steps=local_steps, variance=variance)
    claims += [
        Claim("lowest running variance, served with momentum", lags.lowest, float(served.min()), 1e-4, scale=1.0),
        Claim("lowest running variance, averaged", variance, float(averaged.min()), 1e-6, relation="at_least"),
    ]
    settings = {
        "bn_momentum": bn_momentum,
        "momentum": momentum,
        "local_steps": local_steps,
        "variance": variance,
        "batch": batch,
        "seed": seed,
    }
    series = {"delay": delays, "mismatch": losses, "served variance": served, "averaged variance": averaged}
    return Measured("batch_norm", settings, tuple(claims), series)


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> Tree:
    """Give the statistics that a model's weights have now: the plain mean over a pass of the data.

    Args:
        model: with batch norm layers; a copy is run, so nothing of it changes.
        batches: inputs.

    Returns:
        ``running_mean`` and ``running_var`` of each batch norm layer, by buffer name.

    Raises:
        ValueError: the model has no batch norm layer that tracks statistics.
    """
    twin = copy.deepcopy(model)
    layers = {n: m for n, m in twin.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    layers = {name: layer for name, layer in layers.items() if layer.track_running_stats}
    if not layers:
        raise ValueError("the model has no batch norm layer that tracks statistics")
    for layer in layers.values():
        layer.reset_running_stats()
        layer.momentum = None  # torch: the cumulative mean
    twin.train()
    with torch.no_grad():
        for batch in batches:
            twin(batch)
    return {
        f"{name}.{kind}": getattr(layer, kind).clone()
        for name, layer in layers.items()
        for kind in ("running_mean", "running_var")
    }


def probe(running: Tensor, history: Tensor) -> float:
    """Measure how many steps running statistics are behind: ``argmin_k sum_t |r_t - s(theta_{t-k})|^2``, interpolated.

    Args:
        running: r, ``[T, P]``, one row a step, as the layer held them after the step.
        history: s(theta), ``[T, P]``: recalibrated statistics (:func:`recalibrate`) of the weights of those steps.

    Raises:
        ValueError: shapes differ or there are fewer than eight steps.
    """
    return _vertex(*_mismatch(running, history))


def server_variance(
    *,
    bn_momentum: float,
    momentum: float,
    local_steps: int,
    variance: float,
    rounds: int = ROUNDS,
    server_lr: float = 1.0,
) -> Array:
    """Give the running variance round by round when a server applies the heavy ball to it, as it must not.

    One client's batch norm layer starts each round from the server's buffer and sees ``local_steps`` batches whose true
    variance has fallen from one to ``variance``.

    Args:
        bn_momentum: m.
        momentum: of the server; zero is plain averaging (with ``server_lr`` 1).
        local_steps: K.
        variance: after the fall.
        rounds: to run.
        server_lr: of the server.
    """
    batch = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64) * math.sqrt(variance)  # unbiased variance
    layer = nn.BatchNorm1d(1, momentum=bn_momentum, dtype=torch.float64)
    layer.train()

    def pseudo_gradient(buffer: Tensor) -> Tensor:
        assert layer.running_var is not None
        layer.running_var.copy_(buffer)
        for _ in range(local_steps):
            layer(batch)
        return buffer - layer.running_var

    with torch.no_grad():
        rule = make_rule("heavy_ball", lr=server_lr, momentum=momentum)
        return as_array(follow(rule, pseudo_gradient, torch.ones(1, dtype=torch.float64), rounds)[:, 0])


def network_lag(
    *, bn_momentum: float, momentum: float, batch: int = 256, steps: int = 260, lr: float = 0.1, seed: int = 0
) -> tuple[Array, Array]:
    """Train a small network with batch norm and compare its running means with those of its past weights.

    Args:
        bn_momentum: m.
        momentum: of the client's rule; it runs with ``lr (1 - momentum)``.
        batch: examples per minibatch.
        steps: of training.
        lr: learning rate of the ema.
        seed: of the data, the model and the batches.

    Returns:
        Delays in steps, and the mean squared mismatch at each.
    """
    noise = torch_stream(seed, "batch norm data")
    x = torch.randn(512, 8, generator=noise, dtype=torch.float64) + 1.0
    target = torch.sin(x @ torch.randn(8, 1, generator=noise, dtype=torch.float64)) + 2.0
    model = nn.Sequential(
        nn.Linear(8, 16),
        nn.Tanh(),
        nn.Linear(16, 16),
        nn.BatchNorm1d(16, momentum=bn_momentum),
        nn.Tanh(),
        nn.Linear(16, 1),
    ).double()
    weights = torch_stream(seed, "batch norm model")
    with torch.no_grad():  # the layers drew from torch's global stream: draw again from a named one
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=weights, dtype=torch.float64) / math.sqrt(p.shape[1]))
            else:
                p.fill_(1.0 if name == "3.weight" else 0.0)
    layer = model[3]
    assert isinstance(layer, nn.BatchNorm1d) and layer.running_mean is not None
    rule = make_rule("heavy_ball", lr=lr * (1 - momentum), momentum=momentum)
    draw = torch_stream(seed, "batch norm batches")
    named = dict(model.named_parameters())
    state = rule.init(named)
    running, history = [], []
    for _ in range(steps):
        pick = torch.randperm(512, generator=draw)[:batch]
        loss = ((model(x[pick]) - target[pick]) ** 2).mean()
        running.append(layer.running_mean.clone())
        grads = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        with torch.no_grad():
            history.append(model[2](model[1](model[0](x))).mean(0))
            updates, state = rule.update(grads, state, named)
            for name, p in named.items():
                p.add_(updates[name])
    return _mismatch(torch.stack(running)[steps // 3 :], torch.stack(history)[steps // 3 :])


def figure(folder: Path) -> None:
    """Draw ``batch_norm.svg`` and ``.png``: the mismatch against delay, and the running variance under a server."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, ORANGE, RED, sheet

    with sheet(folder, "batch_norm", 2) as (_, (left, right)):
        for m, colour in ((0.2, BLUE), (0.1, GREEN), (0.05, ORANGE)):
            delays, losses = network_lag(bn_momentum=m, momentum=0.9)
            left.plot(delays, losses / losses.min(), color=colour, label=f"m = {m}")
            lag = predict(bn_momentum=m).statistics
            left.axvline(lag, color=colour, ls=":", lw=1)
        left.set(
            title="Whose statistics does the model carry?",
            xlabel="steps back (dotted: predicted (1 − m)/m)",
            ylabel="mismatch / smallest",
            xlim=(0, 40),
            ylim=(0.9, 4),
        )
        left.legend(loc=(0.52, 0.72))
        for beta, colour in ((0.0, BLUE), (0.5, GREEN), (0.9, RED)):
            v = server_variance(bn_momentum=0.1, momentum=beta, local_steps=5, variance=0.1)
            right.plot(v, "o", color=colour, ms=3, label=f"server β = {beta}")
            a = predict(local_steps=5).pull
            right.plot(0.1 + 0.9 * linear.path("heavy_ball", a, beta, 60), color=colour, lw=1)
        right.axhspan(-0.72, 0, color=RED, alpha=0.08, lw=0)
        right.axhline(0.1, color=GREY, lw=0.8)
        right.text(59, -0.66, "a negative variance", fontsize=8, color=RED, ha="right")
        right.set(
            title="Running variance, if the server optimizes it",
            xlabel="round",
            ylabel="running variance",
            ylim=(-0.72, 1.05),
        )
        right.legend(loc="upper right")


def _running(bn_momentum: float, means: Tensor) -> Tensor:
    """Give the running mean of torch's layer after each of the batches with the given means."""
    layer = nn.BatchNorm1d(1, momentum=bn_momentum, dtype=torch.float64)
    assert layer.running_mean is not None
    spread = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    out = []
    with torch.no_grad():
        for mean in means:
            layer(spread + mean)
            out.append(layer.running_mean.clone())
    return torch.cat(out)


def _phase(signal: Array, w: float, t: Array) -> float:
    parts = np.linalg.lstsq(np.column_stack([np.sin(w * t), np.cos(w * t)]), signal, rcond=None)[0]
    return math.atan2(float(parts[1]), float(parts[0]))


def _mismatch(running: Tensor, history: Tensor) -> tuple[Array, Array]:
    if running.shape != history.shape or running.ndim != 2 or len(running) < 8:
        raise ValueError(f"need two [T, P] records with T >= 8, not {list(running.shape)} and {list(history.shape)}")
    longest = len(running) // 2  # every delay is judged on the same later half
    late = running[longest:]
    losses = [float(((late - history[longest - k : len(history) - k]) ** 2).mean()) for k in range(longest + 1)]
    return np.arange(longest + 1, dtype=np.float64), as_array(losses)


def _vertex(delays: Array, losses: Array) -> float:
    """Give the minimum of a curve, between its samples by a parabola."""
    best = int(np.argmin(losses))
    if not 0 < best < len(losses) - 1:
        return float(delays[best])
    left, middle, right = losses[best - 1 : best + 2]
    return float(delays[best] + (left - right) / (2 * (left - 2 * middle + right)))
