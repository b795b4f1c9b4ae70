"""Double momentum: clients with momentum of their own that also walk along the server's. arXiv:2102.03970."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from torch import Tensor

from fedmomentum.protocol import MOMENTUM
from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class DOMO(Carrying):
    """``m <- beta m + D / (lr K)``, ``x <- x - alpha lr K m``, with what clients' momentum steps add up to as ``D``.

    Clients start from ``x - fusion lr K m``, or with ``spread`` (DOMO-S) take a share of that with every step; either
    way it is no part of what they send. With ``fusion = 0`` it is FedAvgM over clients with momentum.

    Args:
        server_learning_rate: ``alpha``, above 0.
        server_momentum: ``beta``, per round, in [0, 1).
        fusion: how far clients walk along the server's momentum, at least 0.
        spread: see above.

    Raises:
        ValueError: an argument is out of range.

    The server sends ``m``, where the paper's clients find it from two models. Clients report ``lr`` and ``steps``.
    Reference: arXiv:2102.03970.
    """

    _: KW_ONLY
    server_learning_rate: float = 1.0
    server_momentum: float = 0.9
    fusion: float = 0.9
    spread: bool = False

    client_method: ClassVar[str] = "domo"
    sends_models: ClassVar[bool] = False
    needs_metrics: ClassVar[tuple[str, ...]] = ("lr", "steps")

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.server_learning_rate > 0:
            raise ValueError(f"server_learning_rate must be above 0, not {self.server_learning_rate}")
        if not 0 <= self.server_momentum < 1:
            raise ValueError(f"server_momentum must be in [0, 1), not {self.server_momentum}")
        if not self.fusion >= 0:
            raise ValueError(f"fusion must be at least 0, not {self.fusion}")

    def client_options(self) -> dict[str, Any]:
        """Give how clients walk along the momentum."""
        return {"fusion": self.fusion, "spread": self.spread}

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send the momentum."""
        return {MOMENTUM: self.carried(MOMENTUM, params)}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one step."""
        length = self.client_mean("lr", "steps")
        before = self.carried(MOMENTUM, old)
        m = {name: self.server_momentum * before[name] + (x - mean[name]) / length for name, x in old.items()}
        self.carry(MOMENTUM, m)
        return {name: x - self.server_learning_rate * length * m[name] for name, x in old.items()}
