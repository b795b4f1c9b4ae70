"""Federated stochastic gradient Langevin dynamics with conducive gradients. arXiv:2004.11231."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedmomentum.protocol import FRESH, PULL, SLOPE
from fedmomentum.strategies.sampling import Sampling
from fedmomentum.trees import Tree

_NONE: Tree = {"count": torch.zeros((), dtype=torch.float64)}


@dataclass(eq=False, repr=False)
class FSGLD(Sampling):
    """``x <- mean(y_i)`` of clients that take Langevin steps along unbiased estimates of the whole gradient.

    Gaussian surrogates of the clients' laws steer each of them towards the global one; the server keeps their sum
    ``A x - B``, and uses it once every client has one. The paper has one client a round (a cohort of 1); more of them
    share the noise, so that their mean has temperature T all the same.

    Args:
        conducive: without surrogates it is DSGLD, whose variance between clients stays.

    Raises:
        ValueError: an argument is out of range.

    Every client is chosen with equal probability, and weighed alike: what it holds scales its gradient instead.
    Reference: arXiv:2004.11231.
    """

    _: KW_ONLY
    conducive: bool = True

    client_method: ClassVar[str] = "fsgld"
    counts_replies: ClassVar[bool] = True

    @property
    def _records(self) -> tuple[str, ...]:
        return (SLOPE, PULL) if self.conducive else ()

    def client_options(self) -> dict[str, Any]:
        """Give temperature, examples, and whether there are surrogates."""
        return {**super().client_options(), "conducive": self.conducive}

    def extra_to_clients(self, params: Mapping[str, Tensor]) -> Mapping[str, Tree]:
        """Send the sum of the surrogates."""
        sums = {record: self.carried(record, params) for record in self._records}
        if self.conducive:
            sums[FRESH] = self.carried(FRESH, _NONE)
        return {**super().extra_to_clients(params), **sums}

    def extra_in_replies(self, params: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
        """Expect what each client's surrogate changed by."""
        return {record: params for record in self._records} | ({FRESH: _NONE} if self.conducive else {})

    def server_update(self, old: Tree, mean: Tree, extras: Mapping[str, Tree]) -> Tree:
        """Take the mean, and move the sum of the surrogates."""
        for record in self._records:
            before = self.carried(record, old)
            self.carry(record, {n: x + self.accepted * extras[record][n].to(x.dtype) for n, x in before.items()})
        if self.conducive:
            fitted = self.carried(FRESH, _NONE)["count"] + self.accepted * extras[FRESH]["count"]
            self.carry(FRESH, {"count": fitted.round()})
        return mean
