"""The seam that everything shares: a momentum rule is a pair of pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from fedmomentum.trees import State, Tree


class Init(Protocol):
    """Give the state of a rule for a tree of parameters."""

    def __call__(self, params: Mapping[str, Tensor]) -> State: ...  # noqa: D102


class Update(Protocol):
    """Give the additive updates for one tree of gradients, and the next state."""

    def __call__(self, grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor]) -> tuple[Tree, State]: ...  # noqa: D102, E501


class Rule(NamedTuple):
    """A momentum or adaptive rule: ``updates, state = rule.update(grads, state, params)``; ``params + updates`` follows.

    Rules descend: a server hands them the pseudo-gradient ``old - mean(new)``. They work element by element, so one
    implementation serves one model ``[*shape]`` and K stacked clients ``[K, *shape]``. State is never changed in
    place. A slot that holds one number per model (``state["step"]["count"]``) has the leading axes as its shape.
    """

    init: Init
    update: Update
