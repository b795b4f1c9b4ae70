"""A strategy that carries named trees from round to round: a momentum, a control variate, another iterate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmomentum.strategies.fedavg import FedAvg
from fedmomentum.trees import State, Tree


@dataclass(eq=False, repr=False)
class Carrying(FedAvg):
    """Federated averaging with trees that live on; all of them are saved, and a new run begins without any."""

    def __post_init__(self) -> None:
        """Begin with nothing."""
        super().__post_init__()
        self._carried: State = {}

    def carried(self, name: str, like: Mapping[str, Tensor]) -> Tree:
        """Give a tree by name; one that was never set is zero, in the layout given."""
        return self._carried.get(name) or {key: torch.zeros_like(x) for key, x in like.items()}

    def carry(self, name: str, tree: Tree) -> None:
        """Keep a tree for the rounds to come."""
        self._carried[name] = tree

    def reset(self) -> None:
        """Forget every round."""
        super().reset()
        self._carried = {}

    def server_state(self) -> dict[str, Any]:
        """Give all that is carried, by name."""
        return {name: dict(tree) for name, tree in self._carried.items()}

    def load_server_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`server_state` gave."""
        self._carried = {name: {key: x.clone() for key, x in tree.items()} for name, tree in state.items()}
