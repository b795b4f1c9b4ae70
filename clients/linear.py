"""The inputs of many examples, and the two products that a round takes with all of them, on a CPU through oneDNN.

Torch's own products of float32 matrices are MKL's: on the AMD processor of docs/performance.md oneDNN, which torch has
built in and uses for convolutions, is a tenth to a sixth faster for wide layers, and twice as fast for ten outputs
(``python -m benchmarks.vectorize products``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


class Inputs:
    """Inputs ``X`` of R examples, as they lie in memory."""

    def __init__(self, x_RD: Tensor) -> None:
        """Take them."""
        self.x_RD, self.rows, self.device = x_RD, len(x_RD), x_RD.device

    def outputs(self, weight_UD: Tensor, bias_U: Tensor | None) -> Tensor:
        """Take the product the other way round, which is the faster one."""
        return linear(self.x_RD, weight_UD, bias_U).T

    def total(self, rows_UR: Tensor) -> Tensor:
        """Take the product."""
        return linear(rows_UR, self.x_RD.T)


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
