"""How a client turns the global model and its data into a reply: pure functions over trees with any leading axes.

The trainer owns batches, stacking, loops and devices; what stands here is written once for one client ``[*shape]`` and
for K stacked ones ``[K, *shape]``. The methods themselves are listed in :mod:`fedmomentum.clients.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from fedmomentum.optim.rule import Rule
from fedmomentum.trees import State, Tree, align


@dataclass(frozen=True)
class Place:
    """What a client knows besides its own parameters and gradient.

    Args:
        anchor: the global model that the round started from, ``x``.
        shared: further trees that the server sent along, by name (a server momentum, a control variate).
        memory: what this client kept from the last round it took part in.
        gradient: the minibatch gradient at any other point, for methods that need it (Mime asks for it at ``x``).
        steps: steps that the client takes in this round: a number, or ``[K]``.
        lr: learning rate of the client's rule in this round.
        full_gradient: the gradient of the client's whole loss at ``x``, for methods that ask for it.
        key: of the noise of this client in this round, a number or int64 ``[K]``.
        common_key: of the noise that all clients of the round share.
        examples: that the client trains on, a number or ``[K]``.
        round: of the server, from 1.
    """

    anchor: Tree
    shared: Mapping[str, Tree] = field(default_factory=dict)
    memory: State = field(default_factory=dict)
    gradient: Callable[[Tree], Tree] | None = None
    steps: int | Tensor = 1
    lr: float = 1.0
    full_gradient: Tree | None = None
    key: int | Tensor = 0
    common_key: int = 0
    examples: float | Tensor = 1.0
    round: int = 1


class Begin(Protocol):
    """Give where a client starts from, and the state of its rule, from the global model and a fresh (or kept) state."""

    def __call__(self, params: Tree, state: State, place: Place, /) -> tuple[Tree, State]: ...  # noqa: D102


class Drift(NamedTuple):
    """What a method makes of a gradient, where it is no more than ``scale g + pull (y - x) + shift``."""

    scale: float = 1.0
    pull: float = 0.0
    """Towards the global model ``x``."""
    shift: Tree | None = None


class Direction(Protocol):
    """Give the gradient that the rule is to see, from the minibatch gradient at the client's parameters ``y``."""

    def __call__(self, grads: Tree, params: Tree, place: Place, /) -> Tree: ...  # noqa: D102


class Finish(Protocol):
    """Give what a client sends, by record name, and what it keeps, from where its steps and its rule have ended.

    A record named ``arrays`` takes the place of the client's parameters in its reply (and of its buffers too, where the
    method says ``compressed``); any other travels beside them.
    """

    def __call__(self, params: Tree, state: State, place: Place, /) -> tuple[dict[str, Tree], State]: ...  # noqa: D102


class LocalUpdate(NamedTuple):
    """A client half: a rule, the direction it is fed, and what is left at the end.

    ``y <- y + rule(direction(g(y), y, place))`` for every minibatch gradient ``g(y)``.
    """

    rule: Rule
    direction: Direction | None = None
    finish: Finish | None = None
    remember: Callable[[Tree], State] | None = None
    """The memory of a client that never took part, from the global model; needed where ``finish`` keeps something."""
    begin: Begin | None = None
    full_gradient: bool = False
    """Whether ``finish`` needs the gradient of the client's whole loss at the global model."""
    by_tensor: bool = False
    """Whether ``direction``, and what the method makes of the rule, do to each tensor what they would do to it alone:
    then a large model steps tensor by tensor, and what a place holds has one tensor each."""
    compressed: bool = False
    """Whether what ``finish`` sends as ``arrays`` has a layout of its own and is the whole message."""
    drift: Callable[[Place], Drift] | None = None
    """What ``direction`` does, for a client in a place, where it is a :class:`Drift`: :func:`drifting` makes both."""

    @property
    def affine(self) -> bool:
        """Whether clients start at the global model, and their rule sees the gradient or a :class:`Drift` of it."""
        return self.begin is None and (self.direction is None or self.drift is not None)


def drifting(drift: Callable[[Place], Drift]) -> dict[str, Any]:
    """Give the fields of a :class:`LocalUpdate` whose direction is a drift."""

    def direction(grads: Tree, params: Tree, place: Place) -> Tree:
        scale, pull, shift = drift(place)
        found = grads if scale == 1.0 else {name: scale * g for name, g in grads.items()}
        if pull:
            found = {name: g + pull * (params[name] - place.anchor[name]) for name, g in found.items()}
        return found if shift is None else {name: g + shift[name] for name, g in found.items()}

    return {"direction": direction, "drift": drift, "by_tensor": True}


def local_sgd(rule: Rule) -> LocalUpdate:
    """Give plain local training by any rule: ``y <- y + rule(g(y))``. arXiv:1602.05629."""
    return LocalUpdate(rule, by_tensor=True)


def scaled(tree: Tree, factor: float | Tensor) -> Tree:
    """Give ``factor * tree`` in the tree's own dtypes; a factor ``[K]`` scales K stacked trees one by one."""
    return {n: x * align(factor.to(x.dtype) if isinstance(factor, Tensor) else factor, x) for n, x in tree.items()}
