"""General server momentum, with FedAvg, averaged momentum and Nesterov as its corners. arXiv:2312.12670."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree


@dataclass(eq=False, repr=False)
class FedGM(Carrying):
    """``d <- beta d + (1 - beta) D``, ``x <- x - eta [(1 - nu) D + nu d]``, with ``D = x - mean(y)``.

    ``nu = 0`` is FedAvg, ``nu = 1`` FedAvgM in its averaged form, ``nu = beta`` Nesterov's momentum (with ``1 - beta``
    times the step); what lies between is the quasi-hyperbolic momentum of arXiv:1810.06801 on a server.

    Args:
        server_learning_rate: ``eta``, above 0.
        server_momentum: ``beta``, per round, in [0, 1).
        nu: weight of the momentum in the step, in [0, 1].

    Raises:
        ValueError: an argument is out of range.

    Reference: arXiv:2312.12670.
    """

    _: KW_ONLY
    server_learning_rate: float = 1.0
    server_momentum: float = 0.9
    nu: float = 0.7

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.server_learning_rate > 0:
            raise ValueError(f"server_learning_rate must be above 0, not {self.server_learning_rate}")
        if not 0 <= self.server_momentum < 1:
            raise ValueError(f"server_momentum must be in [0, 1), not {self.server_momentum}")
        if not 0 <= self.nu <= 1:
            raise ValueError(f"nu must be in [0, 1], not {self.nu}")

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take one step."""
        beta, nu, before = self.server_momentum, self.nu, self.carried("momentum", old)
        moved = {name: x - mean[name] for name, x in old.items()}
        d = {name: beta * before[name] + (1 - beta) * way for name, way in moved.items()}
        self.carry("momentum", d)
        eta = self.server_learning_rate
        return {name: x - eta * ((1 - nu) * moved[name] + nu * d[name]) for name, x in old.items()}
