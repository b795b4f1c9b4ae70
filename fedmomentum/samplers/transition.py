"""One transition of flat chains: its randomness, its trajectory, and which end of it the chain is left at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedmomentum.samplers.fields import Field
from fedmomentum.samplers.leapfrog import Time, leapfrog
from fedmomentum.samplers.metric import Metric
from fedmomentum.samplers.noise import folds, normals, step_keys, uniforms
from fedmomentum.samplers.ravel import ravel, unravel
from fedmomentum.trees import State


class Luck(NamedTuple):
    """All that is random in T transitions of C chains, drawn at once: every number is a function of its step and chain.

    Args:
        normals: for momenta ``[T, C, P]``.
        patience: ``-log u`` ``[T, C]``: the energy error, in temperatures, below which a proposal is accepted.
        shake: uniform in [-1, 1), for the jitter of the step size; one a transition.
        share: uniform in [0, 1), for the number of leapfrog steps; one a transition.
    """

    normals: Tensor
    patience: Tensor
    shake: list[float]
    share: list[float]

    @classmethod
    def draw(cls, keys: Sequence[int], like: Tensor) -> Luck:
        """Draw for a key a transition and flat chains ``[C, P]``."""
        own = step_keys(keys, len(like), like.device)
        share, chance, shake = uniforms(folds(own, 3), 1).squeeze(-1).unbind(-1)
        # trajectories of all chains are alike, by the first one's numbers: they do not depend on how many there are
        return cls(
            _aligned(normals(own, like.shape[-1], like.dtype)),
            chance.log().neg_(),
            shake[:, 0].mul(2.0).sub_(1.0).tolist(),
            share[:, 0].tolist(),
        )

    def number(self, at: int, most: int) -> int:
        """Give a number of leapfrog steps, uniform in 1, ..., ``most``."""
        return 1 + int(self.share[at] * most)


def _aligned(rows: Tensor) -> Tensor:
    """Lay rows ``[T, C, P]`` out so that each is as one that was allocated alone: at 64 bytes, without gaps.

    Products of matrices may round differently elsewhere, and then draws would depend on how many are made at once.
    """
    flat = rows.flatten(1)
    wide = -(-flat.shape[1] // 16) * 16
    return rows.new_empty(len(rows), wide)[:, : flat.shape[1]].copy_(flat).view(rows.shape)


class Point(NamedTuple):
    """Where flat chains are: ``x [C, P]``, ``dU [C, P]`` and ``U [C]`` there."""

    position: Tensor
    force: Tensor
    value: Tensor

    @classmethod
    def of(cls, state: State) -> Point:
        """Take the point out of a state."""
        return cls(ravel(state["position"]), ravel(state["gradient"]), state["potential"]["value"])

    def state(self, like: Mapping[str, Tensor], count: Tensor) -> State:
        """Give the state of a kernel at this point."""
        return {
            "position": unravel(self.position, like),
            "gradient": unravel(self.force, like),
            "potential": {"value": self.value},
            "step": {"count": count},
        }


class Proposal(NamedTuple):
    """The end of a trajectory, taken or not.

    Args:
        position: x there ``[C, P]``.
        velocity: ``M^-1 p`` there ``[C, P]``.
        before: the energy where it began ``[C]``.
        after: the energy there ``[C]``.
        error: their difference.
        accepted: whether it was taken.
    """

    position: Tensor
    velocity: Tensor
    before: Tensor
    after: Tensor
    error: Tensor
    accepted: Tensor


class Flow(NamedTuple):
    """A field on flat chains ``[C, P]``: what trajectories follow."""

    gradient: Callable[[Tensor], Tensor]
    both: Callable[[Tensor], tuple[Tensor, Tensor]]


def flow_of(field: Field, like: Mapping[str, Tensor]) -> Flow:
    """Give the field on flat chains; a lone vector goes through as it is."""
    if len(like) == 1 and next(iter(like.values())).ndim == 2:
        (name,) = like

        def alone(flat: Tensor) -> tuple[Tensor, Tensor]:
            value, grads = field.both({name: flat})
            return value, grads[name]

        return Flow(lambda flat: field.gradient({name: flat})[name], alone)

    def both(flat: Tensor) -> tuple[Tensor, Tensor]:
        value, grads = field.both(unravel(flat, like))
        return value, ravel(grads)

    return Flow(lambda flat: ravel(field.gradient(unravel(flat, like))), both)


def transition(
    flow: Flow,
    point: Point,
    noise: Tensor,
    heat: Tensor,
    patience: Tensor,
    *,
    step_size: Time,
    steps: int,
    metric: Metric,
) -> tuple[Point, Proposal]:
    """Make one transition of flat chains.

    Args:
        flow: the potential.
        point: where the chains are.
        noise: ``sqrt(T) xi``, the momenta where the mass is 1 ``[C, P]``.
        heat: their kinetic energy ``T |xi|^2 / 2`` ``[C]``.
        patience: the energy error below which a proposal is accepted, ``-T log u`` ``[C]``.
        step_size: of the leapfrog, jitter included; ``[C, 1]`` where chains differ.
        steps: how many.
        metric: the mass matrix.
    """
    found: list[Tensor] = []

    def last(x: Tensor) -> Tensor:
        value, force = flow.both(x)
        found.append(value)
        return force

    x, p, force = leapfrog(
        flow.gradient,
        metric.drift,
        point.position,
        metric.momentum(noise),
        point.force,
        step_size=step_size,
        steps=steps,
        last=last,
    )
    value, velocity = found[0], metric.velocity(p)
    before = point.value + heat
    after = torch.add(value, torch.linalg.vecdot(p, velocity), alpha=0.5)
    error = after - before
    accepted = error < patience  # not where it is not a number
    row = accepted.unsqueeze(-1)
    point = Point(
        torch.where(row, x, point.position),
        torch.where(row, force, point.force),
        torch.where(accepted, value, point.value),
    )
    return point, Proposal(x, velocity, before, after, error, accepted)


def common(step_size: float | Tensor) -> float | Tensor:
    """Give a step size ``[C]`` as a float where all chains have the same: products with a number cost least."""
    if isinstance(step_size, Tensor) and step_size.numel() and bool((step_size == step_size.flatten()[0]).all()):
        return float(step_size.flatten()[0])
    return step_size


def times(step_size: float | Tensor, scale: float, like: Tensor) -> Time:
    """Give what a trajectory takes, ``scale`` times the step size of each chain, for flat chains like these."""
    if isinstance(step_size, Tensor):
        return (step_size * scale).to(like).unsqueeze(-1)
    return step_size * scale


def acceptance_of(error: Tensor, temperature: float) -> Tensor:
    """Give the Metropolis probability ``min(1, exp(-dH / T))``, float64; 0 where the error is not a number."""
    found = (error.double() / temperature).nan_to_num_(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return found.clamp_(min=0.0).neg_().exp_()
