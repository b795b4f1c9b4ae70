"""Federated averaging of clients that are held near the global model. arXiv:1812.06127."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from fedmomentum.strategies.fedavg import FedAvg


@dataclass(eq=False, repr=False)
class FedProx(FedAvg):
    """The server half of FedProx is federated averaging; clients descend ``f_i(y) + mu/2 |y - x|^2``.

    Args:
        proximal_mu: ``mu``, at least 0; 0 is FedAvg.

    Raises:
        ValueError: an argument is out of range.

    Reference: arXiv:1812.06127.
    """

    _: KW_ONLY
    proximal_mu: float = 0.01

    client_method: ClassVar[str] = "fedprox"

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.proximal_mu >= 0:
            raise ValueError(f"proximal_mu must be at least 0, not {self.proximal_mu}")

    def client_options(self) -> dict[str, Any]:
        """Give ``mu``."""
        return {"mu": self.proximal_mu}
