"""Underdamped Langevin dynamics, split as BAOAB: kick, drift, exact friction and noise, drift, kick."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedmomentum.samplers.gradients import estimate_from
from fedmomentum.samplers.kernel import Estimate, Gradient, Kernel, LangevinInfo, Potential
from fedmomentum.samplers.noise import chain_keys, fold, normal_like
from fedmomentum.samplers.ravel import counter, size
from fedmomentum.samplers.schedules import Hyper, Value, each, root, times, value_at
from fedmomentum.trees import State, Tree, add, dot, sub, zeros_like


def drift_and_thermostat(
    velocity: Tree, noise: Tree, *, time: Value, decay: Value, temperature: Value
) -> tuple[Tree, Tree]:
    """Give (displacement, velocity) of the middle ``A O A`` of a step, between its two kicks.

    ``x += (h/2) v``; ``v <- c v + sqrt((1 - c^2) T) xi``; ``x += (h/2) v``.

    Args:
        velocity: v, after the first kick.
        noise: ``xi ~ N(0, 1)``.
        time: h.
        decay: c, the fraction of velocity that is left after h.
        temperature: T.
    """
    after = add(times(velocity, decay), times(noise, root((1.0 - decay**2) * temperature)))
    return times(add(velocity, after), 0.5 * time), after


def underdamped_langevin(
    potential: Potential | None = None,
    *,
    gradient: Gradient | None = None,
    estimate: Estimate | None = None,
    step_size: Hyper,
    friction: Hyper = 1.0,
    temperature: Hyper = 1.0,
) -> Kernel:
    """Sample ``exp(-U / T)`` by ``dx = v dt``, ``dv = -dU dt - gamma v dt + sqrt(2 gamma T) dW`` in steps B A O A B.

    On a Gaussian of curvature w^2 the positions have the exact variance ``T / w^2`` at any stable step ``h w < 2``,
    and the velocities ``T (1 - h^2 w^2 / 4)``. Elsewhere averages of positions are biased at second order in h.

    Args:
        potential: ``U`` of one point; or give
        gradient: ``dU`` of stacked points; or
        estimate: a noisy gradient of stacked points from keys; its noise is not corrected for.
        step_size: h, a time; a float, ``[C]`` or a schedule.
        friction: gamma, a rate (1 / time), positive.
        temperature: T, at least 0; the mass is 1.

    Raises:
        ValueError: not exactly one gradient was given.

    Source: Leimkuhler and Matthews 2013, arXiv:1203.5428.
    """
    direction = estimate_from(potential, gradient, estimate)

    def init(position: Tree) -> State:
        count = counter(position)
        # There is no key here, so the first minibatch of a chain is a matter of its number alone.
        return {
            "position": dict(position),
            "velocity": zeros_like(position),
            "gradient": direction(position, fold(count, torch.arange(len(count), device=count.device))),
            "step": {"count": count},
        }

    def step(key: int, state: State) -> tuple[State, LangevinInfo]:
        count = state["step"]["count"]
        keys = chain_keys(key, len(count), count.device)
        time = value_at(step_size, count)
        decay = exponential(-1.0 * value_at(friction, count) * time)
        velocity = sub(state["velocity"], times(state["gradient"], 0.5 * time))
        noise = normal_like(keys, velocity)
        move, velocity = drift_and_thermostat(
            velocity, noise, time=time, decay=decay, temperature=value_at(temperature, count)
        )
        position = add(state["position"], move)
        grads = direction(position, fold(keys, 1))
        velocity = sub(velocity, times(grads, 0.5 * time))
        kinetic = dot(velocity, velocity, leading=1) / size(position)
        state = {"position": position, "velocity": velocity, "gradient": grads, "step": {"count": count + 1}}
        return state, LangevinInfo(each(time, count), kinetic)

    return Kernel(init, step)


def exponential(value: Value) -> Value:
    """Give ``exp`` of a float or a tensor."""
    return value.exp() if isinstance(value, Tensor) else math.exp(value)
