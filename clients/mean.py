"""The running weighted mean of the models of a block: a fixed order, no model kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedmomentum.clients.shelf import RESIDENT, Shelf, rest
from fedmomentum.trees import Tree, cast_like, same_layout

_CHUNK = 1 << 16
"""Numbers at a time: what is made on the way stays in the processor's cache."""


class RunningMean:
    """Accumulate ``sum_i w_i x_i`` in float64 in the order of the calls, and give ``sum_i w_i x_i / sum_i w_i``."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.weight = 0.0
        self._sums: Tree = {}
        self._dtypes: Tree = {}
        self._alone: tuple[Mapping[str, Tensor], float] | None = None

    def add(self, tree: Mapping[str, Tensor], weight: float) -> None:
        """Add one model with its weight."""
        self._begin(tree)
        for name, total in self._sums.items():
            total.add_(tree[name].detach(), alpha=weight)
        self.weight += weight

    def add_stacked(
        self, tree: Mapping[str, Tensor], weights: Sequence[float], means: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add K stacked models ``[K, *shape]`` with K weights; of some tensors their mean is all there is."""
        means = means or {}
        weight, first = math.fsum(weights), not self._dtypes
        stacked = {name: x.detach() for name, x in tree.items() if name not in means}
        self._begin({name: x[0] for name, x in stacked.items()}, {} if first else means)
        for name, x in stacked.items():
            total, weights_K = self._sums[name], torch.tensor(weights, dtype=torch.float64, device=x.device)
            total.add_((weights_K @ x.reshape(x.shape[0], -1).to(torch.float64)).reshape(total.shape))
        if first:  # a mean that stays alone is the mean
            self._alone = means, weight
            self._dtypes |= {name: x.new_empty(0) for name, x in means.items()}
        else:
            for name, x in means.items():
                self._sums[name].add_(x, alpha=weight)
        self.weight += weight

    def _begin(self, *trees: Mapping[str, Tensor]) -> None:
        """Make room for sums of tensors like these, and begin it with the mean that was alone."""
        for name, x in ((name, x) for tree in trees for name, x in tree.items()):
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(x, dtype=torch.float64)
                self._dtypes[name] = x.new_empty(0)
        alone, self._alone = self._alone, None
        if alone is not None:
            for name, x in alone[0].items():
                self._sums[name].add_(x, alpha=alone[1])

    def value(self) -> Tree | None:
        """Give the mean in the dtypes of what was added, once; None where the weights sum to nothing.

        The sums go as the means come: two of a large model would not fit beside each other.
        """
        if self.weight <= 0.0:
            return None
        mean: Tree = dict(self._alone[0]) if self._alone is not None else {}
        for name in list(self._sums):
            mean[name] = cast_like(self._sums.pop(name).div_(self.weight), self._dtypes[name])
        return mean


class OffsetSum:
    """Accumulate ``sum_i w_i (x_i - origin)`` of large models, in one model's memory.

    Float32 tensors (and narrower ones) are summed in float32: what is rounded is a difference, small beside the model,
    so a mean ``origin + sum / weight`` is as good as one of float64 sums. All others are summed in float64.

    Args:
        origin: subtracted from what is added; None for zero.
        shelf: gives the sums of tensors on a CPU their place, if it has room for them; None for memory.
    """

    def __init__(self, origin: Mapping[str, Tensor] | None = None, shelf: Shelf | None = None) -> None:
        """Start with nothing."""
        self.weight = 0.0
        self._origin, self._shelf = origin, shelf
        self._sums: Tree = {}
        self._begun: set[str] = set()
        self._worked = 0

    def add(self, tree: Mapping[str, Tensor], weight: float) -> None:
        """Add one model with its weight."""
        self._begin(tree)
        for name, total in self._sums.items():
            self._add(name, total, tree[name].detach(), weight)
        self._rest()
        self.weight += weight

    def add_stacked(
        self, tree: Mapping[str, Tensor], weights: Sequence[float], means: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add K stacked models ``[K, *shape]`` with K weights; of some tensors their mean is all there is."""
        means = means or {}
        self._begin({name: x[0] for name, x in tree.items()} | dict(means))
        for name, total in self._sums.items():
            if name in means:
                self._add(name, total, means[name].detach(), sum(weights))
                continue
            for x, weight in zip(tree[name].detach(), weights, strict=True):
                self._add(name, total, x, weight)
        self._rest()
        self.weight += sum(weights)

    def value(self) -> Tree | None:
        """Give the sums, once; None where the weights sum to nothing."""
        sums, self._sums = self._sums, {}
        return sums if self.weight > 0.0 else None

    def _begin(self, like: Mapping[str, Tensor]) -> None:
        if self._sums:
            return
        if self._origin is not None:
            same_layout(self._origin, like)
        layout = {name: torch.empty(x.shape, dtype=_sum_dtype(x), device="meta") for name, x in like.items()}
        on_cpu = all(x.device.type == "cpu" for x in like.values())
        room = self._shelf.room(layout) if self._shelf is not None and on_cpu else None
        self._sums = room or {name: torch.empty_like(x, device=like[name].device) for name, x in layout.items()}

    def _add(self, name: str, total: Tensor, x: Tensor, weight: float) -> None:
        to, value = total.view(-1), x.reshape(-1)
        origin = None if self._origin is None else self._origin[name].reshape(-1)
        for begin in range(0, len(to), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            change = value[part].to(total.dtype)
            if origin is not None:
                change = change - origin[part].to(total.dtype)
            here = to[part] if name in self._begun else to[part].zero_()
            here.add_(change, alpha=weight)
            self._worked += change.nbytes
            if self._worked >= RESIDENT:
                self._rest()
        self._begun.add(name)

    def _rest(self) -> None:
        """Keep no more in memory of sums that lie in a file than is being worked on."""
        self._worked = 0
        if self._shelf is not None:
            rest()


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype.is_floating_point and x.element_size() <= 4 else torch.float64
