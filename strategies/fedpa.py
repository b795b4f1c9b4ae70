"""Federated posterior averaging: clients send what the global mode needs of their posteriors. arXiv:2010.05273."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from fedmomentum.strategies.fedavgm import FedAvgM


@dataclass(eq=False, repr=False)
class FedPA(FedAvgM):
    """A server optimizer on posterior deltas ``D_i = S_i^-1 (x - mean_i)`` in place of ``x - y_i``.

    ``mean_i`` and ``S_i`` are of the draws that a client takes from its own posterior. With exact moments the fixed
    point is the mode of the product of the clients' posteriors, which no average of their modes is.

    Args:
        samples: draws of a client, a round.
        burn_in: local steps before the first draw.
        burn_in_rounds: rounds at the start in which clients send ordinary updates (FedAvgM).
        shrinkage: rho, at least 0: how much of the covariance of the draws is used; 0 uses none of it.
        averaged: a draw is the mean of the iterates since the draw before, or the last of them.

    Raises:
        ValueError: an argument is out of range.

    The step is that of :class:`FedAvgM`. ``S_i`` is close to the identity times ``1 / (1 + (samples - 1) rho)``, so a
    server learning rate that suits FedAvgM is often too large by ``1 + (samples - 1) rho``.

    Reference: arXiv:2010.05273.
    """

    _: KW_ONLY
    samples: int = 5
    burn_in: int = 0
    burn_in_rounds: int = 0
    shrinkage: float = 0.1
    averaged: bool = True

    client_method: ClassVar[str] = "fedpa"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if self.samples < 1 or self.burn_in < 0 or self.burn_in_rounds < 0 or self.shrinkage < 0:
            raise ValueError("need samples >= 1, burn_in >= 0, burn_in_rounds >= 0 and shrinkage >= 0")

    def client_options(self) -> dict[str, Any]:
        """Give what the draws are."""
        return {
            "samples": self.samples,
            "burn_in": self.burn_in,
            "shrinkage": self.shrinkage,
            "averaged": self.averaged,
            "burn_in_rounds": self.burn_in_rounds,
        }
