"""Clients with Nesterov momentum whose weights and velocities are both averaged. arXiv:2009.08716."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedmomentum.protocol import MOMENTUM
from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class FedNAG(Carrying):
    """``x <- mean(y_i)``, ``v <- mean(v_i)``: every client begins with the mean model and the mean velocity.

    The momentum is that of the clients' rule, which is ``nesterov`` in the paper; any rule with a velocity will do.

    Reference: arXiv:2009.08716.
    """

    client_method: ClassVar[str] = "fednag"

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send the mean velocity."""
        return {MOMENTUM: self.carried(MOMENTUM, params)}

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect each client's velocity."""
        return {MOMENTUM: params}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take both means."""
        self.carry(MOMENTUM, dict(extras[MOMENTUM]))
        return mean
