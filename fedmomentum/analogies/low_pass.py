"""Momentum is a low-pass filter on the stream of gradients: it passes what lasts and stops what alternates.

The ema ``v <- beta v + (1 - beta) g`` is the one-pole filter of electrical engineering (a resistor and a capacitor);
the heavy ball is the same filter amplified by ``1/(1 - beta)``, and nesterov adds a zero that gives back some of the
delay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmomentum.analogies.descent import filtered
from fedmomentum.analogies.linear import FORMS, Form
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.optim import make_rule
from fedmomentum.streams import torch_stream


@dataclass(frozen=True)
class Filter:
    """The filter that a rule is, from gradients to velocity (the update over -lr).

    Args:
        dc_gain: of a constant gradient.
        cutoff: rad/step at which the power gain is half of the dc's; nan where the filter never falls so far (one pole:
            beta < 3 - 2 sqrt 2 = 0.17).
        delay: group delay at low frequency, steps: how late the velocity follows a slow change.
        noise_gain: variance of the velocity over that of white gradients.
        relative_noise: noise_gain/dc_gain^2: the variance of the velocity as an estimate of the mean gradient.
        time_constant: steps in which the filter forgets by a factor e.
    """

    dc_gain: float
    cutoff: float
    delay: float
    noise_gain: float
    relative_noise: float
    time_constant: float


def response(w: Array, momentum: float, *, form: Form = "ema") -> NDArray[np.complex128]:
    """Give the frequency response from gradients to velocity.

        ema H = (1 - beta)/(1 - beta e^-iw),   heavy_ball 1/(1 - beta e^-iw),   nesterov 1 + beta/(1 - beta e^-iw)

    Args:
        w: rad/step.
        momentum: beta, in (-1, 1).
        form: which rule.
    """
    if not -1 < momentum < 1:
        raise ValueError(f"momentum must lie in (-1, 1), not {momentum}")
    pole = 1 / (1 - momentum * np.exp(-1j * np.asarray(w)))
    gains = {"ema": (1 - momentum) * pole, "heavy_ball": pole, "nesterov": 1 + momentum * pole}
    if form not in gains:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    return np.asarray(gains[form], dtype=np.complex128)


def predict(*, momentum: float, form: Form = "ema") -> Filter:
    """Give the filter that a rule is.

        cutoff = acos(1 - (1 - beta)^2/(2 beta)),   delay = beta/(1 - beta) (nesterov beta^2/(1 - beta))
        noise gain: ema (1 - beta)/(1 + beta),  heavy_ball 1/(1 - beta^2),  nesterov (1 + beta)^2 + beta^4/(1 - beta^2)

    Args:
        momentum: beta, in [0, 1).
        form: which rule.

    Raises:
        ValueError: the momentum is outside [0, 1) or the form unknown.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), not {momentum}")
    b = momentum
    dc = float(abs(response(np.zeros(1), b, form=form))[0])
    noise = {
        "ema": (1 - b) / (1 + b),
        "heavy_ball": 1 / (1 - b * b),
        "nesterov": (1 + b) ** 2 + b**4 / (1 - b * b),
    }[form]
    return Filter(
        dc_gain=dc,
        cutoff=_cutoff(b, form),
        delay=(b * b if form == "nesterov" else b) / (1 - b),
        noise_gain=noise,
        relative_noise=noise / dc**2,
        time_constant=-1 / math.log(b) if b > 0 else 0.0,
    )


def beta_for_cutoff(cutoff: float) -> float:
    """Give the momentum whose filter (ema, heavy_ball) halves the power at a frequency.

        beta = 1 + k - sqrt(k (2 + k)),   k = 1 - cos(cutoff)

    Args:
        cutoff: rad/step, in (0, pi].

    Raises:
        ValueError: the cutoff is outside (0, pi].
    """
    if not 0 < cutoff <= math.pi:
        raise ValueError(f"cutoff must lie in (0, pi] rad/step, not {cutoff}")
    k = 1 - math.cos(cutoff)
    return 1 + k - math.sqrt(k * (2 + k))


def simulate(
    *, momentum: float = 0.9, form: Form = "ema", steps: int = 6000, batch: int = 8, seed: int = 0
) -> Measured:
    """Measure the filter by its answers to an impulse, to sines, to white noise and to the gradients of a real model.

    The real model is a small network that learns two moons of points by minibatches; the ratio of the Welch spectra of
    its velocities and its gradients is the filter's power gain, whatever the gradients' own spectrum.

    Args:
        momentum: beta.
        form: which rule.
        steps: of white noise.
        batch: examples per minibatch of the real model.
        seed: of the streams "low pass noise", "low pass model" and "low pass batches".
    """
    expected = predict(momentum=momentum, form=form)
    impulse = _velocity(form, momentum, torch.cat([torch.ones(1), torch.zeros(4095)]).double())
    total = impulse.sum()
    claims = [
        Claim("gain of a constant", expected.dc_gain, float(total), 1e-6),
        Claim(
            "delay of a slow change",
            expected.delay,
            float(impulse @ np.arange(len(impulse)) / total),
            1e-6,
            "steps",
            scale=max(expected.delay, 1e-3),
        ),
    ]
    frequencies = np.array([0.05, 0.3, 1.0, 2.5])
    answers = _sines(form, momentum, frequencies)
    for w, answer, known in zip(frequencies, answers, response(frequencies, momentum, form=form), strict=True):
        claims.append(Claim(f"gain at {w:g} rad/step", float(abs(known)), float(abs(answer)), 1e-4))
        claims.append(
            Claim(f"phase at {w:g} rad/step", float(np.angle(known)), float(np.angle(answer)), 1e-4, "rad", scale=1.0)
        )
    if not math.isnan(expected.cutoff):
        at = _sines(form, momentum, np.array([expected.cutoff]))[0]
        claims.append(Claim("power gain at the cutoff", 0.5, float(abs(at)) ** 2 / float(total) ** 2, 1e-4))
    noise = torch.randn(steps, 64, generator=torch_stream(seed, "low pass noise"), dtype=torch.float64)
    out = _velocity(form, momentum, noise)[steps // 10 :]
    claims.append(Claim("gain of white noise", expected.noise_gain, float(out.var()), 0.05, "variance"))
    gradients = model_gradients(momentum=momentum, form=form, batch=batch, seed=seed, steps=900)
    w, spectrum = welch(gradients)
    _, after = welch(torch.as_tensor(_velocity(form, momentum, gradients)))
    gain = np.abs(response(w, momentum, form=form)) ** 2
    # Leakage of the window blurs a gain that changes much within one bin: compare away from the steep foot.
    inner = slice(4, len(w) - 1)
    ratio = (after / spectrum)[inner] / gain[inner]
    claims.append(Claim("power gain on real gradients, over predicted", 1.0, float(np.median(ratio)), 0.05))
    settings = {"momentum": momentum, "form": form, "steps": steps, "batch": batch, "seed": seed}
    series = {"frequency": w, "gradient spectrum": spectrum, "velocity spectrum": after, "power gain": gain}
    return Measured("low_pass", settings, tuple(claims), series)


def welch(stream: Tensor, *, segment: int = 128) -> tuple[Array, Array]:
    """Give the power spectral density of a stream of gradients, averaged over coordinates, by Welch's method.

    Args:
        stream: ``[T, P]``, one row a step, T >= segment.
        segment: length of the half-overlapping Hann windows, steps.

    Returns:
        Frequencies in rad/step, from 0 to pi, and the density: its integral over ``[0, pi]`` divided by pi is the
        variance.

    Raises:
        ValueError: the stream is shorter than one segment.
    """
    from scipy.signal import welch as of_one

    if stream.ndim != 2 or len(stream) < segment:
        raise ValueError(f"need a [T, P] stream with T >= {segment}, not {list(stream.shape)}")
    f, density = of_one(as_array(stream), nperseg=segment, axis=0, detrend="constant")
    return as_array(2 * np.pi * f), as_array(density.mean(axis=1) / 2)


@dataclass(frozen=True)
class Colour:
    """What a stream of gradients is made of, and what momentum makes of it.

    Args:
        signal: squared norm of the mean gradient.
        noise: summed variance of the gradients about it.
        noise_gain: measured variance of the velocity over that of the gradients.
        white: the same, were the gradients white noise.
        correlation: of successive gradients about the mean: 0 white, positive slow, negative alternating.
    """

    signal: float
    noise: float
    noise_gain: float
    white: float
    correlation: float


def probe(gradients: Tensor, *, momentum: float, form: Form = "heavy_ball") -> Colour:
    """Measure from a stream of gradients how much noise a rule's momentum lets through.

    Args:
        gradients: ``[T, P]`` in the order of the steps; the first third fills the filter.
        momentum: beta, in [0, 1).
        form: which rule.

    Raises:
        ValueError: fewer than twelve gradients, or gradients without any variance.
    """
    expected = predict(momentum=momentum, form=form)
    if gradients.ndim != 2 or len(gradients) < 12:
        raise ValueError(f"need [T, P] gradients with T >= 12, not {list(gradients.shape)}")
    g = gradients.double()
    kept = len(g) // 3
    velocity = torch.as_tensor(_velocity(form, momentum, g - g.mean(0)))[kept:]
    rest = g[kept:] - g[kept:].mean(0)
    noise = float((rest**2).sum(1).mean())
    if noise == 0:
        raise ValueError("the gradients do not vary: there is no noise to filter")
    return Colour(
        signal=float((g.mean(0) ** 2).sum()),
        noise=noise,
        noise_gain=float((velocity**2).sum(1).mean()) / noise,
        white=expected.noise_gain,
        correlation=float((rest[1:] * rest[:-1]).sum() / (rest**2).sum()),
    )


def model_gradients(
    *, momentum: float = 0.9, form: Form = "ema", steps: int = 1500, batch: int = 8, lr: float = 0.05, seed: int = 0
) -> Tensor:
    """Give the minibatch gradients ``[steps, P]`` of a small network while it learns with a rule.

    Args:
        momentum: of the rule.
        form: the rule; the heavy ball and nesterov run with lr (1 - beta), so that all move equally fast.
        steps: to record, after 100 that are not.
        batch: examples per minibatch.
        lr: learning rate of the ema.
        seed: of the data, the network and the batches.
    """
    noise = torch_stream(seed, "low pass model")
    angle = math.pi * torch.rand(400, generator=noise, dtype=torch.float64)
    moon = torch.arange(400) % 2
    sign = 1.0 - 2.0 * moon
    x = torch.stack([torch.cos(angle) * sign + moon, torch.sin(angle) * sign + 0.4 * moon], dim=1)
    x = x + 0.15 * torch.randn(400, 2, generator=noise, dtype=torch.float64)
    hidden = 6
    shapes = {"w1": (2, hidden), "b1": (hidden,), "w2": (hidden, 1), "b2": (1,)}
    params = {n: torch.randn(s, generator=noise, dtype=torch.float64) * 0.7 for n, s in shapes.items()}
    target = moon.double()
    rule = make_rule(form, lr=lr if form == "ema" else lr * (1 - momentum), momentum=momentum)
    state, draw = rule.init(params), torch_stream(seed, "low pass batches")
    rows = []
    for _ in range(steps + 100):
        pick = torch.randint(400, (batch,), generator=draw)
        leaves = {n: p.detach().requires_grad_(True) for n, p in params.items()}
        logits = torch.tanh(x[pick] @ leaves["w1"] + leaves["b1"]) @ leaves["w2"] + leaves["b2"]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target[pick])
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        rows.append(torch.cat([g.flatten() for g in grads.values()]))
        updates, state = rule.update(grads, state, params)
        params = {n: params[n] + updates[n] for n in params}
    return torch.stack(rows[100:])


def figure(folder: Path, *, momentum: float = 0.9) -> None:
    """Draw ``low_pass.svg`` and ``.png``: the gains, and a real gradient stream before and after."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, sheet

    w = np.geomspace(0.004, math.pi, 400)
    dots = np.geomspace(0.02, 3.0, 9)
    with sheet(folder, "low_pass", 2) as (_, (left, right)):
        for beta, colour in ((0.5, BLUE), (momentum, GREEN), (0.99, ORANGE)):
            left.plot(w, np.abs(response(w, beta)) ** 2, color=colour, label=f"β = {beta}")
            left.plot(dots, np.abs(_sines("ema", beta, dots)) ** 2, "o", color=colour)
            cutoff = predict(momentum=beta).cutoff
            left.plot([cutoff, cutoff], [1e-5, 0.5], color=colour, ls=":", lw=1)
        left.axhline(0.5, color=GREY, lw=0.8)
        left.set(
            title="Power gain of the ema (dots: measured)",
            xlabel="frequency [rad/step]",
            ylabel="|H|²",
            xscale="log",
            yscale="log",
            ylim=(1e-5, 3),
        )
        left.legend(loc="lower left")
        gradients = model_gradients(momentum=momentum, steps=6000)
        f, before = welch(gradients)
        _, after = welch(torch.as_tensor(_velocity("ema", momentum, gradients)))
        inner = slice(1, -1)
        right.plot(f[inner], before[inner], color=INK, label="gradients of a network")
        right.plot(f[inner], after[inner], color=PURPLE, label="its velocity, measured")
        right.plot(
            f[inner],
            (before * np.abs(response(f, momentum)) ** 2)[inner],
            color=RED,
            ls="--",
            label="gradients × |H|², predicted",
        )
        right.set(
            title=f"Welch spectra of a real stream, β = {momentum}",
            xlabel="frequency [rad/step]",
            ylabel="power density",
            xscale="log",
            yscale="log",
        )
        right.legend(loc="lower left")


def _velocity(form: Form, momentum: float, gradients: Tensor) -> Array:
    return as_array(filtered(make_rule(form, lr=1.0, momentum=momentum), gradients)) * -1.0


def _sines(form: Form, momentum: float, frequencies: Array) -> NDArray[np.complex128]:
    """Measure the complex gain at frequencies, all at once, after the filter has forgotten its start."""
    wait = math.ceil(25 / (1 - momentum))
    length = wait + 4000
    t = np.arange(length)[:, None]
    out = _velocity(form, momentum, torch.as_tensor(np.cos(frequencies * t)))[wait:]
    t = t[wait:]
    # Least squares on cosine and sine: a plain correlation would need whole periods.
    gains = []
    for k, w in enumerate(frequencies):
        parts = np.linalg.lstsq(np.column_stack([np.cos(w * t), -np.sin(w * t)]), out[:, k], rcond=None)[0]
        gains.append(complex(parts[0], parts[1]))
    return np.asarray(gains)


def _cutoff(momentum: float, form: Form) -> float:
    """Solve |H(w)|^2 = |H(0)|^2/2; for nesterov, whose gain has a zero too, by bisection on the falling gain."""
    if form != "nesterov":
        if momentum < 3 - 2 * math.sqrt(2):
            return math.nan
        return math.acos(max(-1.0, 1 - (1 - momentum) ** 2 / (2 * momentum)))
    from scipy.optimize import brentq

    def excess(w: float) -> float:
        return float(abs(response(np.array([w]), momentum, form=form))[0]) ** 2 - 0.5 / (1 - momentum) ** 2

    return float(brentq(excess, 0.0, math.pi)) if excess(math.pi) < 0 else math.nan
