"""The running weighted mean of the models of a block: a wide type, a fixed order, no model kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmomentum.trees import Tree, cast_like


class RunningMean:
    """Accumulate ``sum_i w_i x_i`` in float64 in the order of the calls, and give ``sum_i w_i x_i / sum_i w_i``."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.weight = 0.0
        self._sums: Tree = {}
        self._dtypes: Tree = {}

    def add(self, tree: Mapping[str, Tensor], weight: float) -> None:
        """Add one model with its weight."""
        if not self._sums:
            self._sums = {name: torch.zeros_like(x, dtype=torch.float64) for name, x in tree.items()}
            self._dtypes = {name: x.new_empty(0) for name, x in tree.items()}
        for name, total in self._sums.items():
            total.add_(tree[name].detach(), alpha=weight)
        self.weight += weight

    def add_stacked(
        self, tree: Mapping[str, Tensor], weights_K: Tensor, means: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add K stacked models ``[K, *shape]`` with weights ``[K]``; of some tensors their mean is all there is."""
        wide_K, means = weights_K.to(torch.float64), means or {}
        weight = float(wide_K.sum())
        if not self._sums:
            whole = {name: x[0] for name, x in tree.items()} | dict(means)
            self._sums = {name: torch.zeros_like(x, dtype=torch.float64) for name, x in whole.items()}
            self._dtypes = {name: x.new_empty(0) for name, x in whole.items()}
        for name, total in self._sums.items():
            if name in means:
                total.add_(means[name], alpha=weight)
                continue
            x = tree[name].detach()
            total.add_((wide_K.to(x.device) @ x.reshape(x.shape[0], -1).to(torch.float64)).reshape(total.shape))
        self.weight += weight

    def value(self) -> Tree | None:
        """Give the mean in the dtypes of what was added, once; None where the weights sum to nothing.

        The sums go as the means come: two of a large model would not fit beside each other.
        """
        if self.weight <= 0.0:
            return None
        mean: Tree = {}
        for name in list(self._sums):
            mean[name] = cast_like(self._sums.pop(name).div_(self.weight), self._dtypes[name])
        return mean
