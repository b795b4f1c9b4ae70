"""Weighted means of arrays, in an order of additions that is part of the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmomentum.strategies.records import Views

Accumulation: TypeAlias = Literal["wide", "native"]
"""``wide`` sums in float64 and rounds once; ``native`` sums in each tensor's own dtype, as Flower does."""

_CHUNK = 1 << 14  # numbers summed at a time: sum and product stay in the processor's cache while replies stream by


def weighted_mean(
    replies: Sequence[Mapping[str, NDArray[Any]]],
    weights: Sequence[float],
    like: Mapping[str, NDArray[Any]],
    *,
    accumulation: Accumulation = "wide",
) -> Views:
    """Give ``sum_i x_i (w_i / sum_j w_j)``, added up in the order given, in the dtypes of ``like``.

    With ``native``, and for float64 tensors with ``wide`` too, the bits are those of Flower 1.41's FedAvg. Integers
    are always summed in float64 and rounded to the nearest, so a counter stays a counter.

    Args:
        replies: named arrays in the layout of ``like``.
        weights: one number a reply, at least 0.
        like: names, shapes and dtypes of the result.  A single reply of them is given as it is: never write to it.
        accumulation: see :data:`Accumulation`.

    Raises:
        ValueError: the weights do not sum to a positive finite number.
    """
    total = sum(weights)
    if not 0.0 < total < math.inf:
        raise ValueError(f"weights must sum to a positive finite number, not {total}")
    if len(replies) == 1 and all(replies[0][name].dtype == x.dtype for name, x in like.items()):
        return {name: replies[0][name] for name in like}  # its own mean, and no copy of a large model
    factors = [weight / total for weight in weights]
    return {
        name: _mean_of([reply[name] for reply in replies], factors, x, native=accumulation == "native")
        for name, x in like.items()
    }


def _mean_of(
    values: Sequence[NDArray[Any]], factors: Sequence[float], like: NDArray[Any], *, native: bool
) -> NDArray[Any]:
    floating = like.dtype.kind == "f"
    inner = like.dtype if native and floating else np.dtype(np.float64)
    flat = [x.ravel() for x in values]
    out = np.empty(like.size, like.dtype)
    for start in range(0, like.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        sums = np.multiply(flat[0][part], factors[0], dtype=inner)
        for x, factor in zip(flat[1:], factors[1:], strict=True):
            sums += np.multiply(x[part], factor, dtype=inner)
        out[part] = sums if floating else np.rint(sums)
    return out.reshape(like.shape)
