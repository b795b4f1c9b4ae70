"""The seam that everything shares: a momentum rule is a pair of pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from fedmomentum.trees import State, Tree, expand


class Init(Protocol):
    """Give the state of a rule for one model's parameters ``[*shape]``; :func:`expand_state` makes it K models'."""

    def __call__(self, params: Mapping[str, Tensor], /) -> State: ...  # noqa: D102


class Update(Protocol):
    """Give the additive updates for one tree of gradients, and the next state."""

    def __call__(  # noqa: D102
        self, grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /
    ) -> tuple[Tree, State]: ...


class Rule(NamedTuple):
    """A momentum or adaptive rule: ``updates, state = rule.update(grads, state, params)``; add the updates.

    Rules descend: a server hands them the pseudo-gradient ``old - mean(new)``. They work element by element, so one
    implementation serves one model ``[*shape]`` and K stacked clients ``[K, *shape]``. State is never changed in
    place. A slot that holds one number per model (``state["step"]["count"]``) has the leading axes as its shape.
    """

    init: Init
    update: Update


def expand_state(state: State, size: int) -> State:
    """Give the state of ``size`` equal copies of one model, stacked on a new leading axis: each slot by ``expand``.

    Example:
        >>> state = expand_state(rule.init(params), 32)  # for gradients and parameters of shape [32, *shape]
    """
    return {slot: expand(tree, size) for slot, tree in state.items()}
