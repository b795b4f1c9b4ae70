"""Hamiltonian Monte Carlo: momenta drawn afresh, a leapfrog trajectory, an accept or a reject that makes it exact."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from fedmomentum.samplers.fields import Field, field_of
from fedmomentum.samplers.kernel import Gradient, Kernel, Potential
from fedmomentum.samplers.metric import Diagonal, Metric
from fedmomentum.samplers.ravel import counter, unravel
from fedmomentum.samplers.transition import Luck, Point, acceptance_of, common, flow_of, times, transition
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
        steps: leapfrog steps of this trajectory, one gradient each; the same for all chains.
    """

    acceptance: Tensor
    accepted: Tensor
    energy: Tensor
    divergent: Tensor
    step_size: Tensor
    steps: Tensor


def hmc_init(field: Field, position: Tree) -> State:
    """Give the state at a position: the point, its potential ``[C]`` and its gradient."""
    count = counter(position)
    value, grads = field.both(position)
    return {"position": dict(position), "gradient": grads, "potential": {"value": value}, "step": {"count": count}}


def hmc(
    potential: Potential | Field,
    *,
    gradient: Gradient | None = None,
    step_size: float | Tensor,
    steps: int = 10,
    random_steps: bool = False,
    metric: Metric | None = None,
    temperature: float = 1.0,
    jitter: float = 0.2,
) -> Kernel:
    """Sample ``exp(-U / T)`` exactly: ``p ~ N(0, T M)``, a leapfrog trajectory, accepted with ``min(1, exp(-dH / T))``.

    Args:
        potential: ``U`` of one point, or the :class:`~fedmomentum.samplers.fields.Field` of stacked points.
        gradient: ``dU`` of stacked points, where it is known in closed form and ``potential`` is of one point.
        step_size: e of the leapfrog, positive, a float or ``[C]``; see
            :func:`~fedmomentum.samplers.adaptation.window_adaptation` for one that is found.
        steps: leapfrog steps a trajectory.
        random_steps: draw the number of steps of each transition, uniform in 1, ..., ``steps`` and the same for all
            chains. No direction then falls on a period of its own again and again.
        metric: the mass matrix; the identity when None.
        temperature: T, positive.
        jitter: j, the relative spread of the step size from one trajectory to the next, in [0, 1): it is
            ``e (1 + j u)``, ``u`` uniform in [-1, 1) and the same for all chains.

    Raises:
        ValueError: a number is out of its range.

    Source: Duane et al. 1987; Neal, arXiv:1206.1901, sections 3.2 and 5.4.2.2 (random trajectories).
    """
    if steps < 1 or temperature <= 0 or not 0 <= jitter < 1 or bool((torch.as_tensor(step_size) <= 0).any()):
        raise ValueError("need step_size > 0, steps >= 1, temperature > 0 and jitter in [0, 1)")
    field, base = field_of(potential, gradient), common(step_size)

    def scan(keys: Sequence[int], state: State) -> tuple[State, Tree, HMCInfo]:
        position, count = state["position"], state["step"]["count"]
        point, flow = Point.of(state), flow_of(field, position)
        x = point.position
        luck = Luck.draw(keys, x)
        noise = luck.normals.mul_(temperature**0.5)  # in place: its rows stay aligned
        scales = [1.0 + jitter * u for u in luck.shake]
        numbers = [luck.number(t, steps) if random_steps else steps for t in range(len(scales))]
        mass = metric or Diagonal(torch.ones((), dtype=x.dtype, device=x.device))
        rows = zip(
            noise.unbind(),
            noise.square().sum(-1).mul_(0.5).unbind(),
            luck.patience.mul(temperature).unbind(),
            scales,
            numbers,
            strict=True,
        )
        points: list[Tensor] = []
        ends: list[tuple[Tensor, ...]] = []
        with torch.inference_mode() if field.closed else nullcontext():
            for momenta, heat, patience, scale, number in rows:
                point, proposal = transition(
                    flow, point, momenta, heat, patience, step_size=times(base, scale, x), steps=number, metric=mass
                )
                points.append(point.position)
                ends.append(proposal[2:])
        point = Point(*(part.clone() for part in point))  # what was made in inference mode is not for others
        before, after, error, accepted = (torch.stack(column) for column in zip(*ends, strict=True))
        scaled = torch.tensor(scales, dtype=torch.float64, device=x.device).unsqueeze(-1).expand(error.shape)
        info = HMCInfo(
            acceptance_of(error, temperature),
            accepted,
            torch.where(accepted, after, before) / temperature,
            ~(error <= DIVERGENCE * temperature),
            scaled * torch.as_tensor(base, dtype=torch.float64, device=x.device),
            torch.tensor(numbers, device=x.device).unsqueeze(-1).expand(error.shape),
        )
        return point.state(position, count + len(points)), unravel(torch.stack(points), position), info

    def step(key: int, state: State) -> tuple[State, HMCInfo]:
        state, _, info = scan([key], state)
        return state, HMCInfo(*(x[0] for x in info))

    return Kernel(lambda position: hmc_init(field, position), step, scan)
