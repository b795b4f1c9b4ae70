"""Federated learning with dynamic regularisation. arXiv:2111.04263."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

from fedmomentum.strategies.carried import Carrying
from fedmomentum.trees import Tree

_H = "h"


@dataclass(eq=False, repr=False)
class FedDyn(Carrying):
    """``h <- h - alpha (|S| / N) (mean(y) - x)``, ``x <- mean(y) - h / alpha`` for ``S`` of the ``N`` clients.

    Clients descend ``f_i(y) - <g_i, y> + alpha/2 |y - x|^2`` and keep their ``g_i``, so where nothing moves any more
    the mean of the clients' gradients is zero. The paper lets them solve that problem; here they work on it for their
    steps, which leaves the fixed point where it is.

    Args:
        alpha: strength of the regulariser, above 0, in units of curvature.

    Raises:
        ValueError: an argument is out of range.

    Reference: arXiv:2111.04263.
    """

    _: KW_ONLY
    alpha: float = 0.1
    weighting: Literal["examples", "uniform"] = "uniform"

    client_method: ClassVar[str] = "feddyn"
    counts_replies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, not {self.alpha}")

    def client_options(self) -> dict[str, Any]:
        """Give ``alpha``."""
        return {"alpha": self.alpha}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Move ``h``, then the model."""
        share, before = self.accepted / self.population, self.carried(_H, old)
        h = {name: before[name] - self.alpha * share * (mean[name] - x) for name, x in old.items()}
        self.carry(_H, h)
        return {name: y - h[name] / self.alpha for name, y in mean.items()}
