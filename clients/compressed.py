"""Client halves that send a compressed gradient in place of a model: QLSD."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmomentum.clients.local import LocalUpdate, Place, scaled
from fedmomentum.optim.rule import Rule
from fedmomentum.protocol import ARRAYS, MASK_KEY, REFERENCE, VALUES
from fedmomentum.samplers.noise import fold
from fedmomentum.samplers.ravel import ravel
from fedmomentum.samplers.sparse import kept_coordinates, kept_count
from fedmomentum.trees import State, Tree, add, sub, zeros_like

_GRADIENT = "gradient"
_MASKS = 7
"""Folds a client's key into that of its mask: its noise, if it has any, is another stream."""


def qlsd(rule: Rule, *, keep: float = 0.1, star: bool = False) -> LocalUpdate:
    """Give a client that stays where the server is and sends some random coordinates of its gradient, ``C(g_i(x))``.

    ``C(v)`` has a share ``keep`` of the coordinates of ``v``, divided by it, so that ``E C(v) = v`` and the variance of
    each is ``(1 / keep - 1) v^2``. The message is the numbers and the key that says which they are. The client's steps
    average the gradients of so many minibatches.

    Args:
        rule: not used: the server moves.
        keep: share of the coordinates that is sent, in (0, 1].
        star: send ``C(g_i(x) - g_i(x*))`` with the reference point ``x*`` that the server sends (QLSD*); the two
            gradients are those of one minibatch.

    Raises:
        ValueError: ``keep`` is out of range.

    Reference: arXiv:2106.00797.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], not {keep}")

    def init(params: Mapping[str, Tensor], /) -> State:
        return {_GRADIENT: zeros_like(params)}

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        return zeros_like(params), {_GRADIENT: add(state[_GRADIENT], grads)}

    def begin(params: Tree, state: State, place: Place) -> tuple[Tree, State]:
        return params, {_GRADIENT: zeros_like(params)}

    def direction(grads: Tree, params: Tree, place: Place) -> Tree:
        assert place.gradient is not None
        return sub(grads, place.gradient(place.shared[REFERENCE]))

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        key = torch.as_tensor(place.key, dtype=torch.int64)
        steps = torch.as_tensor(place.steps, dtype=torch.float64)
        flat = ravel(scaled(state[_GRADIENT], 1.0 / steps), leading=key.ndim)
        mask = fold(key, _MASKS)
        size = flat.shape[-1]
        chosen = kept_coordinates(mask, size, keep=keep)
        values = flat.gather(-1, chosen) * (size / kept_count(size, keep=keep))
        return {ARRAYS: {VALUES: values, MASK_KEY: mask}}, {}

    return LocalUpdate(
        Rule(init, update),
        begin=begin,
        direction=direction if star else None,
        finish=finish,
        compressed=True,
    )
