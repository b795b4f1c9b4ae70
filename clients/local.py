"""How a client turns the global model and its data into a reply: pure functions over trees with any leading axes.

The trainer owns batches, stacking, loops and devices; what stands here is written once for one client ``[*shape]`` and
for K stacked ones ``[K, *shape]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor

from fedmomentum.optim.rule import Rule
from fedmomentum.trees import State, Tree, sub


@dataclass(frozen=True)
class Place:
    """What a client knows besides its own parameters and gradient.

    Args:
        anchor: the global model that the round started from, ``x``.
        shared: further trees that the server sent along, by name (a server momentum, a control variate).
        memory: what this client kept from the last round it took part in.
        gradient: the minibatch gradient at any other point, for methods that need it (Mime asks for it at ``x``).
    """

    anchor: Tree
    shared: Mapping[str, Tree] = field(default_factory=dict)
    memory: State = field(default_factory=dict)
    gradient: Callable[[Tree], Tree] | None = None


class Direction(Protocol):
    """Give the gradient that the rule is to see, from the minibatch gradient at the client's parameters ``y``."""

    def __call__(self, grads: Tree, params: Tree, place: Place) -> Tree: ...  # noqa: D102


class Finish(Protocol):
    """Give what a client sends beside its model, by name, and what it keeps, once its ``steps`` are done."""

    def __call__(  # noqa: D102
        self, params: Tree, place: Place, steps: int | Tensor, lr: float
    ) -> tuple[dict[str, Tree], State]: ...


class LocalUpdate(NamedTuple):
    """A client half: a rule, the direction it is fed, and what is left at the end.

    ``y <- y + rule(direction(g(y), y, place))`` for every minibatch gradient ``g(y)``.
    """

    rule: Rule
    direction: Direction | None = None
    finish: Finish | None = None
    remember: Callable[[Tree], State] | None = None
    """The memory of a client that never took part, from the global model; needed where ``finish`` keeps something."""


def local_sgd(rule: Rule) -> LocalUpdate:
    """Give plain local training by any rule: ``y <- y + rule(g(y))``. arXiv:1602.05629."""
    return LocalUpdate(rule)


def fedprox(rule: Rule, *, mu: float) -> LocalUpdate:
    """Give local training with a proximal term: the rule sees ``g(y) + mu (y - x)``; ``mu >= 0``. arXiv:1812.06127."""
    if mu < 0:
        raise ValueError(f"mu must not be negative, not {mu}")

    def direction(grads: Tree, params: Tree, place: Place) -> Tree:
        pull = sub(params, place.anchor)
        return {name: g + mu * pull[name] for name, g in grads.items()}

    return LocalUpdate(rule, direction=direction)


LOCAL_UPDATES: dict[str, Callable[..., LocalUpdate]] = {"local_sgd": local_sgd, "fedprox": fedprox}
"""Client halves by name; each takes the client's rule and its own keyword options."""
