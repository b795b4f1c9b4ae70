"""A client half that samples its own posterior and sends what the global mode needs of it: FedPA."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmomentum.clients.local import LocalUpdate, Place, scaled
from fedmomentum.optim.rule import Rule
from fedmomentum.protocol import ARRAYS
from fedmomentum.samplers.federated import fedpa_deltas
from fedmomentum.trees import State, Tree, add, sub, zeros_like

_WINDOW, _SAMPLE = "fedpa", "fedpa/"


def fedpa(
    rule: Rule,
    *,
    samples: int = 5,
    burn_in: int = 0,
    burn_in_rounds: int = 0,
    shrinkage: float = 0.1,
    averaged: bool = True,
) -> LocalUpdate:
    """Give local training whose iterates are taken for draws from the client's posterior; it sends ``x - D_i``.

    ``D_i = S^-1 (x - mean)`` with the mean and the shrunk covariance ``S`` of the draws, see
    :func:`~fedmomentum.samplers.federated.fedpa_delta`. The steps after the burn-in are cut into as many windows of
    equal length as there are samples; a draw is the mean of the iterates of a window (iterate-averaged SGD, the
    paper's), or the last of them. Steps that fill no window come before the first.

    Args:
        rule: the client's; ``sgd`` as in the paper, or a sampler, whose iterates are draws by construction.
        samples: l, draws a round; one, or a shrinkage of 0, sends the mean of the iterates (FedAvg on it).
        burn_in: local steps before the first window.
        burn_in_rounds: rounds at the start in which the client sends where its steps end, as ever.
        shrinkage: rho, at least 0: how much of the covariance is used, in units of one over the learning rate's.
        averaged: see above.

    Raises:
        ValueError: a number is out of its range; in a round, a client has fewer steps than samples after the burn-in.

    Reference: arXiv:2010.05273.
    """
    if samples < 1 or burn_in < 0 or shrinkage < 0:
        raise ValueError(f"need samples >= 1, burn_in >= 0, shrinkage >= 0, not {samples}, {burn_in}, {shrinkage}")
    slots = [f"{_SAMPLE}{number}" for number in range(samples)]

    def init(params: Mapping[str, Tensor], /) -> State:
        zero = torch.zeros((), dtype=torch.int64)
        return (
            rule.init(params)
            | {_WINDOW: {"count": zero, "skip": zero, "length": zero + 1}}
            | {slot: zeros_like(params) for slot in slots}
        )

    def begin(params: Tree, state: State, place: Place) -> tuple[Tree, State]:
        steps = torch.as_tensor(place.steps, dtype=torch.int64)
        length = (steps - burn_in) // samples
        if bool((length < 1).any()):
            raise ValueError(
                f"{int(steps.min())} local steps leave no room for {samples} samples after a burn-in of {burn_in}"
            )
        window = {"count": torch.zeros_like(steps), "skip": steps - length * samples, "length": length}
        return params, state | {_WINDOW: window} | {slot: zeros_like(params) for slot in slots}

    def update(grads: Mapping[str, Tensor], state: State, params: Mapping[str, Tensor], /) -> tuple[Tree, State]:
        own = {slot: tree for slot, tree in state.items() if slot == _WINDOW or slot.startswith(_SAMPLE)}
        updates, inner = rule.update(grads, {slot: tree for slot, tree in state.items() if slot not in own}, params)
        at = own[_WINDOW]
        place = torch.div(at["count"] - at["skip"], at["length"], rounding_mode="floor")
        if averaged:
            share = 1.0 / at["length"].double()
        else:
            share = ((at["count"] - at["skip"] + 1) % at["length"] == 0).double()
        here = add(params, updates)
        for number in sorted({int(n) for n in place.flatten().tolist()} & set(range(samples))):
            slot = slots[number]
            own[slot] = add(own[slot], scaled(here, torch.where(place == number, share, 0.0)))
        own[_WINDOW] = at | {"count": at["count"] + 1}
        return updates, inner | own

    def finish(params: Tree, state: State, place: Place) -> tuple[dict[str, Tree], State]:
        if place.round <= burn_in_rounds:
            return {}, {}
        leading = state[_WINDOW]["count"].ndim
        drawn = {name: torch.stack([state[slot][name] for slot in slots], leading) for name in params}
        return {ARRAYS: sub(place.anchor, fedpa_deltas(place.anchor, drawn, rho=shrinkage, leading=leading))}, {}

    return LocalUpdate(Rule(init, update), begin=begin, finish=finish)
