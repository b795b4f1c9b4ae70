"""Accelerated federated learning with drift control: the server's momentum, spread over the local steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from torch import Tensor

from fedmomentum.protocol import MOMENTUM
from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class FedADC(Carrying):
    """``m <- D / lr + (beta_g - beta_l) m``, ``x <- x - alpha lr m``; clients descend ``g(y) + beta_l m / K``.

    What a client sends holds ``beta_l m`` once, so ``m <- (sum of gradients) + beta_g m``. With ``beta_l = 0`` it is
    FedAvgM; with one local step and every client it is the heavy ball of ``beta_g``, whatever ``beta_l``.

    Args:
        server_learning_rate: ``alpha``, above 0.
        server_momentum: ``beta_g``, per round, in [0, 1).
        local_momentum: ``beta_l``, in [0, 1); None is ``server_momentum``.

    Raises:
        ValueError: an argument is out of range.

    Clients report ``lr``. Reference: arXiv:2012.09102.
    """

    _: KW_ONLY
    server_learning_rate: float = 1.0
    server_momentum: float = 0.8
    local_momentum: float | None = None

    client_method: ClassVar[str] = "fedadc"
    needs_metrics: ClassVar[tuple[str, ...]] = ("lr",)

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.server_learning_rate > 0:
            raise ValueError(f"server_learning_rate must be above 0, not {self.server_learning_rate}")
        for name, value in (("server_momentum", self.server_momentum), ("local_momentum", self._local)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), not {value}")

    @property
    def _local(self) -> float:
        return self.server_momentum if self.local_momentum is None else self.local_momentum

    def client_options(self) -> dict[str, Any]:
        """Give ``beta_l``."""
        return {"local_momentum": self._local}

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send the momentum."""
        return {MOMENTUM: self.carried(MOMENTUM, params)}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one step."""
        lr = self.client_mean("lr")
        rest, before = self.server_momentum - self._local, self.carried(MOMENTUM, old)
        m = {name: (x - mean[name]) / lr + rest * before[name] for name, x in old.items()}
        self.carry(MOMENTUM, m)
        return {name: x - self.server_learning_rate * lr * m[name] for name, x in old.items()}
