"""Weighted means of arrays and of metrics, in an order of additions that is part of the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from flwr.app import MetricRecord
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
    flat = [np.ascontiguousarray(x).reshape(-1) for x in values]
    out = np.empty(like.size, like.dtype)
    product = np.empty(min(_CHUNK, like.size), inner)
    in_place = inner == like.dtype
    scratch = out if in_place else np.empty_like(product)
    for start in range(0, like.size, _CHUNK):
        stop = min(start + _CHUNK, like.size)
        sums = scratch[start:stop] if in_place else scratch[: stop - start]
        term = product[: stop - start]
        np.multiply(flat[0][start:stop], factors[0], out=sums, dtype=inner)
        for x, factor in zip(flat[1:], factors[1:], strict=True):
            np.multiply(x[start:stop], factor, out=term, dtype=inner)
            np.add(sums, term, out=sums)
        if not in_place:
            out[start:stop] = sums if floating else np.rint(sums)
    return out.reshape(like.shape)


def mean_metrics(reports: Sequence[tuple[float, Mapping[str, object]]], *, leave_out: str) -> MetricRecord:
    """Average each metric over the clients that report it, weighted; lists are averaged entry by entry.

    A NaN counts as not reported (a mean of NaN is left only where nobody reports a number), and so does a list whose
    length differs from the first one's. Where the weights of those who report sum to zero the mean is unweighted.

    Args:
        reports: weight and metrics of each client, in the order in which they are added up.
        leave_out: the metric that is the weight itself.
    """
    columns: dict[str, list[tuple[float, float | list[float]]]] = {}
    for weight, metrics in reports:
        for name, value in metrics.items():
            if name != leave_out and isinstance(value, int | float | list):
                columns.setdefault(name, []).append((weight, value))
    return MetricRecord({name: _mean_metric(column) for name, column in columns.items()})


def _mean_metric(column: Sequence[tuple[float, float | list[float]]]) -> float | list[float]:
    first = column[0][1]
    if isinstance(first, list):
        rows = [(weight, value) for weight, value in column if isinstance(value, list) and len(value) == len(first)]
        return [_mean_number([(weight, value[i]) for weight, value in rows]) for i in range(len(first))]
    return _mean_number([(weight, value) for weight, value in column if not isinstance(value, list)])


def _mean_number(pairs: Sequence[tuple[float, float]]) -> float:
    known = [(weight, value) for weight, value in pairs if not math.isnan(value)]
    if not known:
        return math.nan
    total = sum(weight for weight, _ in known)
    if total <= 0.0:
        return sum(value for _, value in known) / len(known)
    mean = 0.0
    for weight, value in known:  # not sum(): from Python 3.12 on it compensates, and its bits are others
        mean += value * (weight / total)
    return mean
