"""Follow a rule down a function: the one loop that every experiment shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fedmomentum.optim import Rule, expand_state
from fedmomentum.trees import State


def steps_of(
    rule: Rule, gradient: Callable[[Tensor], Tensor], start: Tensor, *, copies: int | None = None
) -> Iterator[Tensor]:
    """Give ``x_1, x_2, ...`` of ``x <- x + rule(gradient(x))`` without end.

    Args:
        rule: from :func:`fedmomentum.optim.make_rule`.
        gradient: of the points; it may draw noise.
        start: ``x_0`` of any shape.
        copies: K, where the leading axis of ``start`` counts copies whose hyperparameters are ``[K]`` tensors.
    """
    x = start
    state: State = rule.init({"x": start if copies is None else start[0]})
    if copies is not None:
        state = expand_state(state, copies)
    while True:
        point = {"x": x}
        updates, state = rule.update({"x": gradient(x)}, state, point)
        x = x + updates["x"]
        yield x


def follow(
    rule: Rule, gradient: Callable[[Tensor], Tensor], start: Tensor, steps: int, *, copies: int | None = None
) -> Tensor:
    """Give the path ``[steps + 1, *shape]`` of a rule, ``start`` included; arguments as for :func:`steps_of`."""
    out = torch.empty((steps + 1, *start.shape), dtype=start.dtype)
    out[0] = start
    for t, x in zip(range(1, steps + 1), steps_of(rule, gradient, start, copies=copies), strict=False):
        out[t] = x
    return out


def filtered(rule: Rule, gradients: Tensor) -> Tensor:
    """Give the updates ``[T, *shape]`` that a rule answers to a stream of gradients ``[T, *shape]`` with."""
    x = torch.zeros_like(gradients[0])
    state = rule.init({"x": x})
    out = torch.empty_like(gradients)
    for t, g in enumerate(gradients):
        updates, state = rule.update({"x": g}, state, {"x": x})
        out[t] = updates["x"]
    return out
