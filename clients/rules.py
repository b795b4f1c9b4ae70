"""The rules that a client can step by: those of optimization, and the samplers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fedmomentum.optim import make_rule
from fedmomentum.optim.rule import Rule
from fedmomentum.samplers import as_rule, rekey
from fedmomentum.trees import State

SAMPLERS = ("sgld", "sghmc", "underdamped_langevin")
"""Rules with noise: local training by one of them is a Langevin chain."""


def make_client_rule(name: str, **hyper: Any) -> Rule:
    """Make a client's rule of a name and hyperparameters: a sampler, or any of :data:`fedmomentum.optim.RULES`.

    Raises:
        UserError: there is no such rule or hyperparameter.
    """
    return as_rule(name, **hyper) if name in SAMPLERS else make_rule(name, **hyper)


def own_noise(state: State, keys: int | Tensor) -> State:
    """Give the state of a client's rule with noise of its own for this round; a rule without noise has nothing to set.

    Args:
        state: of one client, or of K stacked ones.
        keys: a number, or int64 ``[K]``.
    """
    return rekey(state, keys) if "key" in state.get("noise", {}) else state
