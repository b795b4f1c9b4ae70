"""Normalised averaging: clients that take more steps do not pull harder. arXiv:2007.07481."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedmomentum.protocol import NORMALISER
from fedmomentum.strategies.fedavg import FedAvg
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class FedNova(FedAvg):
    """``x <- x - eta tau sum_i p_i D_i / a_i``, with ``tau = sum_i p_i a_i`` and ``a_i`` the gradients in ``D_i``.

    Clients send ``x - D_i / a_i`` and ``a_i``, which counts what their momentum adds. Where all ``a_i`` are equal it is
    FedAvg; where they are not, FedAvg's fixed point leans to the clients with more steps, and this one does not.

    Args:
        server_learning_rate: ``eta``, above 0.

    Raises:
        ValueError: an argument is out of range.

    Reference: arXiv:2007.07481.
    """

    _: KW_ONLY
    server_learning_rate: float = 1.0

    client_method: ClassVar[str] = "fednova"
    sends_models: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.server_learning_rate > 0:
            raise ValueError(f"server_learning_rate must be above 0, not {self.server_learning_rate}")

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect each client's ``a_i``."""
        return {NORMALISER: {"steps": torch.zeros((), dtype=torch.float64)}}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one step of the mean number of gradients."""
        factor = self.server_learning_rate * float(extras[NORMALISER]["steps"])
        return {name: x + factor * (mean[name] - x) for name, x in old.items()}
