"""Federated averaging Langevin dynamics: local Langevin steps, averaged. arXiv:2112.05120."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from fedmomentum.strategies.sampling import Sampling


@dataclass(eq=False, repr=False)
class FALD(Sampling):
    """``x <- sum_c p_c y_c`` of clients that take K Langevin steps each, with noise that is partly shared.

    The law of ``x`` is off the target by the drift of the clients, which grows with ``lr (K - 1)``, and by ``lr``
    itself: on quadratics :func:`fedmomentum.samplers.federated.fald_moments` says by how much.

    Args:
        correlation: rho in [0, 1]: how much of their noise the clients share.

    Raises:
        ValueError: an argument is out of range.

    Replies are weighed by their examples where ``examples`` is given. Reference: arXiv:2112.05120.
    """

    _: KW_ONLY
    correlation: float = 0.0

    client_method: ClassVar[str] = "fald"

    def __post_init__(self) -> None:
        """Check the arguments, and weigh replies by what ``p_c`` says."""
        super().__post_init__()
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation must be in [0, 1], not {self.correlation}")
        self.weighting = "uniform" if self.examples is None else "examples"

    def client_options(self) -> dict[str, Any]:
        """Give what the noise is made of."""
        return {**super().client_options(), "correlation": self.correlation}
