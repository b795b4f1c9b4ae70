"""Client-level momentum: the last round's mean direction enters every local step. arXiv:2106.10874."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from torch import Tensor

from fedmomentum.protocol import MOMENTUM
from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class FedCM(Carrying):
    """``Delta <- mean(D_i) / (lr K)``, ``x <- x - eta mean(D_i)``; clients descend ``alpha g(y) + (1 - alpha) Delta``.

    With one local step and every client it is averaged momentum of ``beta = 1 - alpha``. ``eta`` is in units of the
    clients' own steps: the paper's server learning rate is ``eta lr K``. Where clients differ in steps or in learning
    rate, ``lr K`` is its mean.

    Args:
        alpha: weight of a client's own gradient, in (0, 1]; 1 is FedAvg.
        server_learning_rate: ``eta``, above 0.

    Raises:
        ValueError: an argument is out of range.

    Clients report ``lr`` and ``steps``. Reference: arXiv:2106.10874.
    """

    _: KW_ONLY
    alpha: float = 0.1
    server_learning_rate: float = 1.0

    client_method: ClassVar[str] = "fedcm"
    needs_metrics: ClassVar[tuple[str, ...]] = ("lr", "steps")

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], not {self.alpha}")
        if not self.server_learning_rate > 0:
            raise ValueError(f"server_learning_rate must be above 0, not {self.server_learning_rate}")

    def client_options(self) -> dict[str, Any]:
        """Give ``alpha``."""
        return {"alpha": self.alpha}

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send the mean direction."""
        return {MOMENTUM: self.carried(MOMENTUM, params)}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take the step, and keep its direction."""
        length = self.client_mean("lr", "steps")
        self.carry(MOMENTUM, {name: (x - mean[name]) / length for name, x in old.items()})
        return {name: x + self.server_learning_rate * (mean[name] - x) for name, x in old.items()}
