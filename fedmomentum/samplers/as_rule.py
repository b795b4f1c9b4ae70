"""Samplers where an optimizer is wanted: a client's local training becomes a Langevin chain.

A rule has to be a pure function of (gradients, state, parameters), so its noise is a function of a key and of the step
count, both in the state. Copies of one state would draw the same noise: give every client and round a key of its own
with
:func:`rekey`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedmomentum.errors import UserError
from fedmomentum.optim.rule import Rule
from fedmomentum.samplers.noise import fold, normal_like
from fedmomentum.samplers.schedules import Hyper, Value, root, times, value_at
from fedmomentum.samplers.sghmc import sghmc_update
from fedmomentum.samplers.sgld import sgld_update
from fedmomentum.samplers.underdamped import drift_and_thermostat
from fedmomentum.streams import key
from fedmomentum.trees import State, Tree, align, sub, zeros_like

Move = Callable[[Tree, Tree, Tree, Tensor], tuple[Tree, Tree]]
"""(gradients, velocity, noise, count) -> (updates, velocity)."""


def as_rule(
    name: str,
    *,
    lr: Hyper,
    temperature: Hyper = 1.0,
    friction: Hyper = 0.1,
    noise_variance: Hyper = 0.0,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> Rule:
    """Give a sampler as an optimizer: ``params + updates`` is the next point of a chain that samples ``exp(-U / T)``.

    ``sgld``: ``-lr g + sqrt(2 lr T) xi``. ``sghmc``: the heavy ball with ``beta = 1 - friction`` and noise. With
    ``underdamped_langevin`` a step of BAOAB, whose time step is ``sqrt(lr)`` and whose velocity keeps a share
    ``1 - friction`` each step; the two half kicks at one point use one gradient. At temperature 0 the first is gradient
    descent and the second the heavy ball.

    The gradient of a mean loss over n examples is that of ``U / n``: ``temperature = 1 / n`` samples the posterior.

    Args:
        name: ``sgld``, ``sghmc`` or ``underdamped_langevin``.
        lr: the learning rate, in units of x^2; a float, ``[K]``, or a schedule of the step.
        temperature: T, likewise.
        friction: the fraction of velocity lost a step, in (0, 1]; not used by ``sgld``.
        noise_variance: V of each coordinate of the gradient; used by ``sghmc``.
        weight_decay: lambda, at least 0, of a term ``lambda |x|^2 / 2`` beside U: a Gaussian prior of precision
            ``lambda / T``.
        seed: of the noise of a client that was not given a key of its own.

    Raises:
        UserError: there is no such sampler, or a number is out of its range.
    """
    for what, value, most in (
        ("lr", lr, math.inf),
        ("temperature", temperature, math.inf),
        ("friction", friction, 1.0),
    ):
        if isinstance(value, float | int) and not 0 <= value <= most:
            raise UserError(f"{what} of '{name}' must be in [0, {most:g}], not {value}")

    def langevin(grads: Tree, velocity: Tree, noise: Tree, count: Tensor) -> tuple[Tree, Tree]:
        update = sgld_update(grads, noise, lr=value_at(lr, count), temperature=value_at(temperature, count))
        return update, velocity

    def heavy_ball(grads: Tree, velocity: Tree, noise: Tree, count: Tensor) -> tuple[Tree, Tree]:
        velocity = sghmc_update(
            grads,
            velocity,
            noise,
            lr=value_at(lr, count),
            friction=value_at(friction, count),
            temperature=value_at(temperature, count),
            noise_variance=value_at(noise_variance, count),
        )
        return velocity, velocity

    def baoab(grads: Tree, velocity: Tree, noise: Tree, count: Tensor) -> tuple[Tree, Tree]:
        time = root(value_at(lr, count))
        # The last kick of the step before and the first of this one fall on one point; the very first is half a kick.
        share = torch.where(count == 0, 0.5, 1.0)
        kick = {n: g * _cast(align(share, g), g) for n, g in times(grads, time).items()}
        kept: Value = 1.0 - value_at(friction, count)
        heat = value_at(temperature, count)
        return drift_and_thermostat(sub(velocity, kick), noise, time=time, decay=kept, temperature=heat)

    moves: dict[str, Move] = {"sgld": langevin, "sghmc": heavy_ball, "underdamped_langevin": baoab}
    if name not in moves:
        near = difflib.get_close_matches(name, moves, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(moves))}"
        raise UserError(f"no sampler is called '{name}'; {hint}")
    move, moving = moves[name], name != "sgld"

    def init(params: Mapping[str, Tensor]) -> State:
        device = next(iter(params.values())).device
        state: State = {
            "step": {"count": torch.zeros((), dtype=torch.int64, device=device)},
            "noise": {"key": torch.tensor(key(seed, "noise"), device=device)},
        }
        return state | {"velocity": zeros_like(params)} if moving else state

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor]) -> tuple[Tree, State]:
        count, own = state["step"]["count"], state["noise"]["key"]
        noise = normal_like(fold(own, count), grads)
        pull = {n: g + weight_decay * params[n] for n, g in grads.items()} if weight_decay else dict(grads)
        updates, velocity = move(pull, state.get("velocity", {}), noise, count)
        after: State = {"step": {"count": count + 1}, "noise": {"key": own}}
        return updates, after | {"velocity": velocity} if moving else after

    return Rule(init, update)


def _cast(value: Value, like: Tensor) -> Value:
    return value.to(like) if isinstance(value, Tensor) else value


def rekey(state: State, keys: int | Tensor) -> State:
    """Give the state of :func:`as_rule` with noise of its own: an integer for one client, ``[K]`` for K stacked ones.

    Example:
        >>> state = rekey(rule.init(params), streams.key(seed, "noise", round=3, client=7))

    Raises:
        ValueError: the keys are not shaped like the leading axes of the state.
    """
    old = state["noise"]["key"]
    new = torch.as_tensor(keys, dtype=torch.int64, device=old.device)
    if new.shape != old.shape:
        raise ValueError(f"keys of shape {list(new.shape)} do not fit a state of leading axes {list(old.shape)}")
    return state | {"noise": {"key": new}}
