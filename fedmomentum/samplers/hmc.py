"""Hamiltonian Monte Carlo: momenta drawn afresh, a leapfrog trajectory, an accept or a reject that makes it exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from fedmomentum.samplers.gradients import value_and_gradient
from fedmomentum.samplers.kernel import Gradient, Kernel, Potential
from fedmomentum.samplers.leapfrog import leapfrog
from fedmomentum.samplers.metric import Diagonal, Metric
from fedmomentum.samplers.noise import chain_keys, folds, normals, uniforms
from fedmomentum.samplers.ravel import counter, ravel, unravel
from fedmomentum.trees import State, Tree

DIVERGENCE = 1000.0
"""An energy error above this many temperatures is a trajectory that left the level set: Stan's convention."""


class HMCInfo(NamedTuple):
    """What a transition of HMC reports, each ``[C]``.

    Args:
        acceptance: the Metropolis probability ``min(1, exp(-dH / T))``.
        accepted: whether the proposal was taken.
        energy: ``(U + K) / T`` at the state that the chain is left in.
        divergent: whether the energy error was not finite or above :data:`DIVERGENCE`.
        step_size: of this trajectory, jitter included.
    """

    acceptance: Tensor
    accepted: Tensor
    energy: Tensor
    divergent: Tensor
    step_size: Tensor


class Field(NamedTuple):
    """A potential on stacked trees: values ``[C]`` and gradient alone, and both at once."""

    value: Callable[[Tree], Tensor]
    gradient: Gradient
    both: Callable[[Tree], tuple[Tensor, Tree]]


def field_of(potential: Potential, gradient: Gradient | None = None) -> Field:
    """Give the stacked field of a potential of one point; a gradient in closed form spares the automatic one."""
    if gradient is None:
        both = value_and_gradient(potential)
        return Field(vmap(potential), lambda x: both(x)[1], both)
    value, closed = vmap(potential), gradient
    return Field(value, closed, lambda x: (value(x), closed(x)))


def hmc_init(field: Field, position: Tree) -> State:
    """Give the state at a position: the point, its potential ``[C]`` and its gradient."""
    count = counter(position)
    value, grads = field.both(position)
    return {"position": dict(position), "gradient": grads, "potential": {"value": value}, "step": {"count": count}}


def hmc_transition(
    field: Field,
    state: State,
    keys: Tensor,
    *,
    step_size: Tensor,
    steps: int,
    metric: Metric,
    temperature: float,
    jitter: float,
) -> tuple[State, HMCInfo]:
    """Make one transition with the randomness of ``keys [C]`` and a step size a chain ``[C]``, before its jitter.

    The trajectory's step is ``e (1 + j u)``, ``u`` uniform in [-1, 1): no length then falls on a period of the target.
    """
    position, old = state["position"], state["potential"]["value"]
    x, force = ravel(position), ravel(state["gradient"])
    p = metric.momentum(normals(keys, x.shape[-1], x.dtype)) * temperature**0.5

    def gradient(flat: Tensor) -> Tensor:
        return ravel(field.gradient(unravel(flat, position)))

    _, chance, shake = uniforms(folds(keys, 3), 1).squeeze(-1).unbind(-1)
    if jitter:
        step_size = step_size * (1.0 + jitter * (2.0 * shake - 1.0))
    size = step_size.to(x.dtype).unsqueeze(-1)
    x_new, p_new, force_new = leapfrog(gradient, metric.velocity, x, p, force, step_size=size, steps=steps)
    new = field.value(unravel(x_new, position))
    before = (old + _kinetic(metric, p)) / temperature
    after = (new + _kinetic(metric, p_new)) / temperature
    error = torch.nan_to_num((after - before).double(), nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
    acceptance = (-error).clamp(max=0.0).exp()
    accepted = chance < acceptance
    row = accepted.unsqueeze(-1)
    state = {
        "position": unravel(torch.where(row, x_new, x), position),
        "gradient": unravel(torch.where(row, force_new, force), position),
        "potential": {"value": torch.where(accepted, new, old)},
        "step": {"count": state["step"]["count"] + 1},
    }
    energy = torch.where(accepted, after, before)
    return state, HMCInfo(acceptance, accepted, energy, error > DIVERGENCE, step_size)


def _kinetic(metric: Metric, momentum: Tensor) -> Tensor:
    return 0.5 * (momentum * metric.velocity(momentum)).sum(-1)


def hmc(
    potential: Potential,
    *,
    gradient: Gradient | None = None,
    step_size: float | Tensor,
    steps: int = 10,
    metric: Metric | None = None,
    temperature: float = 1.0,
    jitter: float = 0.2,
) -> Kernel:
    """Sample ``exp(-U / T)`` exactly: ``p ~ N(0, T M)``, a leapfrog trajectory, accepted with ``min(1, exp(-dH / T))``.

    Args:
        potential: ``U`` of one point.
        gradient: ``dU`` of stacked points, where it is known in closed form.
        step_size: e of the leapfrog, positive, a float or ``[C]``; see
            :func:`~fedmomentum.samplers.adaptation.window_adaptation` for one that is found.
        steps: leapfrog steps a trajectory.
        metric: the mass matrix; the identity when None.
        temperature: T, positive.
        jitter: the relative spread of the step size from one trajectory to the next, in [0, 1).

    Raises:
        ValueError: a number is out of its range.

    Source: Duane et al. 1987; Neal, arXiv:1206.1901.
    """
    if steps < 1 or temperature <= 0 or not 0 <= jitter < 1 or bool((torch.as_tensor(step_size) <= 0).any()):
        raise ValueError("need step_size > 0, steps >= 1, temperature > 0 and jitter in [0, 1)")
    field = field_of(potential, gradient)

    def step(generator: torch.Generator, state: State) -> tuple[State, HMCInfo]:
        count = state["step"]["count"]
        like = next(iter(state["position"].values()))
        keys = chain_keys(generator, len(count), count.device)
        base = torch.as_tensor(step_size, dtype=torch.float64, device=count.device).expand(count.shape)
        return hmc_transition(
            field,
            state,
            keys,
            step_size=base,
            steps=steps,
            metric=metric or Diagonal(torch.ones((), dtype=like.dtype, device=like.device)),
            temperature=temperature,
            jitter=jitter,
        )

    return Kernel(lambda position: hmc_init(field, position), step)
