"""Momentum is a PD controller: the gradient is the position error, the friction is the derivative gain.

With the error ``e = x* - x`` and the step as unit of time, the heavy ball on curvature h is, exactly, a double
integrator under proportional-derivative control:

    e_{t+1} - 2 e_t + e_{t-1} = -kp e_t - kd (e_t - e_{t-1}),   kp = lr h,   kd = 1 - beta   (nesterov: kd + beta lr h)

What control engineers know then carries over: a constant disturbance (gravity; the bias of a drifting client's
gradient) leaves an error of disturbance/kp that no momentum removes, a moving target is followed with a lag that an
integral term removes, and the delay margin says how stale a gradient may be before the loop rings itself apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedmomentum.analogies import linear
from fedmomentum.analogies.curvature import Loss, sharpness
from fedmomentum.analogies.descent import follow
from fedmomentum.analogies.linear import Form
from fedmomentum.analogies.result import Array, Claim, Measured, as_array
from fedmomentum.analogies.robot_arm import Arm
from fedmomentum.optim import Rule, make_rule, pid


@dataclass(frozen=True)
class Controller:
    """The PD controller that a rule is, along one direction.

    Args:
        proportional: kp = lr h (times 1 - beta in the ema form), per step^2.
        derivative: kd, per step.
        gain_margin: factor by which the curvature may grow before the loop is unstable.
        phase_margin: radians that the open loop is away from -1 where its gain is one.
        crossover: rad/step at which the open loop's gain is one; nan if it never is.
        delay_margin: steps by which gradients may be late; whole delays below it are stable, those above are not.
        ramp_lag: distance behind a target that moves by one per step.
    """

    proportional: float
    derivative: float
    gain_margin: float
    phase_margin: float
    crossover: float
    delay_margin: float
    ramp_lag: float


def predict(*, lr: float, curvature: float, momentum: float, form: Form = "heavy_ball") -> Controller:
    """Give the gains and margins of the controller that a rule is.

        open loop L(z) = a N(z)/((z - 1)(z - beta)),   N = z, or (1 + beta) z - beta for nesterov
        gain margin = stability limit / a,   delay margin = phase margin / crossover,   ramp lag = (1 - beta)/kp

    Args:
        lr: learning rate, parameter^2 per loss.
        curvature: loss per parameter^2, positive.
        momentum: beta, in [0, 1).
        form: which rule.

    Raises:
        ValueError: lr or curvature is not positive or the momentum outside [0, 1).
    """
    if not (lr > 0 and curvature > 0 and 0 <= momentum < 1):
        raise ValueError(f"need lr > 0, curvature > 0, 0 <= momentum < 1, not {lr}, {curvature}, {momentum}")
    a = lr * curvature
    p, q = linear.coefficients(form, a, momentum)
    kp, kd = 1 - p + q, 1 - q
    w = _crossover(form, a, momentum)
    margin = math.nan if math.isnan(w) else math.pi + _unwrapped_phase(form, w, momentum)
    return Controller(
        proportional=kp,
        derivative=kd,
        gain_margin=linear.stability_limit(form, momentum) / a,
        phase_margin=margin,
        crossover=w,
        delay_margin=math.nan if math.isnan(w) else margin / w,
        # Friction against the ground is 1 - beta in every form: nesterov's extra kd acts on the error, not on x.
        ramp_lag=(1 - momentum) / kp,
    )


def simulate(
    *,
    lr: float = 0.02,
    curvature: float = 1.0,
    momentum: float = 0.8,
    form: Form = "heavy_ball",
    target: float = 1.2,
    gravity: float = 6.0,
    steps: int = 1500,
) -> Measured:
    """Move a robot arm with an optimizer's gains, and follow moving and late gradients with the optimizer itself.

    Args:
        lr: learning rate.
        curvature: of the quadratic whose gradient is the error.
        momentum: beta.
        form: which rule.
        target: angle to reach, rad, up to the horizontal.
        gravity: torque of gravity on the level arm, N m.
        steps: of the arm and of the optimizer.
    """
    loop = predict(lr=lr, curvature=curvature, momentum=momentum, form=form)
    kp, kd = loop.proportional, loop.derivative
    space = Arm()
    rule = make_rule(form, lr=lr, momentum=momentum)
    start = torch.zeros((), dtype=torch.float64)
    optimizer = as_array(follow(rule, lambda x: curvature * (x - target), start, 200))
    # The rules start with no velocity before the first *gradient*; the arm must be let go in the same way.
    arm = _released(space, target, kp, kd, optimizer)
    claims = [
        Claim(
            "arm in free space follows the optimizer",
            0.0,
            float(np.abs(arm - optimizer).max()),
            1e-9,
            "rad",
            scale=target,
        )
    ]

    # In free space the closed loop is a spring: how far past the target, and until when, the roots alone say.
    errors = linear.path(form, lr * curvature, momentum, 200)
    past, settled = _overshoot(errors), _settling(errors)
    claims += [
        Claim("overshoot in free space", past, _overshoot(1 - arm / target), 1e-9, "of the way", scale=1.0),
        Claim("settling time in free space, to 2%", settled, _settling(1 - arm / target), 0.0, "steps", scale=1.0),
    ]

    earth = Arm(gravity=gravity, friction=0.1)
    stiffness = kp * earth.inertia / earth.dt**2
    droop = earth.reach(target, kp, kd, steps)
    lifted = earth.reach(target, kp, kd, 4 * steps, ki=0.15 * kp * kd)
    claims += [
        Claim("angle that gravity leaves to PD", earth.hold(target, stiffness), float(droop[-1]), 1e-3, "rad"),
        Claim("angle with an integral term", target, float(lifted[-1]), 1e-3, "rad"),
    ]
    if gravity > 0:
        weak = Arm(gravity=gravity, friction=2.0, limit=0.6 * gravity * math.sin(target))
        tired = weak.reach(target, kp, kd, 3 * steps)
        claims.append(
            Claim("angle that a weak motor holds", weak.hold(target, stiffness), float(tired[-1]), 1e-3, "rad")
        )

    speed = 0.01
    followed = _follow_ramp(rule, curvature, speed, steps)
    with_integral = pid(lr=lr, momentum=momentum, integral=0.15 * kd, derivative=momentum if form == "nesterov" else 0)
    claims += [
        Claim("lag behind a moving optimum", speed * loop.ramp_lag, followed, 1e-3, "parameter"),
    ]
    if form != "ema":
        claims.append(
            Claim(
                "lag with an integral term",
                0.0,
                _follow_ramp(with_integral, curvature, speed, steps),
                1e-3,
                "parameter",
                scale=speed * loop.ramp_lag,
            )
        )
    twin = pid(lr=lr, momentum=momentum, derivative=momentum)
    nesterov = make_rule("nesterov", lr=lr, momentum=momentum)
    bent = [as_array(follow(r, lambda x: torch.sin(x) + 0.3 * x, start + 2.5, 100)) for r in (twin, nesterov)]
    claims.append(
        Claim("PID with kD = beta is nesterov", 0.0, float(np.abs(bent[0] - bent[1]).max()), 1e-12, scale=1.0)
    )
    # At a whole margin the loop neither grows nor shrinks, so there is nothing to find.
    if loop.delay_margin < 100 and abs(loop.delay_margin - round(loop.delay_margin)) > 1e-3:
        claims.append(
            Claim(
                "stalest stable gradient",
                math.floor(loop.delay_margin),
                _stalest(rule, curvature),
                0.0,
                "steps",
                scale=1.0,
            )
        )
    settings = {
        "lr": lr,
        "curvature": curvature,
        "momentum": momentum,
        "form": form,
        "target": target,
        "gravity": gravity,
        "steps": steps,
    }
    return Measured("pd_control", settings, tuple(claims), {"droop": droop, "lifted": lifted})


def probe(
    loss: Loss,
    params: Mapping[str, Tensor],
    *,
    lr: float,
    momentum: float,
    form: Form = "heavy_ball",
    steps: int = 12,
    seed: int = 0,
) -> Controller:
    """Measure the margins of a model's sharpest direction: how much sharper it may get, how stale its gradients may be.

    Args:
        loss: scalar loss of named parameters.
        params: the model now.
        lr: of the optimizer.
        momentum: of the optimizer.
        form: of the optimizer.
        steps: Hessian-vector products to spend.
        seed: of the Lanczos start.

    Raises:
        ValueError: the largest curvature found is not positive.
    """
    largest = sharpness(loss, params, steps=steps, seed=seed).largest
    if not largest > 0:
        raise ValueError(f"the largest curvature found is {largest:.3g}: there is nothing to control")
    return predict(lr=lr, curvature=largest, momentum=momentum, form=form)


def figure(
    folder: Path,
    *,
    lr: float = 0.02,
    curvature: float = 1.0,
    momentum: float = 0.8,
    target: float = 1.2,
    gravity: float = 6.0,
) -> None:
    """Draw ``pd_control.svg`` and ``.png``: the arm under three controllers, and stale gradients."""
    from fedmomentum.analogies.drawing import BLUE, GREEN, GREY, INK, ORANGE, RED, sheet

    loop = predict(lr=lr, curvature=curvature, momentum=momentum)
    kp, kd = loop.proportional, loop.derivative
    steps = 250
    arms = [
        ("no gravity: the optimizer's own path", Arm(), 0.0, BLUE),
        ("gravity: PD sags", Arm(gravity=gravity), 0.0, ORANGE),
        ("gravity: PID arrives", Arm(gravity=gravity), 0.15 * kp * kd, GREEN),
        ("gravity: PID, weak motor", Arm(gravity=gravity, friction=0.5, limit=4.5), 0.15 * kp * kd, RED),
    ]
    with sheet(folder, "pd_control", 2) as (_, (left, right)):
        for label, arm, ki, colour in arms:
            time = np.arange(steps + 1) * arm.dt
            left.plot(time, arm.reach(target, kp, kd, steps, ki=ki), color=colour, label=label)
        left.axhline(target, color=GREY, lw=0.8)
        left.set(title="One joint, gains of the heavy ball", xlabel="time [s]", ylabel="angle [rad]")
        left.legend(loc="lower right")
        late = math.floor(loop.delay_margin)
        rule = make_rule("heavy_ball", lr=lr, momentum=momentum)
        for delay, colour in ((0, BLUE), (late, INK), (late + 2, RED)):
            right.plot(_delayed(rule, curvature, delay, 160), color=colour, lw=1.3, label=f"{delay} steps late")
        right.set(
            title=f"Delay margin {loop.delay_margin:.1f} steps",
            xlabel="step",
            ylabel="distance to the optimum",
            ylim=(-2.2, 2.2),
        )
        right.legend(loc="upper right", ncols=3)


def _crossover(form: Form, a: float, momentum: float) -> float:
    """Give the frequency at which the open loop's gain falls to one (the last such, where there are several)."""
    if form == "ema":
        a = a * (1 - momentum)
    # |L|^2 = a^2 |N|^2 / (|z-1|^2 |z-beta|^2) with c = cos w: a quadratic in c.
    b = momentum
    n0, n1 = (1.0, 0.0) if form != "nesterov" else ((1 + b) ** 2 + b * b, -2 * b * (1 + b))
    # (2 - 2c)(1 + b^2 - 2 b c) = a^2 (n0 + n1 c)
    found = np.roots([4 * b, -(2 * (1 + b * b) + 4 * b) - a * a * n1, 2 * (1 + b * b) - a * a * n0])
    inside = [float(c.real) for c in found if abs(c.imag) < 1e-12 and -1 <= c.real <= 1]
    return math.acos(min(inside)) if inside else math.nan


def _unwrapped_phase(form: Form, w: float, momentum: float) -> float:
    """Give the open loop's phase at a frequency, continuous from zero frequency on."""
    z = complex(math.cos(w), math.sin(w))
    integrator = -(math.pi / 2 + w / 2)  # of 1/(z - 1)
    lag = -math.atan2(z.imag, z.real - momentum)
    lead = z * (1 + momentum) - momentum if form == "nesterov" else z
    return integrator + lag + math.atan2(lead.imag, lead.real)


def _released(arm: Arm, target: float, kp: float, kd: float, like: Array) -> Array:
    """Give the arm's path when its first step is the optimizer's, as if pushed."""
    unit = arm.inertia / arm.dt**2
    path = [float(like[0]), float(like[1])]
    while len(path) < len(like):
        torque = unit * (kp * (target - path[-1]) - kd * (path[-1] - path[-2]))
        path.append(2 * path[-1] - path[-2] + torque / unit)
    return as_array(path)


def _overshoot(errors: Array) -> float:
    """Give how far past the target a path of errors from 1 goes."""
    return max(0.0, -float(errors.min()))


def _settling(errors: Array) -> int:
    """Give the step from which on the error stays within 2%."""
    outside = np.flatnonzero(np.abs(errors) > 0.02)
    return int(outside[-1]) + 1 if len(outside) else 0


def _follow_ramp(rule: Rule, curvature: float, speed: float, steps: int) -> float:
    """Give the distance that a rule stays behind an optimum that moves ``speed`` a step."""
    time = -1

    def gradient(x: Tensor) -> Tensor:
        nonlocal time
        time += 1
        return curvature * (x - speed * time)

    end = follow(rule, gradient, torch.zeros((), dtype=torch.float64), steps)[-2]
    return speed * (steps - 1) - float(end)


def _delayed(rule: Rule, curvature: float, delay: int, steps: int) -> Array:
    """Give the path of a rule whose gradients are ``delay`` steps old."""
    seen = [torch.ones((), dtype=torch.float64)] * delay

    def gradient(x: Tensor) -> Tensor:
        seen.append(x)
        return curvature * seen.pop(0)

    return as_array(follow(rule, gradient, torch.ones((), dtype=torch.float64), steps))


def _stalest(rule: Rule, curvature: float) -> int:
    """Find the largest delay whose path shrinks in the long run."""
    steps = 1500

    def shrinks(delay: int) -> bool:
        x = np.abs(_delayed(rule, curvature, delay, steps))
        return bool(x[-steps // 4 :].max() < x[steps // 4 : steps // 2].max())

    good, bad = 0, 1
    while shrinks(bad) and bad < 512:
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if shrinks(middle) else (good, middle)
    return good
