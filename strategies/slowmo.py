"""Slow momentum: a heavy ball over rounds whose step is measured in the clients' learning rate. arXiv:1910.00643."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class SlowMo(Carrying):
    """``u <- beta u + (x - mean(y)) / gamma``, ``x <- x - alpha gamma u``, with the clients' learning rate ``gamma``.

    As long as ``gamma`` stays the same it is FedAvgM with ``eta = alpha``. Where it falls from round to round the slow
    momentum, kept in units of gradients, falls with it.

    Args:
        slow_learning_rate: ``alpha``, above 0.
        slow_momentum: ``beta``, per round, in [0, 1).

    Raises:
        ValueError: an argument is out of range.

    Clients report ``lr``. Reference: arXiv:1910.00643.
    """

    _: KW_ONLY
    slow_learning_rate: float = 1.0
    slow_momentum: float = 0.7

    needs_metrics: ClassVar[tuple[str, ...]] = ("lr",)

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.slow_learning_rate > 0:
            raise ValueError(f"slow_learning_rate must be above 0, not {self.slow_learning_rate}")
        if not 0 <= self.slow_momentum < 1:
            raise ValueError(f"slow_momentum must be in [0, 1), not {self.slow_momentum}")

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one slow step."""
        gamma = self.client_mean("lr")
        before = self.carried("momentum", old)
        u = {name: self.slow_momentum * before[name] + (x - mean[name]) / gamma for name, x in old.items()}
        self.carry("momentum", u)
        return {name: x - self.slow_learning_rate * gamma * u[name] for name, x in old.items()}
