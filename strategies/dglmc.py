"""Distributed Gibbs sampling by Langevin steps: each client has a variable of its own, tied to the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedmomentum.protocol import FRESH
from fedmomentum.strategies.sampling import Sampling, server_noise
from fedmomentum.trees import Tree

_SUM, _COUNT = "sum", "count"


@dataclass(eq=False, repr=False)
class DGLMC(Sampling):
    """``x ~ N(mean z_i, rho / N)`` given the variables ``z_i`` that clients keep and move by Langevin steps.

    Clients that are not in the cohort keep their ``z_i``; the mean is over all that have taken part so far. With exact
    clients the law of ``x`` has precision ``sum_i 1 / (T / (p_i h_i) + rho)`` on quadratics: the tie widens it.

    Args:
        tolerance: ``rho``, the variance of the tie, in units of the parameters squared; small is exact and slow.

    Raises:
        ValueError: an argument is out of range.

    Reference: arXiv:2106.06300.
    """

    _: KW_ONLY
    tolerance: float = 1e-2

    client_method: ClassVar[str] = "dglmc"
    sends_models: ClassVar[bool] = False
    counts_replies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if not self.tolerance > 0 or not self.temperature > 0:
            raise ValueError(f"tolerance and temperature must be above 0, not {self.tolerance} and {self.temperature}")

    def client_options(self) -> dict[str, Any]:
        """Give temperature, examples and the tie."""
        return {**super().client_options(), "tolerance": self.tolerance}

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect of each client whether its variable is new."""
        return {FRESH: {"count": torch.zeros((), dtype=torch.float64)}}

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Add what the variables changed by to their sum, and draw the model."""
        wide = {name: x.double() for name, x in old.items()}
        total = {name: x + self.accepted * mean[name].double() for name, x in self.carried(_SUM, wide).items()}
        one = {_COUNT: torch.zeros((), dtype=torch.float64)}
        number = self.carried(_COUNT, one)[_COUNT] + self.accepted * extras[FRESH]["count"].double()
        self.carry(_SUM, total)
        self.carry(_COUNT, {_COUNT: number.round()})
        noise = server_noise(wide, seed=self.seed, server_round=self.round)
        spread = math.sqrt(self.tolerance / float(number))
        return {name: x / number + spread * noise[name] for name, x in total.items()}
