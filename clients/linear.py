"""The inputs of many examples, and the two products that a round takes with all of them, on a CPU through oneDNN.

Torch's own products of float32 matrices are MKL's: on the AMD processor of docs/performance.md oneDNN, which torch has
built in and uses for convolutions, is a tenth to a sixth faster for wide layers, and twice as fast for ten outputs.
Where a layer has few outputs and the same inputs come round after round, it pays to lay them out once as oneDNN reads
them: a sixth off for ten outputs (``python -m benchmarks.vectorize products``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Inputs(Protocol):
    """Inputs ``X`` of R examples."""

    rows: int
    device: torch.device

    def outputs(self, weight_UD: Tensor, bias_U: Tensor | None) -> Tensor:
        """Give ``W X^T + b``, the outputs of a layer, ``[U, R]`` in any memory layout."""

    def total(self, rows_UR: Tensor) -> Tensor:
        """Give ``A X``, inputs added up with weights, ``[U, D]``."""


class Plain:
    """Inputs as they lie in memory."""

    def __init__(self, x_RD: Tensor) -> None:
        """Take them."""
        self.x_RD, self.rows, self.device = x_RD, len(x_RD), x_RD.device

    def outputs(self, weight_UD: Tensor, bias_U: Tensor | None) -> Tensor:
        """Take the product the other way round, which is the faster one."""
        return linear(self.x_RD, weight_UD, bias_U).T

    def total(self, rows_UR: Tensor) -> Tensor:
        """Take the product."""
        return linear(rows_UR, self.x_RD.T)


class Packed:
    """A copy of inputs for each of the products, laid out as oneDNN reads it: in turns of as many as a register holds.

    So it computes with all lanes of its registers, where a product with rows of ten outputs fills ten of sixteen.
    """

    def __init__(self, x_RD: Tensor, units: int) -> None:
        """Copy them, for a layer of so many outputs; only where :func:`packs` says so."""
        self.rows, self.device = len(x_RD), x_RD.device
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self._for_outputs, self._for_total = reorder(x_RD, units), reorder(x_RD.T.contiguous(), units)

    def outputs(self, weight_UD: Tensor, bias_U: Tensor | None) -> Tensor:
        """Take the product, and add."""
        outputs_UR = linear(weight_UD, self._for_outputs)
        return outputs_UR if bias_U is None else outputs_UR.add_(bias_U.unsqueeze(1))

    def total(self, rows_UR: Tensor) -> Tensor:
        """Take the product."""
        return linear(rows_UR, self._for_total)


def packs(x: Tensor) -> bool:
    """Say whether inputs can be laid out for oneDNN here."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and _onednn() is not None and _packing()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Give ``x W^T + b``, to float tolerance what ``torch.nn.functional.linear`` gives; without gradients."""
    product = _onednn() if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 else None
    if product is None:
        return F.linear(x, weight, bias)
    return product(x, weight, bias, "none", [], "")


@cache
def _onednn() -> Callable[..., Tensor] | None:
    """Find the product that torch's compiler calls; builds without oneDNN have none, some may want other arguments."""
    try:
        product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        product(torch.ones(1, 1), torch.ones(1, 1), None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    return product


@cache
def _packing() -> bool:
    try:
        Packed(torch.ones(2, 3), 1).outputs(torch.ones(1, 3), None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
