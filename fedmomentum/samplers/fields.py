"""A potential of many chains at once: its gradient along a trajectory, value and gradient at the ends of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from fedmomentum.samplers.gradients import both_of
from fedmomentum.samplers.kernel import Gradient, Potential
from fedmomentum.trees import Tree


class Field(NamedTuple):
    """A potential on stacked points ``[C, *shape]``, for whoever knows it in closed form.

    Args:
        gradient: ``dU``, which is all that a trajectory needs on its way.
        both: ``U [C]`` and ``dU`` at once, for the ends of a trajectory.
        closed: neither asks torch to differentiate, so that it may leave the bookkeeping for that out (a tenth of the
            time of a small target).

    Example:
        >>> spring = Field(lambda t: {"x": 3 * t["x"]}, lambda t: (1.5 * (t["x"] ** 2).sum(-1), {"x": 3 * t["x"]}))
    """

    gradient: Gradient
    both: Callable[[Tree], tuple[Tensor, Tree]]
    closed: bool = False


def batched(potential: Callable[[Tree], Tensor]) -> Field:
    """Give the field of a potential that is written for stacked points, ``[C, *shape] -> [C]``.

    One backward pass through the sum over chains gives every chain's gradient, as long as ``U [c]`` depends on chain c
    alone; nothing is mapped, which is what costs most on small targets.

    Raises:
        ValueError: when it is called, and the potential did not give one number a chain.
    """
    both = both_of(potential)
    return Field(lambda x: both(x)[1], both)


def traced(potential: Potential) -> Field:
    """Give the field of a potential of one point, recorded at its first call and played back from then on.

    The operations of value and gradient, mapped over chains, are the same; what is spared is the mapping and the
    differentiating at every call, a half to two thirds of the time of a small target. Whatever else than the point the
    potential reads stays as it was at the first call of each layout.

    Raises:
        ValueError: when it is called, and the potential did not give one number a point.
    """
    plays: dict[tuple[Any, ...], Callable[..., tuple[Tensor, ...]]] = {}

    def both(position: Tree) -> tuple[Tensor, Tree]:
        layout = tuple((name, x.shape, x.dtype, x.device) for name, x in position.items())
        if layout not in plays:
            plays[layout] = _record(potential, position)
        value, *grads = plays[layout](*position.values())
        return value, dict(zip(position, grads, strict=True))

    return Field(lambda x: both(x)[1], both, closed=True)


def _record(potential: Potential, position: Tree) -> Callable[..., tuple[Tensor, ...]]:
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a while to import

    names = list(position)

    def at(*parts: Tensor) -> Tensor:
        found = potential(dict(zip(names, parts, strict=True)))
        if found.ndim:
            raise ValueError(f"a potential gives one number a point, not the shape {list(found.shape)}")
        return found

    def stacked(*parts: Tensor) -> tuple[Tensor, ...]:
        grads, value = vmap(grad_and_value(at, argnums=tuple(range(len(names)))))(*parts)
        return value, *grads

    with torch.inference_mode(False):
        graph = make_fx(stacked)(*(x.detach().clone() for x in position.values()))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    play: Callable[..., tuple[Tensor, ...]] = graph
    return play


def field_of(potential: Potential | Field, gradient: Gradient | None = None) -> Field:
    """Give the field of a potential of one point, mapped over chains; a gradient in closed form spares the automatic
    one.

    Raises:
        ValueError: a gradient was given beside a field, which has its own.
    """
    if isinstance(potential, Field):
        if gradient is not None:
            raise ValueError("a Field has a gradient of its own: give no other")
        return potential
    value = vmap(potential)
    if gradient is None:
        return batched(value)
    closed = gradient
    return Field(closed, lambda x: (value(x), closed(x)))
